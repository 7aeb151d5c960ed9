"""`mlxterp graph`: what it prints and writes is the graph of the Python call."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxterp import SAECollection
from mlxterp.circuits import AttributionGraph
from mlxterp.cli import main
from tests.circuits.making import transcoder

TEXT = "Lily lost her red"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random transcoders of the demo model, in a folder."""
    return SAECollection([transcoder(layer, 192) for layer in range(4)]).save(
        tmp_path_factory.mktemp("graph") / "t"
    )


def test_a_graph_is_printed_saved_and_written_as_a_page(demo, folder, tmp_path, capsys):
    page, file = tmp_path / "g.html", tmp_path / "g.json"
    asked = [
        "graph",
        TEXT,
        "--transcoders",
        str(folder),
        "--target",
        " ball",
        "--html",
        str(page),
        "--save",
        str(file),
    ]
    assert main(asked) == 0
    printed = capsys.readouterr().out
    expected = demo.model.attribution_graph(TEXT, folder, targets=[" ball"]).prune()
    saved = AttributionGraph.load(file)
    assert [node.id for node in saved.nodes] == [node.id for node in expected.nodes]
    assert "Attribution graph of" in printed and "output ' ball'" in printed and str(page) in printed
    assert 'id="mxg-data"' in page.read_text(encoding="utf-8")


def test_what_is_there_is_not_written_over_and_bad_input_is_one_sentence(folder, tmp_path, capsys):
    file = tmp_path / "notes.json"
    file.write_text("mine", encoding="utf-8")
    for more, said in (
        (["--save", str(file)], "--overwrite"),
        (["--target", " several words"], "expected text that is exactly one"),
        (["--node-threshold", "2"], "node_threshold"),
    ):
        assert main(["graph", TEXT, "--transcoders", str(folder), *more]) == 2
        assert said in capsys.readouterr().err
    assert main(["graph", TEXT, "--transcoders", str(tmp_path / "none")]) == 2
    assert file.read_text(encoding="utf-8") == "mine"


def test_without_transcoders_those_of_the_demo_are_taken_and_another_model_needs_its_own(
    demo, tmp_path, capsys
):
    file = tmp_path / "g.json"
    assert main(["graph", TEXT, "--target", " ball", "--max-features", "20", "--save", str(file)]) == 0
    assert "Attribution graph of" in capsys.readouterr().out
    found, expected = AttributionGraph.load(file), demo.model.attribution_graph(
        TEXT, demo.transcoders, targets=" ball", max_features=20, verbose=False
    )  # fmt: skip
    assert {node.id for node in found.features} <= {node.id for node in expected.features}
    assert main(["graph", TEXT, "--model", str(tmp_path)]) == 2
    assert "--transcoders" in capsys.readouterr().err
