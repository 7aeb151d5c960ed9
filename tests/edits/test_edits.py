"""Steering says what it does: laws of every edit, alone and together, in both wings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlxterp
from mlxterp import SAE, InterpretableModel, variants
from mlxterp.errors import EditError, InputError, SAEError, UnknownFeatureError
from mlxterp.steering import (
    ablate,
    add_direction,
    add_feature,
    amplify,
    clamp,
    direction,
    feature,
    norm_preserving,
    project_out,
    threshold_add,
)
from mlxterp.weights import SAEWeights
from tests import oracle
from tests.small import open_llama

D, FEATURES = 64, 96
PLACE = "layers.1.resid_post"
IDS = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38]
BATCH = [IDS, [7, 8, 9], [100, 3, 14, 15, 92, 65]]


def make_sae(
    activation: variants.Activation | None = None,
    seed: int = 0,
    form: variants.InputForm | None = None,
    component: str | None = PLACE,
) -> SAE:
    draw = np.random.default_rng(seed)
    W_dec = draw.normal(size=(FEATURES, D)).astype(np.float32) * draw.uniform(0.5, 2, (FEATURES, 1))
    weights = SAEWeights(
        W_dec.T / 8, draw.normal(size=FEATURES) * 0.1, W_dec, draw.normal(size=D) * 0.1,
        extra={"threshold": np.full(FEATURES, 0.5, np.float32)} if isinstance(activation, variants.JumpReLU) else {},
    )  # fmt: skip
    weights = weights.map(lambda x: np.asarray(x, dtype=np.float32))
    metadata = {} if component is None else {"component": component}
    return SAE(weights, activation or variants.TopK(8), metadata, form=form)


def get(model: InterpretableModel, x) -> np.ndarray:
    return model.language_model.backend.get(x)


def values(model: InterpretableModel, inputs=IDS, name: str = PLACE) -> np.ndarray:
    t = model.trace(inputs, capture=[name])
    return get(model, t.activations[name])


def active_feature(model: InterpretableModel, sae: SAE) -> int:
    return int(np.abs(sae.encode(values(model)[0])).sum(axis=0).argmax())


# -- what changes nothing -------------------------------------------------------------------------


def test_edits_that_say_nothing_change_no_bit(model):
    sae = make_sae()
    clean, f = get(model, model(IDS)), active_feature(model, sae)
    v = np.ones(D, np.float32)
    nothing = [
        amplify(sae, f, 1.0), add_feature(sae, f, 0.0), add_feature(sae, f, 0, units="norm"),
        add_direction(v, 0.0, at=PLACE), project_out(v, at=PLACE, keep=1.0),
        threshold_add(v, 0.0, 1.0, at=PLACE), add_feature(sae, f, 3.0, when=feature(sae, f) > 1e9),
        clamp(sae, f, 9.0, when=direction(v) > 1e9), amplify(sae, f, 5.0, positions=[]),
        norm_preserving(add_direction(v, 2.0, at=PLACE, when=direction(v) > 1e9)),
        add_direction(v, 5.0, at=PLACE, positions="generated"),
    ]  # fmt: skip
    for edit in nothing:
        with model.steer(edit):
            assert np.array_equal(get(model, model(IDS)), clean), edit
        assert np.array_equal(get(model, model(IDS)), clean)


def test_a_feature_that_is_not_active_cannot_be_amplified_or_ablated(model):
    sae = make_sae()
    f = int(np.flatnonzero(~sae.encode(values(model)[0]).any(axis=0))[0])
    clean = get(model, model(IDS))
    for edit in (ablate(sae, f), amplify(sae, f, 7.0)):
        with model.steer(edit):
            assert np.array_equal(get(model, model(IDS)), clean)


def test_an_exception_leaves_the_model_as_it_was(model):
    sae, clean = make_sae(), get(model, model(IDS))
    with pytest.raises(RuntimeError), model.steer(ablate(sae, 0), add_feature(sae, 1, 3.0)):
        raise RuntimeError
    assert np.array_equal(get(model, model(IDS)), clean)


def test_clamping_a_token_to_its_own_activation_changes_nothing(model):
    sae, clean = make_sae(), get(model, model(IDS))
    f = active_feature(model, sae)
    at = int(sae.encode(values(model)[0])[:, f].argmax())
    own = float(sae.encode(values(model)[0])[at, f])
    with model.steer(clamp(sae, f, own, positions=at)):
        assert np.abs(get(model, model(IDS)) - clean).max() < 1e-5


# -- what is added --------------------------------------------------------------------------------

KINDS = {
    "amplify": amplify,
    "clamp": clamp,
    "at_least": lambda sae, f, number: clamp(sae, f, number, at_least=True),
    "add": add_feature,
    "add_norm": lambda sae, f, number: add_feature(sae, f, number, units="norm"),
}
VARIANTS = [
    variants.TopK(8), variants.JumpReLU(), variants.ReLU(), variants.AbsTopK(8), variants.GroupMax(8),
    variants.TopK(8, relu=False),
]  # fmt: skip


@pytest.mark.parametrize("activation", VARIANTS, ids=lambda a: a.name)
@given(
    edits=st.lists(
        st.tuples(st.sampled_from(sorted(KINDS)), st.integers(0, 5), st.floats(-4, 4, width=32)), max_size=6
    ),
    seed=st.integers(0, 1000),
)
@settings(max_examples=20)
def test_edits_of_one_sae_act_in_order_on_one_encoding(activation, edits, seed):
    from mlxterp.core.sites import Where
    from mlxterp.edits.steps import FeatureStep, Moment

    sae = make_sae(activation)
    h = np.random.default_rng(seed).normal(size=(7, D)).astype(np.float32) * 3
    common = np.argsort(-np.abs(sae.encode(h)).sum(axis=0), kind="stable")  # features that are active
    named = [(kind, int(common[f]), number) for kind, f, number in edits]
    expected = oracle.steered(h, sae.encode(h), sae.weights, named)
    for name in mlxterp.available_backends():
        wing = mlxterp.get_backend(name)
        step = FeatureStep(sae, [KINDS[kind](sae, f, number) for kind, f, number in named])
        found = wing.get(step(wing.put(h[None]), Moment("x", Where.whole(7, np.array([7])))))[0]
        assert np.abs(found - expected).max() < 1e-4 * max(1, np.abs(expected).max())


@pytest.mark.parametrize(
    "form",
    [None, variants.InputForm(normalize="layer_norm"), variants.InputForm(normalize="constant_norm")],
    ids=["plain", "layer_norm", "constant_norm"],
)
def test_a_clamp_is_decoding_with_the_feature_set_plus_the_error(backend, form):
    sae = make_sae(form=form).on(backend)
    h = np.random.default_rng(3).normal(size=(2, 5, D)).astype(np.float32) * 2
    z = sae.encode(h)
    changed = z.copy()
    changed[..., 11] = 2.5
    expected = sae.decode(changed, like=h) + (h - sae.decode(z, like=h))
    wing = mlxterp.get_backend(backend)
    found = wing.get(clamp(sae, 11, 2.5)(wing.put(h)))
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_raw_strength_multiplies_the_decoder_row(model):
    sae = make_sae()
    before = values(model)
    with model.steer(add_feature(sae, 5, -2.5)):
        assert np.abs(values(model) - (before - 2.5 * sae.W_dec[5])).max() < 1e-5


def test_maxima_come_from_metadata_or_an_index():
    sae = make_sae()
    with pytest.raises(InputError, match="index="):
        add_feature(sae, 5, 1.0, units="max")
    sae.metadata["max_activations"] = {"5": 4.0}
    assert add_feature(sae, 5, 0.5, units="max").number == 2.0
    assert clamp(sae, 5, 2, units="max").number == 8.0
    sae.metadata["max_activations"] = [1.0] * FEATURES
    assert add_feature(sae, 5, 0.5, units="max").number == 0.5


def test_lengths_are_those_of_each_token(model):
    v = np.arange(1, D + 1, dtype=np.float32)
    before = values(model)[0]
    with model.steer(add_direction(v, 0.3, at=PLACE, units="norm")):
        added = values(model)[0] - before
    assert np.allclose(np.linalg.norm(added, axis=1), 0.3 * np.linalg.norm(before, axis=1), rtol=1e-4)


def test_projecting_out_leaves_nothing_along_the_vector(model):
    v = np.random.default_rng(0).normal(size=D).astype(np.float32)
    unit = v / np.linalg.norm(v)
    before = values(model)
    with model.steer(project_out(v, at=PLACE)):
        after = values(model)
    assert np.abs(after @ unit).max() < 1e-4
    assert np.abs(before - (before @ unit)[..., None] * unit - after).max() < 1e-5


def test_a_threshold_decides_who_gets_the_vector(model):
    v = np.random.default_rng(1).normal(size=D).astype(np.float32)
    before = values(model)[0]
    along = before @ v / np.linalg.norm(v)
    limit = float(np.median(along))
    with model.steer(threshold_add(v, 2.0, limit, at=PLACE)):
        after = values(model)[0]
    assert np.abs(after - (before + 2 * v * (along < limit)[:, None])).max() < 1e-5


def test_a_preserved_norm_is_the_one_before(model):
    sae = make_sae()
    before = values(model)[0]
    edits = [
        add_direction(np.ones(D), 3.0, at=PLACE, preserve_norm=True),
        norm_preserving(add_feature(sae, 4, 9.0)),
    ]
    for edit in edits:
        with model.steer(edit):
            after = values(model)[0]
        assert np.allclose(np.linalg.norm(after, axis=1), np.linalg.norm(before, axis=1), rtol=1e-5)
        assert np.abs(after - before).max() > 0.1


def test_a_condition_is_decided_for_each_token(model):
    sae = make_sae()
    f = active_feature(model, sae)
    h = values(model)[0]
    z = sae.encode(h)[:, f]
    limit = float(np.median(z[z > 0]))
    for condition, holds in ((feature(sae, f) > limit, z > limit), (feature(sae, f) < limit, z < limit)):
        with model.steer(add_feature(sae, 3, 2.0, when=condition)):
            assert np.abs(values(model)[0] - (h + 2 * holds[:, None] * sae.W_dec[3])).max() < 1e-5


def test_a_condition_can_be_read_at_an_earlier_component_and_not_at_a_later_one(model):
    v = np.random.default_rng(2).normal(size=D).astype(np.float32)
    early = values(model, name="layers.0.resid_post")[0]
    holds = (early @ v) / np.linalg.norm(v) > 0
    before = values(model)[0]
    with model.steer(add_direction(v, 1.0, at=PLACE, when=direction(v, at="layers.0.resid_post") > 0)):
        assert np.abs(values(model)[0] - (before + holds[:, None] * v)).max() < 1e-5
    late = add_direction(v, 1.0, at=PLACE, when=direction(v, at="layers.2.resid_post") > 0)
    with pytest.raises(EditError, match="not computed"), model.steer(late):
        model(IDS)


# -- several ------------------------------------------------------------------------------------------


def test_ablating_and_then_amplifying_is_ablating_wherever_the_edits_are_given(model):
    sae = make_sae()
    f = active_feature(model, sae)
    with model.steer(ablate(sae, f)):
        expected = get(model, model(IDS))
        with model.steer(amplify(sae, f, 5.0)):
            assert np.array_equal(get(model, model(IDS)), expected)
    with model.steer(ablate(sae, f), amplify(make_sae(), f, 5.0)):  # an equal SAE is the same SAE
        assert np.array_equal(get(model, model(IDS)), expected)


def test_another_sae_meets_what_the_one_before_it_left(model):
    one, other = make_sae(seed=0), make_sae(seed=9)
    h = values(model)[0]
    middle = oracle.steered(h, one.encode(h), one.weights, [("clamp", 2, 3.0), ("add", 4, 1.0)])
    middle = middle.astype(np.float32)
    expected = oracle.steered(middle, other.encode(middle), other.weights, [("clamp", 5, 2.0)])
    with model.steer([clamp(one, 2, 3.0), clamp(other, 5, 2.0), add_feature(one, 4, 1.0)]):
        assert np.abs(values(model)[0] - expected).max() < 1e-4


def test_blocks_nest_with_traces_in_any_order(model):
    v = np.random.default_rng(4).normal(size=D).astype(np.float32)
    edit = add_direction(v, 1.0, at=PLACE)
    later = "layers.2.resid_post"
    expected = values(model, name=PLACE) + v
    with model.steer(edit), model.trace(IDS) as t:
        inner = get(model, model.layers[1].resid_post)
        model.layers[2].output *= 2
    assert np.abs(inner - expected).max() < 1e-5
    doubled = get(model, t.output)
    with model.steer(edit):
        again = model.trace(IDS, {"layers.2.output": lambda x: x * 2})
        assert np.abs(get(model, again.output) - doubled).max() < 1e-4
    with model.steer(edit):
        steered = get(model, model(IDS))
        kept = model.trace(IDS, capture=None)
        kept.output  # noqa: B018 (runs it)
    # after the block a trace answers with what acted in it
    assert np.abs(get(model, kept.activations[later]) - values_steered(model, edit, later)).max() < 1e-5
    with model.trace(IDS) as outer, model.steer(edit):
        inner = get(model, model.layers[1].resid_post)
        assert np.array_equal(get(model, model(IDS)), steered)
    assert np.abs(inner - expected).max() < 1e-5
    assert np.abs(get(model, outer.output) - steered).max() < 1e-4
    assert np.abs(get(model, outer.activations[later]) - get(model, kept.activations[later])).max() < 1e-4
    with model.trace(IDS, capture=[PLACE]) as captured, model.steer(edit):
        pass
    assert np.abs(get(model, captured.activations[PLACE]) - expected).max() < 1e-5
    assert np.abs(values(model) + v - expected).max() < 1e-5


def values_steered(model, edit, name):
    with model.steer(edit):
        return values(model, name=name)


def test_loss_and_gradients_are_those_of_the_steered_model(model):
    edit = add_direction(np.ones(D), 0.5, at=PLACE)
    change = {PLACE: lambda x: x + 0.5}
    objective = mlxterp.logit_difference(5, 9)
    expected = model.gradients(IDS, objective, "layers.0.mlp", change)
    clean = model.loss(IDS)
    with model.steer(edit):
        found = model.gradients(IDS, objective, "layers.0.mlp")
        assert model.loss(IDS) != clean
    assert np.allclose(get(model, found["layers.0.mlp"]), get(model, expected["layers.0.mlp"]), atol=1e-6)


def test_gradients_take_the_features_that_edits_read_as_constants(model):
    sae = make_sae()
    f, other = active_feature(model, sae), active_feature(model, sae) + 1
    objective = mlxterp.logit_difference(5, 9)
    edits = [
        clamp(sae, f, 2.0),
        amplify(sae, other, 3.0),
        add_feature(sae, 3, 1.0, when=feature(sae, f) > 0.0),
    ]
    before = values(model)
    with model.steer(edits):
        found = model.gradients(IDS, objective, ["layers.0.mlp", "layers.2.mlp"])
        fixed = values(model) - before
    wing = model.language_model.backend
    change = {PLACE: lambda x: x + wing.put(fixed, x)}
    expected = model.gradients(IDS, objective, ["layers.0.mlp", "layers.2.mlp"], change)
    for name, gradient in expected.items():
        assert np.allclose(get(model, found[name]), get(model, gradient), atol=1e-5)


# -- texts, batches, generation -------------------------------------------------------------------------


def edits_of(sae: SAE, f: int) -> list:
    v = np.random.default_rng(5).normal(size=D).astype(np.float32)
    return [
        [add_feature(sae, f, 2.0)], [clamp(sae, f, 3.0), ablate(sae, f + 1)], [amplify(sae, f, -2.0)],
        [add_direction(v, 0.2, at=PLACE, units="norm", when=feature(sae, f) > 0.0)],
        [project_out(v, at="layers.0.mlp_out"), clamp(sae, f, 1.0, positions="generated")],
        [add_feature(sae, f, 2.0, positions="prompt")], [add_feature(sae, f, 1.5, positions=slice(2, 12, 3))],
    ]  # fmt: skip


def test_a_padded_batch_equals_single_texts(model):
    sae = make_sae()
    for edits in edits_of(sae, active_feature(model, sae)):
        if any(isinstance(edit.positions, slice) for edit in edits):
            continue
        with model.steer(edits):
            together = get(model, model(BATCH))
            for i, row in enumerate(BATCH):
                alone = get(model, model([row]))[0]
                assert np.abs(together[i, : len(row)] - alone).max() < 1e-5 * max(1, np.abs(alone).max())


def test_negative_positions_count_from_each_texts_end(model):
    with model.steer(add_direction(np.ones(D), 1.0, at=PLACE, positions=-1)):
        steered = values(model, BATCH)
    for i, row in enumerate(BATCH):
        changed = np.abs(steered[i, : len(row)] - values(model, BATCH)[i, : len(row)]).max(axis=1) > 0.5
        assert changed.tolist() == [False] * (len(row) - 1) + [True]


@pytest.mark.parametrize("chunk", [2048, 3])
def test_generation_equals_recomputing_everything_without_a_cache(model, chunk):
    sae = make_sae()
    for edits in edits_of(sae, active_feature(model, sae)):
        written = model.generate(IDS, 8, steer=edits, prefill_step_size=chunk)
        with model.steer(edits):
            assert model.generate(IDS, 8, prefill_step_size=chunk) == written
        ids = list(IDS)
        for token in written:
            spans = {"prompt": slice(0, len(IDS)), "generated": slice(len(IDS), None)}
            whole = [
                replace(edit, positions=spans[edit.positions]) if isinstance(edit.positions, str) else edit
                for edit in edits
            ]
            with model.steer(whole):
                logits = get(model, model(ids))[0, -1]
            assert token == int(logits.argmax())
            ids.append(token)


def test_positions_of_generate_are_for_edits_that_name_none(model):
    edit = add_direction(np.ones(D) * 3, 1.0, at=PLACE)
    for span in ("prompt", "generated"):
        named = add_direction(np.ones(D) * 3, 1.0, at=PLACE, positions=span)
        assert model.generate(IDS, 6, steer=edit, positions=span) == model.generate(IDS, 6, steer=named)


def test_several_prompts_are_steered_as_each_alone(model):
    edit = clamp(make_sae(), 4, 6.0)
    together = model.generate([IDS, IDS[:4]], 5, steer=[edit])
    assert together == [model.generate(IDS, 5, steer=edit), model.generate(IDS[:4], 5, steer=edit)]


def test_a_stream_begun_in_a_block_is_steered_to_its_end(model):
    edit = add_direction(np.ones(D) * 2, 1.0, at=PLACE)
    with model.steer(edit):
        stream = model.stream_generate(IDS, 5)
    assert list(stream) == model.generate(IDS, 5, steer=edit)


def test_both_wings_steer_alike(folder):
    if len(mlxterp.available_backends()) < 2:
        pytest.skip("needs both backends")
    wings = [open_llama(folder, name) for name in ("mlx", "torch")]
    for edits in edits_of(make_sae(), active_feature(wings[0], make_sae())):
        found = []
        for wing in wings:
            with wing.steer(edits):
                found.append(get(wing, wing(BATCH))[0])
        assert np.abs(found[0] - found[1]).max() < 1e-4


def test_quantized_models_are_steered():
    nn = pytest.importorskip("mlx.nn")

    from tests.tiny import tiny_llama

    model = tiny_llama(hidden_size=64, intermediate_size=64, vocab_size=200)
    wrapped: Any = model.language_model
    nn.quantize(wrapped.model, group_size=32, bits=4)
    clean = np.array(model([*IDS[:5], 3]))
    with model.steer(add_direction(np.ones(64), 2.0, at="layers.1.resid_post")):
        steered = np.array(model([*IDS[:5], 3]))
        written = model.generate(IDS[:4], 4)
    assert np.abs(steered - clean).max() > 0.1
    assert written == model.generate(
        IDS[:4], 4, steer=add_direction(np.ones(64), 2.0, at="layers.1.resid_post")
    )


def test_heads_side_by_side_are_steered_as_an_sae_of_z_reads_them(model):
    sae = make_sae(component="layers.1.attn.z")
    z = values(model, name="layers.1.attn.z")  # (batch, heads, positions, d_head)
    rows = z.swapaxes(1, 2).reshape(1, len(IDS), D)
    with model.steer(clamp(sae, 7, 2.0)):
        found = values(model, name="layers.1.attn.z").swapaxes(1, 2).reshape(1, len(IDS), D)
    expected = oracle.steered(rows[0], sae.encode(rows[0]), sae.weights, [("clamp", 7, 2.0)])
    assert np.abs(found[0] - expected).max() < 1e-4


def test_a_transcoder_reads_one_component_and_changes_another(model):
    sae = make_sae(component="layers.1.mlp.input")
    sae.metadata["component_out"] = "layers.1.mlp"
    read, written = values(model, name="layers.1.mlp.input")[0], values(model, name="layers.1.mlp")[0]
    with model.steer(clamp(sae, 7, 2.0)):
        found = values(model, name="layers.1.mlp")[0]
    expected = oracle.steered(written, sae.encode(read), sae.weights, [("clamp", 7, 2.0)])
    assert np.abs(found - expected).max() < 1e-4


# -- bad input --------------------------------------------------------------------------------------


def test_bad_numbers_features_and_vectors_are_refused_where_they_enter():
    sae = make_sae()
    wrong: list[Any] = [FEATURES, -1, 1.5, True, "3"]
    for bad in wrong:
        with pytest.raises(UnknownFeatureError):
            amplify(sae, bad, 2.0)
    wrong = [float("nan"), float("inf"), "2", None, True]
    for bad in wrong:
        for make in (amplify, clamp, add_feature):
            with pytest.raises(InputError):
                make(sae, 3, bad)
    for bad in (np.zeros(D), np.full(D, np.nan), np.ones((2, D)), [], "x"):
        with pytest.raises(InputError):
            add_direction(bad, 1.0, at=PLACE)
    with pytest.raises(InputError, match="units"):
        add_feature(sae, 3, 1.0, units="kg")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="condition"):
        amplify(sae, 3, 1.0, when=lambda x: x > 1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="Compare"):
        bool(feature(sae, 3))
    with pytest.raises(InputError, match="joined"):
        bool((feature(sae, 3) > 1) and (feature(sae, 4) > 1))
    with pytest.raises(InputError, match="Expected an SAE"):
        ablate("sae", 3)  # pyright: ignore[reportArgumentType]


def test_edits_that_do_not_fit_the_model_are_refused_before_it_runs(model):
    sae = make_sae()
    with model.steer(*[]):  # as generate(steer=[]): nothing
        model(IDS)
    with pytest.raises(InputError, match=r"interventions="):
        model.steer(lambda x: x)
    with pytest.raises(InputError, match="at="):
        model.steer(add_direction(np.ones(D), 1.0))
    with pytest.raises(InputError, match="at="):
        model.steer(ablate(make_sae(component=None), 3))
    with pytest.raises(mlxterp.ComponentError):
        model.steer(ablate(sae, 3, at="layers.7.resid_post"))
    with pytest.raises(SAEError, match="numbers for each token"):
        model.steer(add_direction(np.ones(D + 1), 1.0, at=PLACE))
    with pytest.raises(InputError, match="positions"):
        model.generate(IDS, 3, steer=ablate(sae, 3, positions=-1))
    with pytest.raises(InputError, match="positions"), model.steer(ablate(sae, 3, positions="here")):  # pyright: ignore[reportArgumentType]
        model(IDS)


def test_edits_that_contradict_each_other_are_refused(model):
    sae = make_sae()
    with pytest.raises(EditError, match="conflict"):
        model.steer(clamp(sae, 3, 1.0), clamp(sae, 3, 2.0))
    with pytest.raises(EditError, match="conflict"):
        model.steer(ablate(sae, 3), clamp(sae, 3, 2.0, positions=slice(2, None)))
    for fine in (
        [clamp(sae, 3, 1.0), clamp(sae, 4, 2.0)],
        [clamp(sae, 3, 1.0), clamp(sae, 3, 1.0)],
        [clamp(sae, 3, 1.0, positions="prompt"), clamp(sae, 3, 2.0, positions="generated")],
        [clamp(sae, 3, 1.0, positions=[0, 1]), clamp(sae, 3, 2.0, positions=[2])],
        [clamp(sae, 3, 1.0, when=feature(sae, 5) > 0), clamp(sae, 3, 2.0)],
        [clamp(sae, 3, 1.0), clamp(make_sae(seed=5), 3, 2.0)],
    ):
        model.steer(fine)


def test_an_sae_used_elsewhere_warns_with_its_fvu(model):
    sae = make_sae()
    with pytest.warns(mlxterp.MlxterpWarning, match=r"trained on layers\.1\.resid_post.*FVU"):
        model.steer(ablate(sae, 3, at="layers.2.resid_post"))
    with pytest.warns(mlxterp.MlxterpWarning, match="FVU"):
        model.steer(ablate(sae, 3), at="layers.0.mlp")
