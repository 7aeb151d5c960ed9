"""A cross-layer transcoder's graph and interventions are circuit-tracer 0.5.0's: its own answers, kept as a fixture.

benchmarks/cross_layer_peers.py made the fixture, in an environment of its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlxterp import CrossLayerTranscoder, InterpretableModel
from mlxterp.sae import CrossLayerWeights

FIXTURE = Path(__file__).parent / "cross_layer.npz"
Theirs = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def theirs() -> Theirs:
    return dict(np.load(FIXTURE))


@pytest.fixture(scope="module")
def clt(theirs: Theirs) -> CrossLayerTranscoder:
    def of(name: str, layer: int) -> np.ndarray:
        return theirs[f"{name}_{layer}"].astype(np.float32)

    return CrossLayerTranscoder([
        CrossLayerWeights(
            of("W_enc", n).T, of("b_enc", n), of("W_dec", n), of("b_dec", n), of("threshold", n)
        )
        for n in range(8)
    ])  # fmt: skip


@pytest.fixture(scope="module", params=["mlx", "torch"])
def subject(request: pytest.FixtureRequest, shared: Path) -> InterpretableModel:
    return InterpretableModel(
        shared / "data" / "models" / "tinystories_instruct_3m_gpt2", backend=request.param
    )


def test_its_features_and_edges_are_the_same(subject, clt, theirs):
    ids = theirs["ids"].tolist()
    graph = subject.attribution_graph(ids, clt, conventions="circuit-tracer", verbose=False)
    found = [(node.layer, node.position, node.feature_id) for node in graph.features]
    assert np.array_equal(found, theirs["active"]) and len(found) > 100
    assert np.allclose([node.activation for node in graph.features], theirs["activations"], atol=1e-5)
    assert graph.matrix.shape == theirs["matrix"].shape
    assert np.abs(graph.matrix - theirs["matrix"]).max() <= 1e-4 * np.abs(theirs["matrix"]).max()


@pytest.mark.parametrize(("freeze", "name"), [("all", "all"), ("attention", "attention"), (None, "nothing")])
def test_its_interventions_do_the_same(subject, clt, theirs, freeze, name):
    """Three features at once, of which the first changes what the others are."""
    asked = [(int(a), int(b), int(c), value) for a, b, c, value in theirs["interventions"].tolist()]
    found = subject.feature_intervention(theirs["ids"].tolist(), asked, clt, freeze=freeze)
    change = np.abs(found.logits - found.logits_before).max()
    assert change > 0.1 and np.abs(found.logits - theirs[f"logits_{name}"]).max() <= 1e-4 * max(change, 1)
    dense = np.stack([found.activations[layer].to_dense() for layer in range(8)])
    dense[:, 0] = 0  # circuit-tracer counts no features there
    assert np.abs(dense - theirs[f"activations_{name}"]).max() <= 1e-4
