"""Cases in which edits could act elsewhere, twice, or with numbers other than those meant."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import InterpretableModel, variants
from mlxterp.core.sites import Where
from mlxterp.edits.steps import DirectionStep, FeatureStep, Moment
from mlxterp.errors import ComponentError, EditError, InputError, SAEError
from mlxterp.steering import (
    ablate,
    add_direction,
    add_feature,
    amplify,
    clamp,
    direction,
    feature,
    project_out,
)
from tests import oracle
from tests.edits.test_edits import FEATURES, IDS, PLACE, D, active_feature, get, make_sae, values

V = np.random.default_rng(1).normal(size=D).astype(np.float32)


def steered(model: InterpretableModel, *edits, name: str = PLACE) -> np.ndarray:
    with model.steer(*edits):
        return values(model, name=name)


def transcoder():
    sae = make_sae(component="layers.1.mlp.input")
    sae.metadata["component_out"] = "layers.1.mlp"
    return sae


def half(backend: str, x: np.ndarray) -> Any:
    native: Any = mlxterp.get_backend(backend).put(x)
    if backend == "torch":
        return native.bfloat16()
    import mlx.core as mx

    return native.astype(mx.bfloat16)


# -- where ------------------------------------------------------------------------------------------


def test_positions_can_be_numpy_arrays_and_integers(model):
    sae, before = make_sae(), values(model)
    for make in (
        lambda p: clamp(sae, 3, 9.0, positions=p),
        lambda p: add_direction(V, 1.0, PLACE, positions=p),
    ):
        several = steered(model, make([1, 2]))
        assert np.flatnonzero(np.abs(several - before)[0].max(axis=1) > 0.1).tolist() == [1, 2]
        assert np.array_equal(steered(model, make(np.array([1, 2]))), several)
        assert np.array_equal(steered(model, make(np.int64(2))), steered(model, make(2)))
    assert model.generate(IDS, 3, steer=clamp(sae, 3, 9.0), positions=np.array([1, 2])) == model.generate(
        IDS, 3, steer=clamp(sae, 3, 9.0, positions=[1, 2])
    )


def test_what_is_no_position_is_refused_where_it_enters():
    wrong: list[Any] = ["here", 1.5, [True], {1, 2}, slice(0.5, None), [[1]]]
    for bad in wrong:
        with pytest.raises(InputError):
            ablate(make_sae(), 3, positions=bad)


def test_edits_on_no_common_position_do_not_conflict(model):
    sae = make_sae()
    for one, other in (
        (slice(0, None, 2), slice(1, None, 2)), ([], slice(0, 2)), (slice(4, None), [0, 3]), (slice(0, 0), slice(None)),
        (slice(3, None, 4), slice(0, None, 2)),
    ):  # fmt: skip
        model.steer(clamp(sae, 3, 1.0, positions=one), clamp(sae, 3, 2.0, positions=other))
    for one, other in (
        (slice(0, None, 2), slice(3, None, 3)), (slice(2, 4), [0, 3]), (slice(-1, None), [3]), (slice(5, 6), 5),
        (slice(7, None, 5), slice(100, None, 3)),
    ):  # fmt: skip
        with pytest.raises(EditError, match="conflict"):
            model.steer(clamp(sae, 3, 1.0, positions=one), clamp(sae, 3, 2.0, positions=other))


def test_components_that_are_read_from_one_site_and_written_differently_are_edited_apart(model):
    middle, norm = "layers.1.resid_mid", "layers.1.post_attention_layernorm.input"
    wing = model.language_model.backend
    plus = {name: lambda x: x + wing.put(V, x) for name in (middle, norm)}
    expected = get(model, model.trace(IDS, plus).output)
    for edits in (
        [add_direction(V, 1.0, middle), add_direction(V, 1.0, norm)],
        [add_direction(V, 1.0, norm), add_direction(V, 1.0, middle)],
    ):
        with model.steer(edits):
            assert np.abs(get(model, model(IDS)) - expected).max() < 1e-4


def test_names_of_one_place_share_one_encoding(model):
    sae = make_sae()
    f = active_feature(model, sae)
    expected = steered(model, ablate(sae, f))
    for name in ("layers.1", "layers.-2.resid_post", "model.layers.1.output", "blocks.1.hook_resid_post"):
        found = steered(model, ablate(sae, f), amplify(sae, f, 5.0, at=name))
        assert np.array_equal(found, expected), name


def test_a_transcoders_edit_used_alone_is_refused_since_it_reads_another_component(model):
    with pytest.raises(EditError, match=r"model\.steer"):
        _ = model.trace(IDS, {"layers.1.mlp": clamp(transcoder(), 7, 2.0)}).output


def test_a_transcoder_that_writes_elsewhere_warns(model):
    with pytest.warns(
        mlxterp.MlxterpWarning, match=r"trained to write to layers\.1\.mlp and acts on layers\.2\.mlp"
    ):
        model.steer(ablate(transcoder(), 3, at="layers.2.mlp"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", mlxterp.MlxterpWarning)
        model.steer(ablate(transcoder(), 3))
        model.attach_sae(transcoder()).detach()


def test_a_condition_is_checked_before_the_model_runs(model):
    sae = make_sae()
    with pytest.raises(ComponentError, match="no layer 9"):
        model.steer(ablate(sae, 3, when=feature(sae, 3, at="layers.9.mlp") > 0))
    with pytest.raises(SAEError, match="numbers for each token"):
        model.steer(ablate(sae, 3, when=feature(sae, 3, at="layers.1.mlp.gate_proj") > 0))
    with pytest.raises(SAEError, match="the vector has 7"):
        model.steer(ablate(sae, 3, when=direction(np.ones(7)) > 0))
    for bad in ("x", None, float("nan")):
        with pytest.raises(InputError, match="threshold"):
            _ = feature(sae, 3) >= bad  # pyright: ignore[reportOperatorIssue]


def test_temporal_saes_are_refused_where_their_features_would_be_read():
    sae: Any = make_sae()
    sae.activation = variants.Temporal(n_heads=1, n_attn_layers=1, k=4)
    for make in (
        lambda: ablate(sae, 3), lambda: clamp(sae, 3, 1.0), lambda: feature(sae, 3) > 0,
        lambda: add_feature(make_sae(), 3, 1.0, when=feature(sae, 3) < 1),
    ):  # fmt: skip
        with pytest.raises(SAEError, match="temporal"):
            make()
    add_feature(sae, 3, 1.0)


# -- how much ---------------------------------------------------------------------------------------


def test_lengths_are_kept_only_where_an_edit_that_keeps_them_acts(model):
    sae, before = make_sae(), values(model)[0]
    found = steered(
        model, add_feature(sae, 1, 5.0), add_feature(sae, 2, 5.0, positions=[0], preserve_norm=True)
    )[0]
    assert np.linalg.norm(found[0]) == pytest.approx(np.linalg.norm(before[0]), rel=1e-5)
    assert np.abs(found[1:] - (before[1:] + 5 * sae.W_dec[1])).max() < 1e-4
    kept = feature(sae, active_feature(model, sae)) > 0
    holds = sae.encode(before)[:, kept.readout.feature] > 0  # pyright: ignore[reportAttributeAccessIssue]
    found = steered(model, add_feature(sae, 1, 5.0, when=kept, preserve_norm=True), add_feature(sae, 2, 5.0))[
        0
    ]
    same = np.isclose(np.linalg.norm(found, axis=1), np.linalg.norm(before, axis=1), rtol=1e-4)
    assert same.tolist() == holds.tolist()


def test_half_precision_rounds_an_edited_activation_once(backend):
    draw = np.random.default_rng(0)
    h = draw.normal(size=(1, 6, D)).astype(np.float32)
    h[0, 0] *= 300  # as a first token's
    wing, x = mlxterp.get_backend(backend), half(backend, h)
    h = wing.get(wing.cast(x, wing.put(h))).astype(np.float64)[0]
    unit = h[0] / np.linalg.norm(h[0])
    moment = Moment("x", Where.whole(6, np.array([6])))
    for step, expected in (
        (DirectionStep(project_out(unit, at="x")), h - np.outer(h @ unit, unit)),
        (FeatureStep(make_sae(), [], whole=True), make_sae().reconstruct(h.astype(np.float32))),
    ):
        found = wing.get(wing.cast(step(x, moment), wing.put(np.zeros(1, np.float32))))[0]
        assert (np.abs(found - expected) <= 2**-8 * np.abs(expected) + 1e-3).all()


@pytest.mark.parametrize("normalize", ["layer_norm", "constant_norm"])
def test_a_token_of_zeros_gets_what_is_added(backend, normalize):
    sae, wing = make_sae(form=variants.InputForm(normalize=normalize)), mlxterp.get_backend(backend)
    h = np.zeros((1, 2, D), np.float32)
    h[0, 1] = np.arange(D)
    step = FeatureStep(sae, [add_feature(sae, 3, 1.5), amplify(sae, 5, 2.0)])
    found = wing.get(step(wing.put(h), Moment("x", Where.whole(2, np.array([2])))))[0, 0]
    assert np.abs(found - 1.5 * sae.W_dec[3]).max() < 1e-5


def test_gradients_with_an_edit_among_interventions_are_those_of_the_steered_model(model):
    sae = make_sae()
    edit, objective = amplify(sae, active_feature(model, sae), 3.0), mlxterp.logit_difference(5, 9)
    alone = model.gradients(IDS, objective, "layers.0.mlp", {PLACE: edit})["layers.0.mlp"]
    with model.steer(edit):
        expected = model.gradients(IDS, objective, "layers.0.mlp")["layers.0.mlp"]
    assert np.allclose(get(model, alone), get(model, expected), atol=1e-6)


@pytest.mark.filterwarnings("ignore:This BatchTopK SAE")
def test_padding_takes_no_part_in_a_choice_over_all_rows(model):
    sae, batch = make_sae(variants.BatchTopK(4)), [IDS, IDS[:2], IDS[:3]]
    before = values(model, batch)
    rows = np.concatenate([before[i, : len(ids)] for i, ids in enumerate(batch)])
    z = sae.encode(rows)
    for f in np.flatnonzero(z.any(axis=0))[:12].tolist():
        with model.steer(ablate(sae, f)):
            found = values(model, batch)
        found = np.concatenate([found[i, : len(ids)] for i, ids in enumerate(batch)])
        assert np.abs(found - oracle.steered(rows, z, sae.weights, [("amplify", f, 0.0)])).max() < 1e-4
    with model.attach_sae(sae, mode="replace"):
        found = values(model, batch)
    found = np.concatenate([found[i, : len(ids)] for i, ids in enumerate(batch)])
    assert np.abs(found - sae.reconstruct(rows)).max() < 1e-4


# -- how often ----------------------------------------------------------------------------------------


def test_one_block_can_be_open_in_several_threads(model):
    block, clean = model.steer(add_direction(V, 3.0, PLACE)), get(model, model(IDS))
    expected = steered(model, add_direction(V, 3.0, PLACE))
    inside, leave, found = threading.Barrier(2), threading.Event(), SimpleNamespace(failed=None, seen=None)

    def run() -> None:
        try:
            with block:
                inside.wait(30)
                leave.wait(30)
            found.seen = get(model, model(IDS))
        except Exception as error:
            found.failed = error

    thread = threading.Thread(target=run)
    thread.start()
    with block:
        inside.wait(30)
        assert np.array_equal(values(model), expected)
    leave.set()
    thread.join()
    assert found.failed is None and np.array_equal(found.seen, clean)
    with block, block:
        assert np.abs(values(model) - expected - 3 * V).max() < 1e-4
    assert np.array_equal(get(model, model(IDS)), clean)


def test_an_sae_attached_twice_at_one_component_acts_once(model):
    sae = make_sae()
    f = active_feature(model, sae)
    expected = steered(model, amplify(sae, f, 2.0))
    sae.concepts.manipulate_concept(f, 2.0)
    first = model.attach_sae(sae)
    with model.attach_sae(sae):
        assert not first.attached
        assert np.array_equal(values(model), expected)
    assert model.attached == ()


def test_an_attached_sae_can_be_copied_and_pickled_without_its_model(model):
    sae = make_sae()
    with model.attach_sae(sae):
        sae.concepts.manipulate_concept(3, 2.0)
        for other in (pickle.loads(pickle.dumps(sae)), copy.deepcopy(sae)):
            assert other.concepts.scales == {3: 2.0} and other.fingerprint == sae.fingerprint
            with pytest.raises(InputError, match="not attached"):
                other.concepts.activation_matrix(["text"])


def test_a_condition_that_several_edits_share_is_computed_once(model, monkeypatch):
    sae, other = make_sae(), make_sae(seed=3)
    condition = feature(other, active_feature(model, other)) > 0
    edits = [clamp(sae, f, 1.0, when=condition, preserve_norm=True) for f in range(6)]
    calls = []
    apply = mlxterp.SAE.apply
    monkeypatch.setattr(
        mlxterp.SAE, "apply", lambda self, *a, **k: calls.append(self) or apply(self, *a, **k)
    )
    with model.steer(edits):
        model(IDS)
    assert len(calls) == 2 and calls.count(other) == 1


def test_bad_maxima_and_places_say_what_is_wrong(model):
    sae = make_sae()
    wrong: Any = "x"
    with pytest.raises(InputError, match="index= is a str"):
        add_feature(sae, 3, 1.0, units="max", index=wrong)
    sae.metadata["max_activations"] = [1.0, 2.0]
    with pytest.raises(InputError, match="not known"):
        add_feature(sae, 3, 1.0, units="max")
    wrong = 3
    with pytest.raises(ComponentError, match="named by a string"):
        model.attach_sae(sae, component=wrong)


# -- everything at once -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_edits_of_several_saes_and_directions_are_those_of_numpy(model, seed):
    draw = np.random.default_rng(seed)
    batch = [draw.integers(2, 200, n).tolist() for n in (9, 4, 6)]
    forms = [None, variants.InputForm(normalize="layer_norm"), variants.InputForm(center=True)]
    kinds = [variants.TopK(8), variants.JumpReLU(), variants.AbsTopK(6), variants.MatchingPursuit(5)]
    saes = [make_sae(kinds[int(draw.integers(4))], seed=i, form=forms[int(draw.integers(3))]) for i in (1, 2)]
    early, before = values(model, batch, "layers.0.resid_post"), values(model, batch)
    edits, expected = [], [row.astype(np.float64) for row in before]
    for sae in saes:
        condition = direction(V, at="layers.0.resid_post") > float(draw.normal())
        positions = [None, slice(1, None, 2), -1][int(draw.integers(3))]
        f, g = (int(x) for x in draw.choice(FEATURES, 2, replace=False))
        edits += [
            clamp(sae, f, 2.0, when=condition, positions=positions),
            amplify(sae, g, -1.0),
            add_feature(sae, f, 1.0),
        ]
        for i, ids in enumerate(batch):
            chosen = np.zeros(len(before[i]), bool)
            chosen[: len(ids)][slice(None) if positions is None else positions] = True
            chosen &= (early[i] @ V) / np.linalg.norm(V) > condition.threshold
            h = expected[i].astype(np.float32)
            z, out = sae.encode(h).astype(np.float64), h.astype(np.float64)
            new = z.copy()
            new[chosen, f] = 2.0
            new[:, g] *= -1
            scale = oracle.normalize(h, sae.form)[1] if sae.form.undone else np.ones((len(h), 1))
            expected[i] = out + ((new - z) @ sae.W_dec) * scale + sae.W_dec[f]
    found = steered_batch(model, edits, batch)
    for i, ids in enumerate(batch):
        error = np.abs(found[i, : len(ids)] - expected[i][: len(ids)]).max()
        assert error < 1e-3 * np.abs(expected[i]).max()


def steered_batch(model, edits, batch):
    with model.steer(edits):
        return values(model, batch)


def test_an_edit_given_for_another_component_than_it_names_is_refused(model):
    edit = add_direction(np.ones(D), 1.0, at="layers.2.mlp")
    with pytest.raises(InputError, match=r"names layers\.2\.mlp"):
        model.trace(IDS, {"layers.1.resid_post": edit})
    model.trace(IDS, {"blocks.2.mlp": edit})
