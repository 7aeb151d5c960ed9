"""Features set to values: what the graph's edges say where everything is held, plain edits where nothing is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlxterp import (
    ComponentError,
    InputError,
    InterpretableModel,
    MlxterpError,
    SAEError,
    UnknownFeatureError,
)
from mlxterp.circuits import Node, attribution_graph
from mlxterp.circuits.places import places_of
from mlxterp.core.sites import SiteEdit
from mlxterp.core.tokens import TokenBatch
from mlxterp.edits.compile import site_edits
from mlxterp.steering import add_direction
from tests.circuits.conftest import IDS
from tests.circuits.making import cross_layer, opened, transcoders

FREEZES = ("all", "attention+norms", "attention", None)
TARGETS = [5, 9]
KINDS = ("layer by layer", "across layers")


@pytest.fixture(params=KINDS)
def given(request, model: InterpretableModel) -> Any:
    """Transcoders of each kind."""
    if request.param == "across layers":
        return cross_layer(model.n_layers, model.d_model)
    return transcoders(model, skip=True)


def early(graph: Any, n: int = 2) -> list[Node]:
    """Features that much depends on."""
    return sorted(graph.features, key=lambda node: -abs(graph.matrix[-2:, graph._columns[node.id]]).max())[:n]


def logits_of(model: InterpretableModel, ids: list[int]) -> np.ndarray:
    return np.asarray(model.language_model.backend.get(model(ids)))[0, -1]


# -- laws -----------------------------------------------------------------------------------------


def test_with_everything_held_effects_are_the_edges_and_two_add(model, given):
    graph = attribution_graph(model, IDS, given, targets=TARGETS)
    one, other = early(graph)
    edges = graph.matrix[-2:, [graph._columns[node.id] for node in (one, other)]]
    factors = np.array([2.5, -1.0])
    expected = edges * factors  # of the changes, as multiples of the activations
    values = {node: (node.activation or 0.0) * (1 + f) for node, f in zip((one, other), factors, strict=True)}
    alone = [
        model.feature_intervention(IDS, {node: value}, given).effect[TARGETS]
        for node, value in values.items()
    ]
    assert np.abs(np.stack(alone, axis=1) - expected).max() <= 1e-4 * np.abs(expected).max()
    both = model.feature_intervention(IDS, values, given)
    assert np.abs(both.effect[TARGETS] - np.sum(alone, axis=0)).max() <= 1e-4 * np.abs(expected).max()


def test_features_that_read_what_is_changed_change_by_their_edges(model, given):
    """Of later features, those that stay active: their activations are their inputs."""
    graph = attribution_graph(model, IDS, given, targets=TARGETS)
    source = max(
        (node for node in graph.features if node.layer == 0),
        key=lambda node: abs(graph.matrix[:, graph._columns[node.id]]).max(),
    )
    found = model.feature_intervention(IDS, {source: (source.activation or 0.0) * 1.01}, given)
    column, seen = graph.matrix[: graph.shape.features, graph._columns[source.id]] * 0.01, 0
    for row, node in enumerate(graph.features):
        after = found.activations[node.layer].columns(np.array([node.feature_id]))[node.position, 0]
        if after > 0:
            seen += 1
            assert abs(after - node.activation - column[row]) <= 1e-4 * max(1.0, abs(column).max())
    assert seen > 100


@pytest.mark.parametrize("freeze", FREEZES)
def test_a_value_that_is_the_activation_is_bit_identical(model, given, freeze):
    graph = attribution_graph(model, IDS, given, targets=TARGETS)
    values = {node: node.activation for node in early(graph, 3)}
    found = model.feature_intervention(IDS, values, given, freeze=freeze)
    assert np.array_equal(found.logits, found.logits_before) and not found.effect.any()
    changed = model.feature_intervention(IDS, {early(graph, 1)[0]: 30.0}, given, freeze=freeze)
    assert np.array_equal(found.logits_before, changed.logits_before)
    assert np.abs(changed.effect).max() > 1e-3
    plain = logits_of(model, IDS)
    same = np.array_equal if freeze is None else lambda a, b: np.abs(a - b).max() < 1e-5
    assert same(found.logits, plain)


def test_taking_one_feature_away_is_what_validate_measures_in_every_mode(model, given):
    graph = attribution_graph(model, IDS, given, targets=TARGETS)
    validation = graph.validate(2)
    for number, node in enumerate(validation.features):
        for mode, freeze in zip(validation.modes, FREEZES, strict=True):
            found = model.feature_intervention(IDS, {node: 0.0}, given, freeze=freeze)
            largest = np.abs(mode.measured).max()
            assert np.abs(found.effect[TARGETS] - mode.measured[number]).max() <= 1e-4 * largest, freeze


def test_later_changes_go_from_what_earlier_ones_leave_unless_everything_is_held(model):
    """Two features of two layers, by hand: the second one's activation is read with the first one changed."""
    given = transcoders(model)
    first, second, position = 3, 5, 3
    get, put = model.language_model.backend.get, model.language_model.backend.put

    def change(layer: int, feature: int, value: float, read: Any) -> Any:
        sae = given[layer]
        now = float(np.asarray(sae.encode(np.asarray(get(read))[0, position]))[feature])
        moved = np.zeros((1, len(IDS), model.d_model), np.float32)
        moved[0, position] = (value - now) * sae.W_dec[feature]
        return put(moved)

    with model.trace(IDS) as trace:
        model.layers[0].mlp.output += change(0, first, 20.0, model.layers[0].mlp.input)
        model.layers[1].mlp.output += change(1, second, 7.0, model.layers[1].mlp.input)
    expected = np.asarray(get(trace.output))[0, -1]
    found = model.feature_intervention(
        IDS, [(0, position, first, 20.0), (1, position, second, 7.0)], given, freeze=None
    )
    assert np.abs(found.logits - expected).max() < 1e-4
    held = [
        model.feature_intervention(IDS, values, given, freeze="attention+norms").activations[1]
        for values in ({(0, position, first): 20.0}, {(0, position, first): 20.0, (1, position, second): 7.0})
    ]
    assert np.abs(held[0].to_dense() - held[1].to_dense()).max() < 1e-5


