"""A graph's page: cards and labels from indexes, effects that are measured, tables without scripts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxterp import FeatureIndex, InputError, InterpretableModel, SAECollection
from mlxterp.circuits import attribution_graph
from tests.circuits.making import transcoder
from tests.circuits.test_graph import by_hand
from tests.letters import TEXTS, llama_of_mlx

PROMPT = "the cat sat on"


def read(page: Path) -> tuple[dict[str, Any], str]:
    """The data of a page, and the page."""
    text = page.read_text(encoding="utf-8")
    (data,) = re.findall(r'id="mxg-data">(.*?)</script>', text, re.DOTALL)
    return json.loads(data), text


def test_without_scripts_the_strongest_edges_and_paths_are_tables(tmp_path):
    _, page = read(by_hand().prune(1.0, 1.0).to_html(tmp_path / "g.html"))
    (plain,) = re.findall(r"<noscript>(.*?)</noscript>", page, re.DOTALL)
    assert "strongest paths" in plain and "→ L0 #7 at 0" in plain and "adds" in plain


def test_labels_pins_and_groups_of_the_graph_are_on_its_page(tmp_path):
    graph = by_hand().supernode("both", ["0_7_0", "1_3_1"]).label("1_3_1", "a </script> verb").pin("E_10_0")
    data, page = read(graph.prune(1.0, 1.0).to_html(tmp_path / "g.html"))
    (node,) = [node for node in data["nodes"] if node[0] == "1_3_1"]
    assert node[6] == "a </script> verb" and "</script> verb" not in page
    assert data["pins"] == ["E_10_0"] and data["groups"] == [["both", ["0_7_0", "1_3_1"]]]
    assert data["effects"] == {}  # there is no model to measure with


# -- with a model -----------------------------------------------------------------------------------


class Made:
    """A model that reads letters, its transcoders and their graph."""

    def __init__(self, folder: Path):
        self.model: InterpretableModel = llama_of_mlx()
        self.saes = {layer: transcoder(layer, self.model.d_model) for layer in range(self.model.n_layers)}
        self.index = self.model.build_index(self.saes[1], TEXTS, folder / "i", exclude=(), verbose=False)
        self.graph = attribution_graph(self.model, PROMPT, self.saes, targets=[5, 9], verbose=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("page"))


def test_cards_and_labels_come_from_the_indexes(made, tmp_path):
    small = made.graph.prune(0.6, 0.9)
    shown = next(node for node in small.features if node.layer == 1)
    made.index.labels = {shown.feature_id: "a <name>"}
    data, page = read(made.graph.to_html(tmp_path / "g.html", made.index, measure=False))
    entry = next(node for node in data["nodes"] if node[0] == shown.id)
    assert entry[6:] == ["a <name>", f"mxg-card-1-{shown.feature_id}"]
    assert all(node[7] == "" for node in data["nodes"] if node[2] != 1 or node[1] != "feature")
    cards = re.findall(r'<template id="mxg-card-1-(\d+)">', page)
    assert len(set(cards)) == len(cards) > 0 and f"Feature {shown.feature_id} " in page
    own = made.graph.label(shown, "mine")
    data, _ = read(own.to_html(tmp_path / "g.html", {1: made.index}, measure=False))
    assert next(node for node in data["nodes"] if node[0] == shown.id)[6] == "mine"


def test_features_of_an_index_that_is_served_lead_to_its_steer_page(made, tmp_path):
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    page = tmp_path / "g.html"
    with made.index.serve(open=False) as explorer:
        data, _ = read(made.graph.to_html(page, made.index, measure=False, steer=explorer.steer_address))
        nodes = [node for node in data["nodes"] if node[1] == "feature"]
        expected = {
            node[0]: f"{explorer.url}#/steer?e=0:{node[0].split('_')[1]}:add:1"
            for node in nodes
            if node[2] == 1
        }
        assert data["steer"] == expected and 0 < len(expected) < len(nodes)
        other = made.model.build_index(made.saes[0], TEXTS[:2], tmp_path / "j", exclude=(), verbose=False)
        with pytest.raises(InputError, match="does not show"):
            made.graph.to_html(page, {0: other}, measure=False, steer=explorer.steer_address)
    assert read(made.graph.to_html(page, made.index, measure=False))[0]["steer"] == {}
    with pytest.raises(InputError, match=r"explorer\.steer_address, got str"):
        made.graph.to_html(page, made.index, steer=explorer.url)


def test_an_index_of_something_else_is_refused_by_what_is_wrong(made, tmp_path):
    page = tmp_path / "g.html"
    other = made.model.build_index(made.saes[0], TEXTS[:2], tmp_path / "j", exclude=(), verbose=False)
    for given, said in (
        (made.saes[1], "expected indexes"), ({0: made.index}, "says layer 0"), ([other, other], "two indexes"),
        (3, "expected indexes"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            made.graph.to_html(page, given)
    strange = attribution_graph(
        made.model,
        PROMPT,
        {**made.saes, 1: transcoder(1, made.model.d_model, n=30)},
        targets=[5],
        verbose=False,
    )
    with pytest.raises(InputError, match="not of this graph's transcoder"):
        strange.to_html(page, made.index)
    assert not page.exists()


def test_effects_on_the_page_are_predicted_by_all_paths_and_measured(made, tmp_path):
    data, page = read(made.graph.to_html(tmp_path / "g.html"))
    found = made.graph.validate(8)
    assert "Taking a feature away" not in data["tokens"] and "measured live" in page
    checked = 0
    for i, node in enumerate(found.features):
        if node.id in data["effects"]:
            predicted, held, live = data["effects"][node.id]
            assert np.allclose(predicted, found.modes[1].predicted[i], rtol=1e-3, atol=1e-5)
            assert np.allclose(held, found.modes[1].measured[i], rtol=1e-3, atol=1e-5)
            assert np.allclose(live, found.modes[3].measured[i], rtol=1e-3, atol=1e-5)
            checked += 1
    assert checked > 2


def test_a_group_is_taken_away_all_at_once(made, tmp_path):
    ids = [node.id for node in made.graph.prune().features[:3]]
    page = made.graph.supernode("three", ids).to_html(tmp_path / "g.html")
    data, _ = read(page)
    together, alone = np.array(data["group_effects"]["three"]), np.array([data["effects"][i] for i in ids])
    assert np.allclose(
        together[0], alone[:, 0].sum(axis=0), rtol=1e-2, atol=1e-4
    )  # what is predicted adds up
    assert not np.allclose(
        together[2], alone[:, 2].sum(axis=0), rtol=1e-4, atol=0
    )  # what is measured does not


def test_the_shell_takes_an_index_too(demo, tmp_path):
    from mlxterp.cli import main

    given = SAECollection([transcoder(layer, 192) for layer in range(4)])
    folder = given.save(tmp_path / "t")
    index: FeatureIndex = demo.model.build_index(
        next(iter(given.values())), ["Lily lost her red ball."], tmp_path / "i", verbose=False
    )
    page = tmp_path / "g.html"
    asked = ["graph", "Lily lost", "--transcoders", str(folder), "--target", " her", "--html", str(page)]
    assert main([*asked, "--index", str(index.path), "--node-threshold", "1"]) == 0
    assert '<template id="mxg-card-0-' in page.read_text(encoding="utf-8")
