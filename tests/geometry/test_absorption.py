"""Absorption: the formulas by hand, a hierarchy whose truth is known, and what ablating an absorber does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxterp import (
    SAE,
    InputError,
    SAEError,
    SAETrainConfig,
    UnknownFeatureError,
    geometry,
    load_demo,
    train_sae,
)
from mlxterp.core.sparse import SparseFeatures
from mlxterp.geometry.contributions import Limits, contributions, find_mains
from mlxterp.variants import ReLU
from mlxterp.weights import SAEWeights

LIMITS = Limits()


# -- the formulas ---------------------------------------------------------------------------------


def test_d10_the_formulas_by_hand():
    """Feature 0 is the main one; 1 lies half along the probe (cosine .6), 2 a little (.05), both of length 1."""
    W_dec = np.array([[1, 0], [0.6, 0.8], [0.05, np.sqrt(1 - 0.05**2)]])
    z = np.array([
        [0, 2, 0],    # p = 2: the absorber has 1.2 of 2
        [0, 2, 0],    # p = 4: .3 of 4, which is too little
        [1, 2, 0],    # p = 2: the main has 1, the absorber 1.2, of which 1 is missing
        [0, 0, 20],   # p = 2: .5 of it, but with a cosine below .1: full and no fraction
        [3, 2, 0],    # p = 2: the main has all
        [0, 2, 0],    # p = -1
        [0, 0, 0],    # p = 1: nothing is active
    ])  # fmt: skip
    p = np.array([2, 4, 2, 2, 2, -1, 1])
    centred = np.stack([p, np.full(len(p), 9.0)], axis=1)
    found = contributions(SparseFeatures.from_dense(z), W_dec, centred, np.array([1.0, 0.0]), [0], LIMITS)
    assert found.missed.tolist() == [True, True, False, True, False, True, True]
    assert found.full.tolist() == [True, False, False, True, False, False, False]
    assert np.allclose(found.fraction, [1, 0, 0.5, 0, 0, 0, 0])
    assert found.best.tolist() == [1, 1, 1, 2, 1, 1, -1]
    assert np.allclose(found.part, [0.6, 0.3, 0.6, 0.5, 0.6, 0, 0])
    assert np.allclose(found.cosine, [0.6, 0.6, 0.6, 0.05, 0.6, 0.6, 0])


def plainly(z, W_dec, centred, g, mains, limits):
    """The formulas, token by token."""
    found = []
    cos = [float(d @ g / max(np.linalg.norm(d), 1e-12)) for d in W_dec]
    for row, h in zip(z, centred, strict=True):
        p, c = float(h @ g), [float(a * (d @ g)) for a, d in zip(row, W_dec, strict=True)]
        others = [j for j in range(len(row)) if j not in mains and row[j] != 0]
        M = sum(c[j] for j in mains)
        top = sorted((c[j] for j in others if cos[j] >= limits.cos_share and c[j] > 0), reverse=True)
        A = sum(top[: limits.top])
        if p <= 0 or p <= M or limits.share * p > A:
            fraction = 0.0
        elif M <= 0:
            fraction = 1.0
        else:
            u = min(A, p - M)
            fraction = u / (u + M)
        best = max(others, key=lambda j: c[j], default=None)
        silent = all(abs(row[j]) <= 1e-8 for j in mains)
        full = (
            silent and best is not None and cos[best] >= limits.cos_full and p > 0 and c[best] / p >= limits.share
        )  # fmt: skip
        found.append((full, fraction))
    return found


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(2, 9), st.booleans())
def test_the_formulas_are_those_of_a_plain_loop(seed, n, features, signed):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, features)).astype(np.float32) * (rng.random((n, features)) < 0.6)
    z = z if signed else np.abs(z)
    W_dec, centred = rng.normal(size=(features, 4)), rng.normal(size=(n, 4))
    g = rng.normal(size=4)
    g /= np.linalg.norm(g)
    mains = rng.choice(features, rng.integers(1, features), replace=False).tolist()
    limits = Limits(top=int(rng.integers(1, 4)), share=float(rng.uniform(0.1, 0.6)))
    found = contributions(SparseFeatures.from_dense(z), W_dec, centred, g, mains, limits)
    for i, (full, fraction) in enumerate(plainly(z, W_dec, centred, g, mains, limits)):
        assert bool(found.full[i]) == full
        assert found.fraction[i] == pytest.approx(fraction, abs=1e-9)


def test_mains_are_added_while_they_help():
    labels = np.arange(40) < 20
    z = np.zeros((40, 4), np.float32)
    z[:12, 0] = 1  # most of the concept
    z[12:18, 1] = 1  # a part that the first misses
    z[18, 2] = 1  # one token
    z[:30, 3] = 1  # the concept and as much else

    def found(
        most: int, gain: float, cosines: Sequence[float] = (0, 0, 0, 0)
    ) -> tuple[list[int], list[float]]:
        return find_mains(SparseFeatures.from_dense(z), labels, np.array(cosines), most, gain)

    mains, scores = found(10, 0.03)
    assert mains[0] == 3 and scores[0] == pytest.approx(0.8)
    z[:, 3] = 0
    mains, scores = found(10, 0.03)
    assert mains == [0, 1] and scores == pytest.approx([24 / 32, 36 / 38])
    assert found(1, 0.03)[0] == [0] and found(10, 0.0)[0] == [0, 1, 2]
    z[:, 3] = z[:, 0]  # a copy, nearer to the probe
    assert found(1, 0.03, (0.1, 0, 0, 0.2))[0] == [3]
    z[:] = 0
    assert found(10, 0.03) == ([], [])


# -- a hierarchy whose truth is known -------------------------------------------------------------

PARENTS, KIDS, OTHERS, WIDTH = 12, 3, 16, 64
ALL = PARENTS + PARENTS * KIDS + OTHERS


@dataclass(frozen=True)
class Hierarchy:
    """Tokens with parents; half of the time a parent comes with one of its three children."""

    directions: np.ndarray
    train: np.ndarray
    known: np.ndarray
    test: np.ndarray

    @staticmethod
    def made(seed: int, n: int = 30_000) -> Hierarchy:
        rng = np.random.default_rng(seed)
        directions = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0][:ALL].astype(np.float32)
        known = strengths(n, 10 * seed + 1)
        noise = 0.01 * rng.normal(size=(n, WIDTH)).astype(np.float32)
        return Hierarchy(directions, known @ directions + noise, known, strengths(8000, 2))

    def kids(self, parent: int) -> slice:
        return slice(PARENTS + parent * KIDS, PARENTS + parent * KIDS + KIDS)


def strengths(n: int, seed: int) -> np.ndarray:
    r = np.random.default_rng(seed)
    found = np.zeros((n, ALL), np.float32)
    found[:, :PARENTS] = r.random((n, PARENTS)) < 0.08
    child = r.integers(0, 2 * KIDS, (n, PARENTS))
    for j in range(KIDS):
        found[:, PARENTS + j : PARENTS + PARENTS * KIDS : KIDS] = (found[:, :PARENTS] > 0) & (child == j)
    found[:, PARENTS + PARENTS * KIDS :] = r.random((n, OTHERS)) < 0.05
    return found * np.maximum(0, 1 + 0.15 * r.normal(size=found.shape).astype(np.float32))


def trained(world: Hierarchy, seed: int, **settings) -> SAE:
    config = SAETrainConfig(d_hidden=64, k=2, batch_size=512, epochs=3, seed=seed, **settings)
    return train_sae(world.train, config, progress=False)


def absorbed(world: Hierarchy, sae: SAE) -> np.ndarray:
    """Mean over parents: full absorption on tokens with a child, on others, and absorbers that are true children."""
    rows = sae.W_dec / np.linalg.norm(sae.W_dec, axis=1, keepdims=True)
    figures = []
    for parent in range(PARENTS):
        has = world.known[:3000, parent] > 0
        known = geometry.probe(None, "toy", world.train[:3000][has], world.train[:3000][~has], control=False)
        assert known.f1.value > 0.98
        given_ = (world.test @ world.directions, world.test[:, parent] > 0)
        found = geometry.absorption(sae, known, given_, max_mains=1, control=False)
        kids = world.test[found.rows, world.kids(parent)].any(axis=1)
        best = rows[found.found.best[found.found.full & kids]] @ world.directions[world.kids(parent)].T
        true = (best.max(axis=1) > 0.3).mean() if len(best) else np.nan
        figures.append((found.found.full[kids].mean(), found.found.full[~kids].mean(), true))
    return np.nanmean(figures, axis=0)


def test_d10_a_known_hierarchy_is_absorbed_where_it_should_be_and_nowhere_else():
    plain, nested = [], []
    for seed in range(2):
        world = Hierarchy.made(seed)
        plain.append(absorbed(world, trained(world, seed)))
        matryoshka = trained(world, seed, architecture="matryoshka_batchtopk", prefixes=(12, 48, 64))
        nested.append(absorbed(world, matryoshka))
    for on_kids, elsewhere, true in plain:
        assert on_kids >= 0.3 and elsewhere <= 0.01 and true >= 0.95
    assert np.mean(nested, axis=0)[0] < np.mean(plain, axis=0)[0]


@pytest.fixture(scope="module")
def toy() -> tuple[Hierarchy, SAE, geometry.Probe, geometry.Absorption]:
    world = Hierarchy.made(0, 20_000)
    sae = trained(world, 0)
    has = world.known[:3000, 0] > 0
    known = geometry.probe(None, "toy", world.train[:3000][has], world.train[:3000][~has])
    given_ = (world.test @ world.directions, world.test[:, 0] > 0)
    return world, sae, known, geometry.absorption(sae, known, given_, max_mains=1)


def test_d10_absorbers_point_along_the_probe_as_random_directions_absorbers_do_not(toy):
    found = toy[3]
    assert found.cosine.stands_out and found.cosine.value > 2 * found.cosine.control_mean
    for figure in (found.full, found.fraction, found.cosine, found.full_shuffled, found.fraction_shuffled):
        assert len(figure.control) == 20 and figure.interval[0] <= figure.value <= figure.interval[1]
    assert found.fraction_shuffled.control_mean < found.fraction_shuffled.value


def test_what_it_tells_of_tokens_and_absorbers_is_what_was_measured(toy):
    found = toy[3]
    assert len(found.missed) == found.found.missed.sum()
    assert [m.absorbed for m in found.missed] == sorted((m.absorbed for m in found.missed), reverse=True)
    assert (
        sum(a.n for a in found.absorbers)
        == found.found.full.sum()
        == round(found.full.value * len(found.rows))
    )
    for one in found.missed:
        assert found.examples.labels[one.row] and one.text == "" and one.feature not in found.mains
    for absorber in found.absorbers:
        row = toy[1].W_dec[absorber.feature]
        assert absorber.cosine == pytest.approx(row @ toy[2].direction / np.linalg.norm(row), abs=1e-5)


def test_it_is_shown_with_its_controls(toy, tmp_path):
    text = toy[3].to_str(False)
    assert "20 draws, random directions of the activations' covariance" in text and "shuffled labels" in text
    assert "absorber  tokens  cosine with the probe" in text
    assert toy[3].to_html(tmp_path / "a.html").read_text(encoding="utf-8").count("<table") == 2
    bare = geometry.absorption(toy[1], toy[2], control=False)
    assert "left out" in str(bare) and len(bare.examples) == toy[2].held_out.sum()


def test_features_that_are_split_and_not_absorbed_are_mains(toy):
    one, several = toy[3], geometry.absorption(toy[1], toy[2], toy[3].examples, control=False)
    assert several.mains[0] == one.mains[0] and len(several.mains) > 1
    assert several.full.value < one.full.value
    assert np.diff(several.main_f1).min() >= 0.03


def test_mains_can_be_given(toy):
    given_ = geometry.absorption(toy[1], toy[2], toy[3].examples, mains=toy[3].mains[0], control=False)
    assert given_.full.value == toy[3].full.value and given_.main_f1 == ()
    with pytest.raises(UnknownFeatureError):
        geometry.absorption(toy[1], toy[2], mains=[64])


def test_what_cannot_be_is_named(toy):
    world, sae, known, found = toy
    weak = geometry.probe(None, "toy", world.train[:40], world.train[40:80], allow_weak=True, control=False)
    none = (world.test[:50] @ world.directions, np.zeros(50, bool))
    wrong: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
        ((sae, weak), {}, InputError, "allow_weak=True"),
        ((known, sae), {}, InputError, "Expected an SAE and a Probe"),
        ((sae, known, none), {}, InputError, "gets none of the examples"),
        ((sae, known, 5), {}, InputError, "examples is int"),
        ((sae, known), {"share": 0}, InputError, "share"),
        ((sae, known), {"draws": 3}, InputError, "draws"),
        ((sae, known), {"main": 3}, InputError, "mains"),
    ]
    for given_, options, error, said in wrong:
        with pytest.raises(error, match=said):
            geometry.absorption(*given_, **options)
    eye = np.eye(5, dtype=np.float32)
    narrow = SAE(SAEWeights(eye, np.zeros(5), eye, np.zeros(5)), ReLU())
    with pytest.raises(SAEError, match="width 5"):
        geometry.absorption(narrow, known)
    over = SAEWeights(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, subtract_b_dec=False)
    with pytest.raises(SAEError, match="transcoder"):
        geometry.absorption(SAE(over, ReLU(), {"component_out": "layers.1.mlp"}), known)
    with pytest.raises(InputError, match="measure on texts"):
        found.mediation(None)  # pyright: ignore[reportArgumentType]


# -- in a model -----------------------------------------------------------------------------------


def test_d10_ablating_an_absorber_moves_probe_and_next_token_more_than_a_random_feature(backend):
    model, sae, stories = load_demo(backend)
    ball, dog = (
        [text[: text.index(word)][-200:] + word for text in stories if word in text][:60]
        for word in (" ball", " dog")
    )
    known = geometry.probe(model, "layers.1.resid_post", ball, dog, control=False)
    own = geometry.absorption(sae, known, control=False).mains[0]
    silent = int(
        np.setdiff1d(np.arange(sae.d_hidden), sae.encode_sparse(known.examples.activations).indices)[0]
    )
    found = geometry.absorption(sae, known, mains=silent, control=False)
    assert found.absorbers[0].feature == own and found.absorbers[0].tokens[0].strip() == "ball"
    assert all(one.text.endswith(one.token) for one in found.missed)
    told = found.mediation(model, n=6)
    assert told.absorber.fall.mean() > 5 * abs(told.random.fall.mean())
    assert told.absorber.kl.mean() > 2 * told.random.kl.mean() > 0
    assert (told.absorber.features == own).all() and len(told.main.rows) == 0
    assert [row["ablated"] for row in told.table] == ["absorber", "random", "main"]
    assert "absorber" in str(told) and "<table" in told.fragment()
    main = geometry.absorption(sae, known, mains=own, control=False)
    with pytest.raises(InputError, match="No token is absorbed"):
        main.mediation(model)
