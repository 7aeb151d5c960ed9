"""Paths that users give."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxterp import FeatureIndex, FeatureRegistry, InputError, LocalStore
from mlxterp.concepts import Concepts
from mlxterp.core.places import beside, path_of
from mlxterp.viz.page import write_page


def test_a_path_begins_at_home_where_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path_of("~/a.html") == path_of(Path("~") / "a.html") == tmp_path / "a.html"
    assert write_page("~/a.html", "<p>") == tmp_path / "a.html" and (tmp_path / "a.html").is_file()


@pytest.mark.parametrize("given", [None, 3, b"folder", ["a"], ""])
def test_what_is_no_path_is_refused_by_whoever_takes_one(given):
    concepts = Concepts(4)
    concepts.load_concepts({1: "cat"})
    calls = (
        path_of, LocalStore, FeatureRegistry.load, FeatureRegistry().save, FeatureIndex.open, concepts.export_json,
        concepts.export_csv, lambda path: write_page(path, "<p>"),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(InputError, match="Expected the path of a file or folder, got"):
            call(given)


def test_what_stands_beside_a_path_has_its_name_and_an_ending(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert beside(Path("runs/sae"), ".run") == Path("runs/sae.run")
    assert beside(Path("."), ".run") == tmp_path.with_name(f"{tmp_path.name}.run")
    with pytest.raises(InputError, match="has no name"):
        beside(Path("/"), ".run")
