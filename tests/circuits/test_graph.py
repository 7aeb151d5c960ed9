"""What a graph answers, on one that is small enough to check by hand; and its files, whole, foreign and damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxterp import CircuitError, InputError
from mlxterp.circuits import AttributionGraph
from mlxterp.circuits.nodes import embedding_node, error_node, feature_node, output_node
from mlxterp.circuits.paths import strongest_paths


def by_hand() -> AttributionGraph:
    """Token → feature A → feature B → output, with an error of layer 1 beside them."""
    tokens = ("The", " cat")
    third = float(np.float32(1 / 3))  # as activations are: float32, written with the digits that it needs
    a, b = feature_node(0, 0, 7, "The", 2.0), feature_node(1, 1, 3, " cat", third)
    errors = [error_node(layer, p, tokens[p]) for layer in range(2) for p in range(2)]
    embeddings = [embedding_node(10 + p, p, tokens[p]) for p in range(2)]
    output = output_node(2, 42, 1, " sat", 0.75, True)
    matrix = np.zeros((3, 8), np.float32)
    matrix[0, 6] = 1.5  # "The" → A
    matrix[1, [0, 7]] = 0.5, -0.25  # A, " cat" → B
    matrix[2, [1, 5, 7]] = 3.0, 0.5, 0.5  # B, the error of layer 1 at 1, " cat" → output
    values = np.array([2.0, 1.0, 5.0], np.float32)
    return AttributionGraph(
        nodes=(a, b, *errors, *embeddings, output), matrix=matrix, bias=values - matrix.sum(axis=1),
        omitted=np.zeros(3, np.float32), values=values, tokens=tokens, n_layers=2, conventions="exact", law=1e-6,
        model="tiny", transcoders=("one", "two"),
    )  # fmt: skip


def test_edges_are_the_largest_first_with_their_share():
    graph = by_hand()
    assert [(e.source.id, e.target.id, e.weight) for e in graph.edges(top_k=2)] == [
        ("1_3_1", "3_42_1", 3.0), ("E_10_0", "0_7_0", 1.5),
    ]  # fmt: skip
    (edge, *_) = graph.edges(target="3_42_1")
    assert edge.share == 0.75 and str(edge.target) == "output ' sat' (0.750)"
    assert len(graph.edges(top_k=None)) == 6
    assert [e.target.id for e in graph.edges(source=(0, 0, 7))] == ["1_3_1"]


def test_a_supernode_sums_the_edges_of_its_nodes():
    graph = by_hand().supernode("both", ["0_7_0", "1_3_1"])
    (edge,) = [e for e in graph.edges(target="both") if e.source.id == "E_11_1"]
    assert edge.weight == -0.25
    (edge,) = graph.edges(source="both", target="3_42_1")
    assert edge.weight == 3.0 and edge.source.token == "both"
    with pytest.raises(InputError, match="already"):
        graph.supernode("both", ["0_7_0"])
    with pytest.raises(InputError, match="no node"):
        graph.supernode("x", ["0_8_0"])


def test_labels_and_pins_stay_with_the_nodes_that_are_kept():
    graph = (
        by_hand().label("1_3_1", " a verb ").label("0_-1_0", "rest").pin(["1_3_1", "0_-1_0"]).pin("E_11_1")
    )
    assert graph.labels == {"1_3_1": "a verb", "0_-1_0": "rest"}
    assert graph.pins == ("1_3_1", "0_-1_0", "E_11_1")
    small = graph.prune(0.5, 0.8)
    assert small.labels == {"1_3_1": "a verb"} and small.pins == ("1_3_1", "E_11_1")
    assert graph.label("1_3_1", "").label("0_-1_0", "").labels is None
    for given, said in (("3_42_1", "named by its token"), ("9_9_9", "no node")):
        with pytest.raises(InputError, match=said):
            graph.label(given, "x")
    with pytest.raises(InputError, match="a text"):
        graph.label("1_3_1", 3)  # type: ignore[arg-type]


def test_the_strongest_paths_lead_from_tokens_to_outputs():
    paths = strongest_paths(by_hand(), 10)
    assert [[node.id for node in path.nodes] for path in paths] == [
        ["E_10_0", "0_7_0", "1_3_1", "3_42_1"], ["E_11_1", "1_3_1", "3_42_1"],
    ]  # fmt: skip
    assert paths[1].share == pytest.approx(1 / 3 * 0.75)


def test_a_path_is_the_one_with_the_largest_product_of_shares():
    graph = by_hand()
    path = graph.path("E_10_0", "3_42_1")
    assert [node.id for node in path.nodes] == ["E_10_0", "0_7_0", "1_3_1", "3_42_1"]
    assert path.share == pytest.approx(1.0 * (0.5 / 0.75) * 0.75)
    assert str(path).startswith("token 'The' at 0 +1.5 → L0 #7")
    with pytest.raises(InputError, match="No path"):
        graph.path("0_-1_0", "3_42_1")
    with pytest.raises(InputError, match="no incoming"):
        graph.path("E_10_0", "E_11_1")


def test_influence_and_scores_are_those_of_the_normalised_paths():
    graph, w = by_hand(), 0.75
    b, missed, direct = w * 0.75, w * 0.125, w * 0.125
    a = b * (0.5 / 0.75)
    expected = [a, b, 0, 0, 0, missed, a, direct + b / 3, 0]
    assert np.allclose(graph.influence, expected)
    assert graph.replacement_score == pytest.approx((a + direct + b / 3) / (a + direct + b / 3 + missed))


def test_a_pruned_graph_keeps_the_scores_of_the_whole_and_its_rows_sum():
    graph = by_hand()
    small = graph.prune(0.5, 0.8)
    assert {node.id for node in small.nodes} >= {"1_3_1", "E_10_0", "E_11_1", "3_42_1"}
    assert not [node for node in small.nodes if node.kind == "error"]
    assert (small.replacement_score, small.completeness_score) == (
        graph.replacement_score,
        graph.completeness_score,
    )
    assert np.allclose(small.matrix.sum(axis=1) + small.bias + small.omitted, small.values)
    assert small.whole is not None and "of the whole graph" in str(small)
    with pytest.raises(InputError, match="node_threshold"):
        graph.prune(1.2)


def test_tables_and_texts_show_the_graph():
    graph = by_hand()
    frame = graph.to_pandas()
    assert len(frame) == 9 and frame["influence"].iloc[1] == pytest.approx(0.5625)
    assert len(graph.to_pandas("edges")) == 6
    assert "Attribution graph of 'The cat'" in str(graph) and "does not predict" in graph.fragment()
    assert repr(graph) == "AttributionGraph(2 features, 4 errors, 2 tokens, 1 outputs)"


def test_a_networkx_graph_has_the_same_edges():
    networkx = pytest.importorskip("networkx")
    found = by_hand().to_networkx()
    assert isinstance(found, networkx.DiGraph) and found.number_of_edges() == 6
    assert found["1_3_1"]["3_42_1"]["weight"] == 3.0 and found.nodes["0_7_0"]["feature_id"] == 7


# -- files ----------------------------------------------------------------------------------------


def test_a_saved_graph_loads_as_it_was(tmp_path):
    named = by_hand().supernode("both", ["0_7_0", "1_3_1"]).label("1_3_1", "a verb").pin(["E_10_0", "1_3_1"])
    for graph in (named, by_hand().prune(0.5, 0.8)):
        again = AttributionGraph.load(graph.save(tmp_path / "g.json"))
        assert again.nodes == graph.nodes and again.supernodes == graph.supernodes
        assert (again.labels, again.pins) == (graph.labels, graph.pins)
        for name in ("matrix", "bias", "omitted", "values"):
            assert np.array_equal(getattr(again, name), getattr(graph, name)), name
        assert (again.law, again.conventions, again.tokens) == (graph.law, graph.conventions, graph.tokens)
        assert again.replacement_score == pytest.approx(graph.replacement_score)
        assert np.allclose(again.cumulative_influence()[: again.shape.sources],
                           graph.cumulative_influence()[: graph.shape.sources])  # fmt: skip


def written(tmp_path: Path) -> dict[str, Any]:
    return json.loads(by_hand().save(tmp_path / "g.json").read_text(encoding="utf-8"))


def test_a_file_has_the_keys_and_ids_that_the_viewers_read(tmp_path):
    data = written(tmp_path)
    assert set(data) == {"metadata", "qParams", "nodes", "links"}
    assert {"slug", "scan", "prompt_tokens", "prompt", "schema_version"} <= set(data["metadata"])
    feature, error, embedding, output = (data["nodes"][i] for i in (1, 2, 6, 8))
    assert (feature["node_id"], feature["feature"], feature["layer"]) == (
        "1_3_1",
        13,
        "1",
    )  # Cantor's pair of 1 and 3
    assert (feature["feature_type"], feature["jsNodeId"]) == ("cross layer transcoder", "1_3-0")
    assert (error["node_id"], error["feature"], error["jsNodeId"]) == ("0_-1_0", -1, "0_0-0")
    assert (embedding["node_id"], embedding["layer"]) == ("E_10_0", "E")
    assert (output["node_id"], output["clerp"]) == ("3_42_1", 'Output " sat" (p=0.750)')
    assert output["is_target_logit"] and len({node["node_id"] for node in data["nodes"]}) == 9
    assert data["links"][-1] == {"source": "E_11_1", "target": "3_42_1", "weight": 0.5}


def test_a_graph_of_circuit_tracer_is_read_with_either_form_of_error_nodes(tmp_path):
    data = written(tmp_path)
    del data["metadata"]["mlxterp"]
    for entry in (*data["nodes"], *data["links"]):
        for key, value in entry.items():
            parts = str(value).split("_")
            if (
                len(parts) == 3 and parts[1] == "-1"
            ):  # 0.5.0: the layer stands where features have their number
                entry[key] = f"0_{parts[0]}_{parts[2]}"
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    graph = AttributionGraph.load(path)
    assert [node.id for node in graph.nodes] == [node.id for node in by_hand().nodes]
    assert np.array_equal(graph.matrix, by_hand().matrix)
    assert np.isnan(graph.bias).all() and graph.values[0] == 2.0 and graph.conventions == "circuit-tracer"


def damages() -> dict[str, tuple[Any, str]]:
    def change(place: str, number: int, **new: Any) -> Any:
        return lambda data: data[place][number].update(new)

    return {
        "no nodes": (lambda data: data.pop("nodes"), "no 'nodes'"),
        "a list": (lambda data: data["metadata"].update(prompt_tokens=[]), "is empty"),
        "twice": (lambda data: data["nodes"].append(dict(data["nodes"][0])), "twice"),
        "the same place": (
            lambda data: data["nodes"].append({**data["nodes"][2], "node_id": "x_y_z"}), "same place"
        ),
        "a stranger": (change("links", 0, source="9_9_9"), "not there"),
        "no number": (change("links", 0, weight="1"), "weight"),
        "too large": (change("links", 0, weight=1e300), "weight"),
        "backwards": (change("links", 0, source="3_42_1", target="0_7_0"), "leads from"),
        "into a token": (change("links", 0, target="E_10_0"), "leads from"),
        "a link twice": (lambda data: data["links"].append(dict(data["links"][0])), "twice"),
        "a position": (change("nodes", 0, ctx_idx=7), "position 7 of 2"),
        "a truth value": (change("nodes", 0, ctx_idx=True), "position True"),
        "a layer": (change("nodes", 0, layer="E"), "layer 'E'"),
        "a type": (change("nodes", 0, feature_type="lorsa"), "no place"),
        "a pin": (lambda data: data["qParams"].update(pinnedIds=[3]), "pinnedIds is no list of texts"),
        "no output": (lambda data: (data["nodes"].pop(), data["links"].clear()), "no logit"),
        "a probability": (change("nodes", 8, token_prob=7), "probability"),
        "few biases": (lambda data: data["metadata"]["mlxterp"].update(bias=[1]), "has not 3"),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(damages()))
def test_damaged_files_are_refused_by_what_is_wrong(tmp_path, name):
    data, path = written(tmp_path), tmp_path / "bad.json"
    damage, said = damages()[name]
    damage(data)
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(CircuitError, match=said):
        AttributionGraph.load(path)


def test_what_is_no_graph_is_refused(tmp_path):
    path = tmp_path / "x.json"
    for text in ("", "[]", "{", '{"metadata": NaN}', "\ufeff", "[" * 500):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(CircuitError, match=r"x\.json is no attribution graph"):
            AttributionGraph.load(path)
    with pytest.raises(CircuitError, match="cannot be read"):
        AttributionGraph.load(tmp_path / "nothing.json")
    with open(path, "wb") as file:
        file.truncate(200 << 20)
    with pytest.raises(CircuitError, match="200 MiB"):
        AttributionGraph.load(path)
    with pytest.raises(InputError, match="path"):
        AttributionGraph.load(3)  # type: ignore[arg-type]
