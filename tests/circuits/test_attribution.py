"""Edges against the closed form, whatever the batch and the wing; what is asked wrongly is refused by name."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import InputError, InterpretableModel, MlxterpWarning, SAEError
from mlxterp.circuits import Node, attribution_graph
from mlxterp.circuits.prefixes import Prefixes
from mlxterp.circuits.replacement import replacement_of
from mlxterp.circuits.transcoders import transcoders_of
from mlxterp.circuits.unrolled import unrolled
from mlxterp.variants import TanhReLU
from tests.circuits import oracle
from tests.circuits.conftest import IDS
from tests.circuits.making import ACTIVATIONS, folder_of, opened, transcoder, transcoders


def pattern_of(model: InterpretableModel) -> np.ndarray:
    found: Any = model.trace(IDS).activations["layers.0.attn.pattern"]
    return np.asarray(model.language_model.backend.get(found)[0], dtype=np.float64)


def test_the_norm_of_the_oracle_is_that_of_the_model(one_layer: Path):
    import json

    assert json.loads((one_layer / "config.json").read_text())["rms_norm_eps"] == oracle.EPS


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_the_graph_of_one_layer_is_the_closed_form(backend, one_layer, activation, skip):
    model = opened(one_layer, backend)
    sae = transcoder(0, 16, activation=ACTIVATIONS[activation], skip=skip)
    graph = attribution_graph(model, IDS, {0: sae}, max_logits=3, logit_prob=1.0)
    tokens = [int(node.token_id or 0) for node in graph.outputs]
    expected, bias = oracle.graph(oracle.weights_of(one_layer), pattern_of(model), IDS, sae, tokens)
    assert graph.matrix.shape == expected.shape and len(tokens) == 3
    scale = np.abs(expected).max()
    assert np.abs(graph.matrix - expected).max() <= 1e-5 * scale
    assert np.abs(graph.bias - bias).max() <= 1e-5 * max(scale, np.abs(bias).max())


def test_every_row_sums_to_its_value(model):
    graph = attribution_graph(model, IDS, transcoders(model))
    for found in (
        graph,
        graph.prune(0.5, 0.7),
        attribution_graph(model, IDS, transcoders(model), max_features=20),
    ):
        total = found.matrix.sum(axis=1, dtype=np.float64) + found.bias + found.omitted
        assert np.abs(total - found.values).max() <= 1e-5 * np.abs(found.values).max()
    assert graph.law is not None and graph.law < 1e-4 and not graph.omitted.any()
    assert all(v == node.activation for v, node in zip(graph.values, graph.features, strict=False))


def test_rows_of_a_batch_are_those_of_single_rows(model):
    one, many = (attribution_graph(model, IDS, transcoders(model), batch_size=n) for n in (1, 37))
    assert one.nodes == many.nodes
    assert np.abs(one.matrix - many.matrix).max() <= 1e-5 * np.abs(one.matrix).max()


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen2", "gemma2", "gpt_neox"])
def test_both_wings_make_the_same_graph(model_type, tmp_path):
    if len(mlxterp.available_backends()) < 2:
        pytest.skip("needs both wings")
    folder, graphs = folder_of(model_type, tmp_path), []
    for backend in ("mlx", "torch"):
        model = opened(folder, backend)
        graphs.append(attribution_graph(model, IDS, transcoders(model), targets=[5, 9]))
    one, other = graphs
    assert [node.id for node in one.nodes] == [node.id for node in other.nodes]
    assert np.abs(one.matrix - other.matrix).max() <= 1e-4 * np.abs(one.matrix).max()
    assert max(one.law, other.law) < 1e-4


def test_a_graph_of_fewer_features_has_the_rows_of_the_whole_one(model):
    whole = attribution_graph(model, IDS, transcoders(model))
    few = attribution_graph(model, IDS, transcoders(model), max_features=12, batch_size=3)
    assert few.shape.features == 12
    rows = [places(whole.targets)[node.id] for node in few.targets]
    columns = [places(whole.sources)[node.id] for node in few.sources]
    assert np.abs(few.matrix - whole.matrix[np.ix_(rows, columns)]).max() <= 1e-5 * np.abs(whole.matrix).max()


def test_rows_of_passes_of_the_first_tokens_are_those_of_the_whole(model):
    anatomy = model.session.plain
    order = unrolled(anatomy)
    placed = transcoders_of(anatomy, order, transcoders(model))
    made = replacement_of(anatomy, IDS, order, placed, final=False, dropped=0, token_vectors=False)
    columns, numbers = made.columns(), np.arange(len(made.features))
    parts = Prefixes(made.frozen, columns, rows=10**6)
    groups = list(parts.groups(made.features[:, 1]))
    assert [end for end, _ in groups] == [2, 3, 5, 6]
    assert np.array_equal(np.sort(np.concatenate([chosen for _, chosen in groups])), numbers)
    for end, chosen in groups:
        reads = made.reads(chosen)
        assert made.features[chosen, 1].max() < end
        found, expected = parts.rows(reads), made.frozen.rows(reads, columns)
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_layer_without_transcoder_is_an_error_node_and_is_named(model):
    with pytest.warns(MlxterpWarning, match="MLP of layer 1: what"):
        graph = attribution_graph(model, IDS, {0: transcoder(0, 64), 2: transcoder(2, 64)})
    assert {node.layer for node in graph.nodes if node.kind == "error"} == {0, 1, 2}
    total = graph.matrix.sum(axis=1, dtype=np.float64) + graph.bias
    assert np.abs(total - graph.values).max() <= 1e-5 * np.abs(graph.values).max()


def test_circuit_tracers_conventions_drop_the_first_position(model):
    graph = attribution_graph(model, IDS, transcoders(model), conventions="circuit-tracer")
    exact = attribution_graph(model, IDS, transcoders(model))
    assert all(node.position > 0 for node in graph.features)
    first = [
        places(graph.sources)[node.id] for node in graph.nodes if node.kind == "error" and node.position == 0
    ]
    assert len(first) == 3 and not graph.matrix[:, first].any()
    shared = [node.id for node in graph.features]
    rows = [places(exact.targets)[name] for name in shared]
    kept = [places(exact.sources)[name] for name in shared]
    assert np.abs(graph.matrix[: len(shared), : len(shared)] - exact.matrix[np.ix_(rows, kept)]).max() < 1e-5


def test_token_vectors_of_learned_positions_go_to_the_bias(tmp_path):
    model = opened(folder_of("gpt2", tmp_path), mlxterp.get_backend().name)
    exact = attribution_graph(model, IDS, transcoders(model), targets=[5])
    theirs = attribution_graph(model, IDS, transcoders(model), targets=[5], conventions="circuit-tracer")
    assert abs(exact.values[-1] - theirs.values[-1]) < 1e-4
    assert np.abs(exact.matrix[-1, -len(IDS) :] - theirs.matrix[-1, -len(IDS) :]).max() > 1e-3


def test_targets_are_tokens_differences_and_directions(model):
    direction = np.linspace(-1, 1, model.d_model)
    asked = {"a": 5, "b": 9, "a − b": mlxterp.logit_difference(5, 9), "mine": direction}
    graph = attribution_graph(model, IDS, transcoders(model), targets=asked)
    a, b, difference, mine = graph.matrix[-4:]
    assert np.abs(a - b - difference).max() <= 1e-5 * np.abs(a).max()
    assert [node.probability for node in graph.outputs][2:] == [1.0, 1.0]
    normed: Any = model.trace(IDS).activations["final_norm"]
    expected = model.language_model.backend.get(normed)[0, -1] @ direction
    assert abs(graph.values[-1] - expected) < 1e-3 and mine.any()
    logits = np.asarray(model.language_model.backend.get(model(IDS))[0, -1])
    assert np.allclose(graph.values[-4:-2], logits[[5, 9]] - logits.mean(), atol=1e-4)


def test_the_likeliest_tokens_reach_the_probability(model):
    logits = np.asarray(model.language_model.backend.get(model(IDS))[0, -1], dtype=np.float64)
    p = np.exp(logits - logits.max())
    p /= p.sum()
    graph = attribution_graph(model, IDS, transcoders(model), max_logits=50, logit_prob=0.3)
    ids = [node.token_id for node in graph.outputs]
    assert ids == np.argsort(-p, kind="stable")[: len(ids)].tolist()
    assert p[ids].sum() >= 0.3 > p[ids[:-1]].sum()


def places(nodes: Sequence[Node]) -> dict[str, int]:
    return {node.id: i for i, node in enumerate(nodes)}


def bad(model: InterpretableModel) -> dict[str, tuple[Any, type[Exception], str]]:
    good, width = transcoders(model), model.d_model
    plain = transcoder(0, width).replace()
    plain.metadata = {"component": "layers.0.mlp_out"}
    return {
        "several prompts": ({"prompt": [IDS, IDS]}, InputError, "one prompt"),
        "no prompt": ({"prompt": []}, InputError, "at least one"),
        "a width that does not fit": ({"transcoders": {0: transcoder(0, 8)}}, SAEError, "64"),
        "an SAE": ({"transcoders": {0: plain}}, SAEError, "takes transcoders"),
        "two of a layer": ({"transcoders": [good[0], good[0]]}, SAEError, "Two transcoders are of layer 0"),
        "another layer": ({"transcoders": {1: good[0]}}, SAEError, "not in layer 1"),
        "none": ({"transcoders": {}}, InputError, "holds none"),
        "a number": ({"transcoders": 3}, InputError, "transcoders= is int"),
        "bent features": (
            {"transcoders": {0: good[0].replace(activation=TanhReLU())}}, SAEError, "not linear"
        ),
        "a token twice": ({"targets": [5, 5]}, InputError, "twice"),
        "no target": ({"targets": []}, InputError, "targets= is empty"),
        "a token beyond": ({"targets": 10**6}, InputError, "vocabulary"),
        "a nameless direction": ({"targets": [np.ones(4)]}, InputError, "Directions have names"),
        "a short direction": ({"targets": {"x": np.ones(4)}}, InputError, "direction of 64"),
        "a share": ({"logit_prob": 1.5}, InputError, "logit_prob"),
        "no features": ({"max_features": 0}, InputError, "max_features"),
        "a convention": ({"conventions": "mine"}, InputError, "conventions"),
        "an option": ({"prob": 0.3}, InputError, "takes no prob="),
    }  # fmt: skip


def test_what_is_asked_wrongly_is_refused_by_name(model):
    for name, (options, kind, said) in bad(model).items():
        asked = {"prompt": IDS, "transcoders": transcoders(model), **options}
        assert said in refusal(model, kind, asked), name


def refusal(model: InterpretableModel, kind: type[Exception], asked: dict[str, Any]) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MlxterpWarning)
        with pytest.raises(kind) as caught:
            attribution_graph(model, **asked)
    return str(caught.value)


def test_a_prompt_that_activates_nothing_is_refused(model):
    silent = {
        layer: sae.replace(weights=sae.weights.map(lambda x: x - 1e3 if x.ndim == 1 and len(x) == 24 else x))
        for layer, sae in transcoders(model).items()
    }
    with pytest.raises(InputError, match="No feature of these transcoders is active"):
        attribution_graph(model, IDS, silent)


def test_a_model_that_something_acts_on_is_refused(model):
    from mlxterp.steering import add_direction

    with (
        model.steer(add_direction(np.ones(64), 1.0, at="layers.0.resid_post")),
        pytest.raises(InputError, match="acts on this model"),
    ):
        attribution_graph(model, IDS, transcoders(model))


def test_a_graph_that_does_not_fit_names_the_argument_that_lowers_it(model, monkeypatch):
    monkeypatch.setattr("mlxterp.circuits.attribution.free_bytes", lambda: 30_000)
    with pytest.raises(InputError, match="max_features="):
        attribution_graph(model, IDS, transcoders(model))


def test_a_prompt_of_one_token_has_a_graph(model):
    graph = attribution_graph(model, IDS[:1], transcoders(model))
    assert graph.shape.embeddings == 1 and graph.features
