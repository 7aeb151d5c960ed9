"""The transcoders of the demo model: small, better than controls, and graphs of them predict what they say."""

from __future__ import annotations

import numpy as np
import pytest

import mlxterp
from mlxterp.circuits.explored import prompt_of
from mlxterp.demo import FOLDER, Demo


@pytest.fixture(scope="module")
def demo() -> Demo:
    return mlxterp.load_demo()


def test_there_is_one_for_each_layer_in_at_most_four_megabytes(demo):
    files = [path for path in (FOLDER / "transcoders").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 4_000_000
    assert demo.transcoders.layers == list(range(demo.model.n_layers))
    for sae in demo.transcoders.values():
        assert sae.is_transcoder and np.array_equal(sae.W_enc, sae.W_enc.astype(np.float16))
        held_out = sae.metadata["held_out"]
        assert held_out["fvu"] < 0.4 and held_out["tokens"] > 2000


def test_a_graph_of_the_demo_predicts_effects_where_attention_and_norms_are_held(demo):
    graph = demo.model.attribution_graph(
        "Lily lost her red", demo.transcoders, targets=" ball", verbose=False
    )
    everything, norms, *_ = graph.validate(24).modes
    assert graph.law < 1e-4 and everything.worst < 1e-4
    assert norms.correlation.value >= 0.9 and norms.correlation.stands_out
    assert prompt_of(graph) == "Lily lost her red"