def test_both_wings_give_the_same_effects(llama):
    import mlxterp
    from tests.circuits.making import opened

    if len(mlxterp.available_backends()) < 2:
        pytest.skip("needs both wings")
    values, clt = {(0, 2, 3): 4.0, (1, -1, 7): 0.5}, cross_layer(3, 64)
    for freeze in FREEZES:
        one, other = (
            opened(llama, backend).feature_intervention(IDS, values, clt, freeze=freeze).effect
            for backend in ("mlx", "torch")
        )
        assert np.abs(one - other).max() <= 1e-4 * np.abs(one).max(), freeze


# -- as edits, and in generation ------------------------------------------------------------------


@pytest.mark.parametrize("position", ["all", slice(2, None)], ids=["all", "slice"])
def test_open_ended_positions_act_on_each_new_token(model, given, position):
    asked = [(0, position, 3, 9.0), (1, position, 4, 6.0)]
    found = model.feature_intervention(IDS, asked, given, freeze=None, max_tokens=4)
    text = list(IDS)
    for _ in range(4):
        text.append(int(model.feature_intervention(text, asked, given, freeze=None).logits.argmax()))
    assert found.written == text[len(IDS) :]
    assert found.written == model.generate(IDS, max_tokens=4, steer=found.edits)
    closed = model.feature_intervention(IDS, [(0, (0, 1), 3, 9.0)], given, freeze=None, max_tokens=4)
    assert "positions=(0, 1)" in repr(closed.edits[0])


@pytest.mark.parametrize("freeze", ["all", "attention+norms", "attention"])
def test_writing_goes_on_live_from_the_prompt_that_is_held(model, freeze):
    """By hand: the held pass's keys and values stand in a plain pass over prompt and new tokens, read anew for each."""
    given = cross_layer(3, 64)
    asked = [(0, (1, 4), 3, 9.0), (1, 2, 5, 7.0), (0, "all", 7, 5.0)]
    found = model.feature_intervention(IDS, asked, given, freeze=freeze, max_tokens=4)
    anatomy, text = model.session.plain, [*IDS, int(found.logits.argmax())]
    later = [
        replace(edit, positions=slice(len(IDS), None)) for edit in found.edits if edit.positions == "all"
    ]
    cached = kept_cache(model, asked, given, freeze)
    while len(text) < len(IDS) + 4:
        run = anatomy.model.run(TokenBatch.from_rows([text]), edits=[*cached, *site_edits(anatomy, later)])
        text.append(int(np.asarray(anatomy.model.backend.get(run.logits))[0, -1].argmax()))
    assert found.written == text[len(IDS) :]
    assert found.written != model.generate(IDS, max_tokens=4)


