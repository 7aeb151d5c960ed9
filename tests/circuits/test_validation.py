"""What a graph predicts is what the model does where all is held, and close to it where attention and norms are."""

from __future__ import annotations

import numpy as np
import pytest

from mlxterp import InputError
from mlxterp.circuits import AttributionGraph, attribution_graph
from tests.circuits.conftest import IDS
from tests.circuits.making import transcoders


def test_direct_edges_are_what_happens_where_everything_is_held(model):
    graph = attribution_graph(model, IDS, transcoders(model, skip=True), targets=[5, 9])
    found = graph.validate(12)
    held, norms, attention, live = found.modes
    assert held.worst < 1e-4 and held.correlation.value > 0.9999 and held.same_sign == 1
    assert norms.correlation.value > 0.9
    assert not np.array_equal(attention.measured, live.measured)
    assert len(found.features) == 12 and held.correlation.stands_out
    assert "nothing (live)" in str(found) and "shuffled" in found.fragment()


def test_live_effects_are_those_of_an_edited_run(model):
    """One feature is taken away by hand."""
    given = transcoders(model)
    graph = attribution_graph(model, IDS, given, targets=[5, 9])
    found = graph.validate(3)
    node = found.features[0]
    vector = given[node.layer].W_dec[node.feature_id] * node.activation
    moved = np.zeros((1, len(IDS), model.d_model), np.float32)
    moved[0, node.position] = vector
    change = model.language_model.backend.put(moved)
    with model.trace(IDS, interventions={f"layers.{node.layer}.mlp_out": lambda x: x - change}) as trace:
        pass
    logits = np.array(model.language_model.backend.get(trace.output))[0, -1]
    before = np.array(model.language_model.backend.get(model(IDS)))[0, -1]
    effect = logits - before - (logits - before).mean()
    assert np.allclose(found.modes[3].measured[0], effect[[5, 9]], atol=1e-4)


def test_only_a_whole_graph_that_was_made_here_is_validated(model, tmp_path):
    graph = attribution_graph(model, IDS, transcoders(model))
    with pytest.raises(InputError, match=r"of the \d+ active features"):
        graph.prune().validate()
    with pytest.raises(InputError, match="comes from a file"):
        AttributionGraph.load(graph.save(tmp_path / "g.json")).validate()
