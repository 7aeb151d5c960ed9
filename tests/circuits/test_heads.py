"""Heads and the residual stream sum to an edge, and pairs of features to a head's score, with norms and caps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import InputError, InterpretableModel
from mlxterp.circuits import AttributionGraph, Node, attribution_graph
from tests.circuits import oracle
from tests.circuits.conftest import IDS
from tests.circuits.making import folder_of, opened, transcoder, transcoders

QWEN3 = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 200, "max_position_embeddings": 128,
}  # fmt: skip
TYPES: dict[str, dict[str, Any]] = {"llama": {}, "gpt2": {}, "qwen3": QWEN3, "gemma2": {}}
CAP = 50.0
"""Gemma 2's default for attention scores."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("heads")
    return {name: folder_of(name, root / name, **shape) for name, shape in TYPES.items()}


@pytest.fixture(scope="module")
def graphs() -> dict[tuple[str, str], tuple[InterpretableModel, AttributionGraph]]:
    return {}


@pytest.fixture(params=list(TYPES))
def made(request, backend, folders, graphs) -> tuple[InterpretableModel, AttributionGraph]:
    key = request.param, backend
    if key not in graphs:
        model = opened(folders[request.param], backend)
        graphs[key] = model, attribution_graph(model, IDS, transcoders(model, skip=True), targets=[5, 9])
    return graphs[key]


def first(graph: AttributionGraph, kind: str, layer: int, position: int) -> Node:
    return next(n for n in graph.nodes if (n.kind, n.layer, n.position) == (kind, layer, position))


def pattern_of(model: InterpretableModel, layer: int) -> np.ndarray:
    found: Any = model.trace(IDS).activations[f"layers.{layer}.attn.pattern"]
    return np.asarray(model.language_model.backend.get(found)[0], dtype=np.float64)


def edge(graph: AttributionGraph, source: Node, target: Node) -> float:
    return float(graph.matrix[graph.targets.index(target), graph.sources.index(source)])


def test_heads_and_residual_stream_sum_to_the_edge(made):
    _, graph = made
    sources = first(graph, "embedding", -1, 1), first(graph, "feature", 0, 2), first(graph, "error", 1, 5)
    for source in sources:
        for target in (first(graph, "feature", 2, 5), graph.outputs[1]):
            found, expected = graph.head_loadings(source, target), edge(graph, source, target)
            weights = np.array([one.weight for one in found.heads])
            size = max(abs(expected), np.abs(weights).max())
            assert abs(found.weight - expected) <= 1e-5 * size
            assert abs(found.residual + weights.sum() - expected) <= 1e-5 * size
            assert (np.diff(np.abs(weights)) <= 0).all()
            assert found.residual == 0 or source.position == 5  # the stream stays at its position
    assert graph.head_loadings(sources[1], graph.outputs[0]).several != 0


def test_one_layer_between_leaves_nothing_to_ways_with_several_heads(made):
    _, graph = made
    found = graph.head_loadings(first(graph, "feature", 1, 2), first(graph, "feature", 2, 5))
    assert all(abs(one.alone - one.weight) <= 1e-5 * abs(found.heads[0].weight) for one in found.heads)
    assert abs(found.several) <= 1e-5 * abs(found.heads[0].weight)
    assert {one.layer for one in found.heads if one.weight} <= {1, 2}


def test_a_heads_loading_is_the_closed_form(backend, one_layer):
    model = opened(one_layer, backend)
    sae = transcoder(0, 16, skip=True)
    graph = attribution_graph(model, IDS, {0: sae}, targets=[5])
    source, target = first(graph, "embedding", -1, 2), first(graph, "feature", 0, 4)
    feature = target.position, int(target.feature_id or 0)
    expected = oracle.head_loadings(oracle.weights_of(one_layer), pattern_of(model, 0), IDS, sae, feature, 2)
    found = {one.head: one for one in graph.head_loadings(source, target).heads}
    for head, value in enumerate(expected):
        assert abs(found[head].alone - value) <= 1e-5 * np.abs(expected).max()
        assert abs(found[head].weight - value) <= 1e-5 * np.abs(expected).max()


