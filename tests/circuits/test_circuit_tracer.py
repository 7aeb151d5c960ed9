"""A graph, its pruning and its scores are those of circuit-tracer 0.5.0: its own answers, kept as a fixture.

benchmarks/graph_peers.py made the fixture, in an environment of its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlxterp import SAE, InterpretableModel
from mlxterp.circuits import AttributionGraph, attribution_graph
from mlxterp.circuits.influence import Shape, cumulative, influence, prune, scores, shares_of
from mlxterp.variants import JumpReLU
from mlxterp.weights import SAEWeights

FIXTURE = Path(__file__).parent / "circuit_tracer.npz"
RANDOM = [f"random{number}_{kind}" for number in range(5) for kind in ("tied", "free")]


@pytest.fixture(scope="module")
def theirs() -> dict[str, np.ndarray]:
    return dict(np.load(FIXTURE))


@pytest.fixture(scope="module", params=["mlx", "torch"])
def graph(request: pytest.FixtureRequest, shared: Path, theirs: dict[str, np.ndarray]) -> AttributionGraph:
    folder = shared / "data" / "models" / "tinystories_instruct_3m_gpt2"
    model = InterpretableModel(folder, backend=request.param)
    given = {layer: jumprelu(theirs, layer) for layer in range(model.n_layers)}
    return attribution_graph(
        model, "Lily lost her red ball. She was very", given, conventions="circuit-tracer", verbose=False
    )


def jumprelu(theirs: dict[str, np.ndarray], layer: int) -> SAE:
    names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    *parts, threshold = (theirs[f"{name}_{layer}"].astype(np.float32) for name in names)
    return SAE(SAEWeights(*parts, subtract_b_dec=False, extra={"threshold": threshold}), JumpReLU())


def unpacked(theirs: dict[str, np.ndarray], name: str, shape: Shape) -> list[tuple[np.ndarray, np.ndarray]]:
    """The nodes and edges that are kept at each pair of thresholds."""
    size = shape.features + shape.outputs, shape.sources
    nodes = np.unpackbits(theirs[f"{name}_nodes"], axis=1)[:, : shape.sources + shape.outputs].astype(bool)
    edges = np.unpackbits(theirs[f"{name}_edges"], axis=1)[:, : size[0] * size[1]].astype(bool)
    return list(zip(nodes, edges.reshape(-1, *size), strict=True))


def test_its_active_features_and_outputs_are_the_same(graph, theirs):
    found = [(node.layer, node.position, node.feature_id) for node in graph.features]
    assert np.array_equal(found, theirs["active"]) and len(found) > 200
    assert np.allclose([node.activation for node in graph.features], theirs["activations"], atol=1e-5)
    assert [node.token_id for node in graph.outputs] == theirs["logit_ids"].tolist()
    assert np.allclose([node.probability for node in graph.outputs], theirs["probabilities"], atol=1e-6)
    assert [node.token_id for node in graph.nodes if node.kind == "embedding"] == theirs["ids"].tolist()


def test_edges_of_every_kind_are_the_same(graph, theirs):
    s, expected = graph.shape, theirs["matrix"]
    assert graph.matrix.shape == expected.shape
    first, last = s.features, s.features + s.errors
    for part in (slice(0, first), slice(first, last), slice(last, None)):
        difference = np.abs(graph.matrix[:, part] - expected[:, part]).max()
        assert difference <= 1e-4 * np.abs(expected[:, part]).max()


def test_what_pruning_keeps_and_the_scores_are_the_same(graph, theirs):
    ((nodes, edges),) = unpacked(theirs, "real", graph.shape)
    small, columns = graph.prune(0.8, 0.98), graph.shape.sources
    kept = {node.id for node in small.nodes}
    assert [node.id in kept for node in graph.nodes] == nodes.tolist()
    rows = np.concatenate([nodes[: graph.shape.features], nodes[columns:]])
    assert np.array_equal(small.matrix != 0, edges[np.ix_(rows, nodes[:columns])])
    assert (small.matrix != 0).sum() > 500
    assert np.allclose((graph.replacement_score, graph.completeness_score), theirs["real_scores"], atol=1e-5)
    ranks, expected = graph.cumulative_influence()[:columns], theirs["real_cumulative"][:columns]
    assert np.allclose(np.sort(ranks), np.sort(expected), atol=1e-5)
    assert np.mean(np.abs(ranks - expected) > 1e-5) < 0.05  # near ties may come in either order


@pytest.mark.parametrize("name", RANDOM)
def test_random_graphs_are_pruned_and_scored_the_same(name, theirs):
    """With many ties, thresholds of 0 and 1, no feature at all, one token, and nodes without edges."""
    matrix, weights = theirs[f"{name}_matrix"], theirs[f"{name}_weights"]
    shape = Shape(*theirs[f"{name}_shape"].tolist())
    found = influence(shares_of(matrix), weights, shape.features)
    assert np.allclose(scores(matrix, weights, shape), theirs[f"{name}_scores"], atol=1e-5)
    ranks = cumulative(found)
    assert np.allclose(np.sort(ranks), np.sort(theirs[f"{name}_cumulative"][: shape.sources]), atol=1e-5)
    pairs = theirs[f"{name}_thresholds"].tolist()
    for (node, edge), (nodes, edges) in zip(pairs, unpacked(theirs, name, shape), strict=True):
        kept = prune(matrix, weights, shape, node, edge)
        if edge == 1 and (edges & (matrix == 0)).any():  # by rounding their shares sum to less than 1, ...
            assert not (
                kept.edges & ~edges
            ).any()  # ... so they keep all that there is, and what is no edge too
            continue
        assert np.array_equal(kept.sources, nodes[: shape.sources]), (node, edge)
        assert np.array_equal(kept.edges, edges & (matrix != 0)), (node, edge)