def kept_cache(model: InterpretableModel, asked: Any, given: Any, freeze: Any) -> list[SiteEdit]:
    """Edits that put a held pass's keys and values of the prompt in their places."""
    anatomy, seen, backend = model.session.plain, {}, model.language_model.backend
    sites = [
        anatomy.component(f"layers.{layer}.self_attn.{port}_proj").sites[0]
        for port in "kv"
        for layer in range(model.n_layers)
    ]

    def note(x: Any, site: Any) -> Any:
        seen[site] = np.array(backend.get(x))
        return x

    def put(x: Any, site: Any) -> Any:
        whole = np.array(backend.get(x))
        whole[:, : len(IDS)] = seen[site]
        return backend.put(whole, like=x)

    def edits(function: Any) -> list[SiteEdit]:
        return [SiteEdit(site, lambda x, _run, _call, site=site: function(x, site)) for site in sites]

    kind: Any = type(anatomy.model.frozen_pass(IDS, places_of(anatomy, {}, {})))
    plain = kind._passed

    def watched(self: Any, *args: Any, edits: Any = (), **options: Any) -> Any:
        return plain(self, *args, edits=[*edits, *noting], **options)

    noting = edits(note)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "_passed", watched)
        model.feature_intervention(IDS, asked, given, freeze=freeze)
    return edits(put)


@pytest.mark.parametrize("freeze", FREEZES)
def test_writing_with_values_that_are_the_activations_is_plain_writing(model, freeze):
    given = transcoders(model)
    graph = attribution_graph(model, IDS, given, targets=TARGETS)
    values = {node: node.activation for node in early(graph, 3)}
    found = model.feature_intervention(IDS, values, given, freeze=freeze, max_tokens=6)
    assert found.written == model.generate(IDS, max_tokens=6)


def test_two_held_changes_add_in_what_is_written_first(model):
    """The first token is that of the summed effects; the others go on from a cache that holds both."""
    given = transcoders(model)
    first, second = {(0, 2, 3): 40.0}, {(1, -1, 5): 40.0}
    both = model.feature_intervention(IDS, first | second, given, max_tokens=3)
    alone = [model.feature_intervention(IDS, one, given).effect for one in (first, second)]
    assert both.written[0] == int((both.logits_before + np.sum(alone, axis=0)).argmax())


def test_open_ended_positions_act_on_new_tokens_while_the_prompt_is_held(model):
    given, freeze = transcoders(model), "all"
    only_new = model.feature_intervention(
        IDS, {(0, "generated", 3): 60.0}, given, freeze=freeze, max_tokens=4
    )
    live = model.feature_intervention(IDS, {(0, "generated", 3): 60.0}, given, freeze=None, max_tokens=4)
    assert only_new.written == live.written
    everywhere, prompt = (
        model.feature_intervention(IDS, [(0, positions, 3, 60.0)], given, freeze=freeze, max_tokens=4).written
        for positions in ("all", "prompt")
    )
    assert everywhere[0] == prompt[0] and everywhere != prompt


@pytest.mark.parametrize(
    "positions", ["all", "prompt", 7, (1, 8), slice(None, None, 4), slice(1, 3)], ids=repr
)
def test_what_comes_after_the_prompt_is_told_apart(positions):
    from mlxterp.circuits.asked import _on_new

    every = np.arange(20)
    chosen = set(every[positions if isinstance(positions, slice) else np.atleast_1d(positions)].tolist()) if (
        not isinstance(positions, str)) else set(every if positions == "all" else every[:6])  # fmt: skip
    found = _on_new(positions, 6)
    kept = {"generated": set(every[6:]), None: set()}.get(found) if not isinstance(found, (slice, tuple)) else set(
        every[found if isinstance(found, slice) else list(found)].tolist())  # fmt: skip
    assert kept == {one for one in chosen if one >= 6}


def test_a_model_of_few_bits_writes_from_a_held_prompt(llama, backend):
    if backend == "torch":
        import torch
        from transformers import AutoModelForCausalLM

        small = InterpretableModel(AutoModelForCausalLM.from_pretrained(llama, dtype=torch.bfloat16))
    else:
        import mlx.core as mx

        raw: Any = opened(llama, backend).language_model
        raw.model.set_dtype(mx.bfloat16)
        small = InterpretableModel(raw.model)
    given = transcoders(small)
    found = small.feature_intervention(IDS, {(0, 2, 3): 60.0}, given, max_tokens=4)
    assert len(found.written) == 4 and found.written[0] == found.logits.argmax()


def test_what_is_generated_is_changed_and_the_prompt_is_not(model, given):
    found = model.feature_intervention(
        IDS, {(0, "generated", 3): 50.0, (2, "generated", 1): 50.0}, given, freeze=None, max_tokens=4
    )
    assert np.array_equal(found.logits, found.logits_before)
    plain = model.generate(IDS, max_tokens=4)
    assert found.written[0] == plain[0] and found.written != plain


def test_interventions_go_together_with_other_edits(model):
    given, push = transcoders(model), add_direction(np.linspace(-1, 1, 64), 3.0, at="layers.1.resid_post")
    value = {(0, 2, 3): 9.0}
    with model.steer(push):
        found = model.feature_intervention(IDS, value, given, freeze=None)
        assert np.array_equal(found.logits_before, logits_of(model, IDS))
        with pytest.raises(InputError, match="acts on this model"):
            model.feature_intervention(IDS, value, given, freeze="attention")
    with model.steer(push, *found.edits):
        assert np.array_equal(found.logits, logits_of(model, IDS))