def test_pairs_sum_to_the_score_that_makes_the_pattern(made):
    model, graph = made
    pattern, capped = pattern_of(model, 2), model.language_model.model_type == "gemma2"
    for head in (0, 3):
        found = [graph.qk_attribution(2, head, query=-1, key=key) for key in (2, 4)]
        for one in found:
            assert abs(one.matrix.sum() - one.score) <= 1e-4 * abs(one.score) and one.law < 1e-4
            assert abs(sum(t.weight for t in one.query_marginals(None)) - one.score) <= 1e-4 * abs(one.score)
            assert abs(sum(t.weight for t in one.key_marginals(None)) - one.score) <= 1e-4 * abs(one.score)
            assert {node.position for node in one.key_nodes} <= set(range(one.key + 1))
        scores = np.array([one.score for one in found])
        scores = CAP * np.tanh(scores / CAP) if capped else scores
        seen = np.log(pattern[head, -1, [2, 4]])
        assert abs((scores[0] - scores[1]) - (seen[0] - seen[1])) <= 1e-4 * max(1, np.abs(scores).max())


def test_pairs_are_the_entries_of_the_matrix_by_size(made):
    _, graph = made
    found = graph.qk_attribution(1, 2, query=4, key=4)
    pairs, every = found.pairs(7), found.matrix
    assert np.allclose([abs(one.weight) for one in pairs], np.sort(np.abs(every), axis=None)[::-1][:7])
    one = pairs[0]
    row = len(found.query_nodes) if one.query is None else found.query_nodes.index(one.query)
    column = len(found.key_nodes) if one.key is None else found.key_nodes.index(one.key)
    assert one.weight == pytest.approx(every[row, column])
    assert set(found.query_nodes) <= set(graph.nodes)
    assert "before a soft cap" in str(found) and "<table" in found.fragment()


@pytest.mark.parametrize("model_type", ["qwen3", "gemma2"])
def test_both_wings_say_the_same_of_heads(model_type, folders):
    if len(mlxterp.available_backends()) < 2:
        pytest.skip("needs both wings")
    found = []
    for backend in ("mlx", "torch"):
        model = opened(folders[model_type], backend)
        graph = attribution_graph(model, IDS, transcoders(model), targets=[5])
        loadings = graph.head_loadings(first(graph, "embedding", -1, 3), graph.outputs[0])
        by_head = {(one.layer, one.head): (one.weight, one.alone) for one in loadings.heads}
        found.append((np.array([by_head[key] for key in sorted(by_head)]), graph.qk_attribution(2, 1).score))
    (one, score), (other, same) = found
    assert np.abs(one - other).max() <= 1e-4 * np.abs(one).max() and abs(score - same) <= 1e-4 * abs(score)


def test_a_pruned_graph_says_the_same_and_a_batch_of_rows_too(model, monkeypatch):
    graph = attribution_graph(model, IDS, transcoders(model), targets=[5])
    source, target = first(graph, "embedding", -1, 2), graph.outputs[0]
    before = graph.head_loadings(source, target)
    monkeypatch.setattr("mlxterp.circuits.heads._TOKENS", 3 * len(IDS))
    after = graph.prune(0.5, 0.5).head_loadings(source, target)
    assert [(one.layer, one.head) for one in before.heads] == [(one.layer, one.head) for one in after.heads]
    assert np.allclose([one.weight for one in before.heads], [one.weight for one in after.heads], atol=1e-6)
    assert len(before.to_pandas()) == 12
    assert "by the residual stream" in str(before) and "<table" in before.fragment()


def test_what_is_asked_wrongly_is_refused_by_name(model, tmp_path):
    graph = attribution_graph(model, IDS, transcoders(model), targets=[5])
    embedding, output = first(graph, "embedding", -1, 2), graph.outputs[0]
    for ask, said in (
        (lambda: graph.head_loadings(output, output), "no outgoing edges"),
        (lambda: graph.head_loadings(embedding, embedding), "no incoming edges"),
        (lambda: graph.head_loadings("nothing", output), "no node"),
        (lambda: graph.qk_attribution(0, 4), "head"),
        (lambda: graph.qk_attribution(0, 0, query=1, key=3), "comes after"),
        (lambda: graph.qk_attribution(0, 0, query=6), "query"),
    ):
        with pytest.raises(InputError, match=said):
            ask()
    again = AttributionGraph.load(graph.save(tmp_path / "g.json"))
    for ask in (lambda: again.head_loadings(embedding.id, output.id), lambda: again.qk_attribution(0, 0)):
        with pytest.raises(InputError, match="comes from a file"):
            ask()
