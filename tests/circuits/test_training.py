"""Transcoders of all layers come from one run, which goes on where it was interrupted, and open again as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import ComponentError, InputError, SAECollection, SAEError

CONFIG: dict[str, Any] = {"d_hidden": 24, "k": 4, "epochs": 1, "batch_size": 128}
SETTINGS: dict[str, Any] = {**CONFIG, "verbose": False}
GIVEN: dict[str, Any] = {"config": CONFIG, "verbose": False}


@pytest.fixture(scope="module")
def demo():
    return mlxterp.load_demo()


@pytest.fixture(scope="module")
def texts(demo) -> list[str]:
    return demo.texts[:4]


@pytest.fixture(scope="module")
def saved(demo, texts, tmp_path_factory) -> tuple[SAECollection, Path]:
    folder = tmp_path_factory.mktemp("saved") / "transcoders"
    return demo.model.train_transcoders(texts, save_path=folder, **GIVEN), folder


def test_there_is_one_for_each_layer_which_predicts_its_mlp_of_what_it_reads(saved):
    found, _ = saved
    assert list(found) == found.layers == [0, 1, 2, 3]
    for layer, sae in found.items():
        assert sae.component == f"layers.{layer}.mlp.input" and sae.is_transcoder
        assert sae.metadata["component_out"] == f"layers.{layer}.mlp_out"
        assert sae.weights.extra["W_skip"].shape == (192, 192) and sae.d_hidden == 24


def test_each_is_what_train_transcoder_makes_of_the_same_texts(demo, texts, saved):
    one = demo.model.train_transcoder(
        2, 2, texts, from_component="mlp.input", to_component="mlp_out", skip=True, **GIVEN
    )
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        np.testing.assert_allclose(getattr(one, name), getattr(saved[0][2], name), rtol=1e-4, atol=1e-5)


def test_the_folder_opens_as_the_same_collection_and_a_graph_takes_it(demo, saved):
    found, folder = saved
    again = SAECollection.load(folder)
    assert list(again) == [0, 1, 2, 3]
    assert [sae.fingerprint for sae in again.values()] == [sae.fingerprint for sae in found.values()]
    graph = demo.model.attribution_graph("Lily lost her red", folder, targets=" ball", verbose=False)
    assert {node.layer for node in graph.features} == {0, 1, 2, 3} and graph.law < 1e-4


def test_some_layers_without_skip_are_trained_alone(demo, texts):
    found = demo.model.train_transcoders(texts, layers=[-1, np.int64(1)], skip=False, **SETTINGS)
    assert list(found) == [1, 3] and not any("W_skip" in sae.weights.extra for sae in found.values())
    assert list(demo.model.train_transcoders(texts, 2, **SETTINGS)) == [2]


def test_a_run_that_ended_is_not_made_again(demo, texts, saved):
    found, folder = saved
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    again = demo.model.train_transcoders(texts, save_path=folder, **GIVEN, resume=True)
    assert [sae.fingerprint for sae in again.values()] == [sae.fingerprint for sae in found.values()]
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before and len(before) == 9


def test_an_interrupted_run_goes_on_to_the_same_transcoders(demo, texts, saved, tmp_path):
    class Enough(Exception):
        pass

    def stop(row):
        if row["step"] >= 4:
            raise Enough

    given = {"save_path": tmp_path / "transcoders", **GIVEN, "checkpoint_every": 2}
    with pytest.raises(Enough):
        demo.model.train_transcoders(texts, log=stop, **given)
    again = demo.model.train_transcoders(texts, resume=True, **given)
    assert [sae.fingerprint for sae in again.values()] == [sae.fingerprint for sae in saved[0].values()]


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"layers": "every"}, InputError, "'all'"),
        ({"layers": []}, InputError, "layers= is empty"),
        ({"layers": [1, -3]}, InputError, "layer 1 twice"),
        ({"layers": 4}, ComponentError, "no layer 4"),
        ({"layers": 1.5}, InputError, "layers is float"),
        ({"target": "layers.1.mlp"}, SAEError, "predicts its own MLP"),
        ({"width": 4}, InputError, "takes no width="),
        ({"skip": "yes"}, SAEError, "skip is 'yes'"),
    ],
)
def test_what_is_asked_wrongly_is_refused_by_name(demo, texts, options, kind, said):
    with pytest.raises(kind, match=said):
        demo.model.train_transcoders(texts, **{**SETTINGS, **options})


def test_a_folder_that_holds_something_else_is_left_alone(demo, texts, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SAEError, match=r"holds notes\.txt"):
        demo.model.train_transcoders(texts, save_path=tmp_path, **SETTINGS)
    with pytest.raises(SAEError, match="is a file"):
        demo.model.train_transcoders(texts, save_path=tmp_path / "notes.txt", **SETTINGS)