def test_the_model_is_as_before(model):
    before = logits_of(model, IDS)
    for freeze in FREEZES:
        model.feature_intervention(IDS, {(0, 2, 3): 9.0}, transcoders(model), freeze=freeze)
    assert np.array_equal(logits_of(model, IDS), before)


@pytest.mark.parametrize(
    "position", [4, -2, (0, -1), [1, 3], slice(-2, None), slice(-9, 2), slice(None, -9), slice(1, None, 2),
                 "prompt[1:]"],
    ids=repr,
)  # fmt: skip
def test_positions_are_counted_as_python_counts_them_in_the_prompt(position):
    from mlxterp.circuits.asked import _positions

    every = np.arange(len(IDS))
    expected = every[1:] if isinstance(position, str) else np.sort(np.atleast_1d(every[
        list(position) if isinstance(position, tuple) else position]))  # fmt: skip
    where, chosen = _positions(position, len(IDS), 3)
    assert np.array_equal(chosen, expected)
    assert not isinstance(where, slice) or min(where.start or 0, where.stop or 0) >= 0


# -- what is shown, and what is asked wrongly -----------------------------------------------------


def test_the_result_shows_features_and_tokens(model):
    found = model.feature_intervention(IDS, {(0, -1, 3): 9.0}, transcoders(model))
    assert [one.token_id for one in found.likeliest(3)] == np.argsort(-found.logits, kind="stable")[
        :3
    ].tolist()
    assert abs(sum(one.probability for one in found.likeliest(200)) - 1) < 1e-6
    said = str(found)
    assert (
        "1 feature set" in said and "everything is held" in said and "L0 #3 at 5" in said and "9.000" in said
    )
    assert "found then" in found.fragment() and repr(found).startswith("FeatureIntervention(1 features")


BAD: dict[str, tuple[Any, type[MlxterpError], str]] = {
    "no layer": ({(9, 0, 3): 1.0}, ComponentError, "no layer 9"),
    "a layer that is missed": (
        {(1, 0, 3): 1.0},
        InputError,
        "in layer 1; the transcoders are of layers 0, 2",
    ),
    "no position": ({(0, 6, 3): 1.0}, InputError, "Position 6 is never reached"),
    "a position before the prompt": ({(0, -7, 3): 1.0}, InputError, "lies before the prompt"),
    "an empty slice": ([(0, slice(9, None), 3, 1.0)], InputError, "none of the prompt's 6 tokens"),
    "what is not written": ({(0, "generated", 3): 1.0}, InputError, "pass max_tokens="),
    "no word": ({(0, "end", 3): 1.0}, InputError, "positions='end'"),
    "None": ({(0, None, 3): 1.0}, InputError, "names no position"),
    "no feature": ({(0, 1, 24): 1.0}, UnknownFeatureError, "the transcoder of layer 0"),
    "a negative feature": ({(0, 1, -1): 1.0}, UnknownFeatureError, "-1"),
    "NaN": ({(0, 1, 3): float("nan")}, InputError, "The value of feature 3 of layer 0 is nan"),
    "a word": ({(0, 1, 3): "much"}, InputError, "'much'"),
    "two values": ([(0, 1, 3, 1.0), (0, "all", 3, 2.0)], InputError, "is set to 1 and to 2 at position 1"),
    "too few": ({(0, 1): 1.0}, InputError, "expected (layer, position, feature) and a value"),
    "nothing": ({}, InputError, "is empty"),
    "a number": (3, InputError, "interventions= is int"),
}


def test_what_is_asked_wrongly_is_refused_by_name(model):
    given = transcoders(model)
    partly = {0: given[0], 2: given[2]}
    for name, (asked, kind, said) in BAD.items():
        with pytest.raises(kind) as caught:
            model.feature_intervention(IDS, asked, partly)
        assert said in str(caught.value), name
    error = next(node for node in attribution_graph(model, IDS, given).nodes if node.kind == "error")
    good = {(0, 1, 3): 1.0}
    for options, kind, said in (
        ({"interventions": {error: 1.0}}, InputError, "is no feature"),
        ({"freeze": "norms"}, InputError, "freeze is 'norms'"),
        ({"max_tokens": 0}, InputError, "max_tokens"),
        ({"transcoders": {0: given[1]}}, SAEError, "not in layer 0"),
        ({"prompt": []}, InputError, "at least one"),
    ):
        asked: Any = {"prompt": IDS, "interventions": good, "transcoders": given, **options}
        with pytest.raises(kind) as caught:
            model.feature_intervention(**asked)
        assert said in str(caught.value), options
