"""Neighbours by decoder cosine and diverse sets, against brute force."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlxterp import SAE, InputError, MlxterpWarning, UnknownFeatureError
from mlxterp.sae import directions
from mlxterp.variants import TopK
from mlxterp.weights import SAEWeights


def sae_with(rows: np.ndarray) -> SAE:
    n, width = rows.shape
    return SAE(SAEWeights(np.ones((width, n)), np.zeros(n), rows, np.zeros(width)), TopK(k=1))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


decoders = arrays(
    np.float32, st.tuples(st.integers(1, 25), st.integers(1, 4)), elements=st.integers(-3, 3).map(float)
)


@given(decoders, st.integers(0, 24), st.integers(1, 30))
@settings(deadline=None)
def test_similar_is_a_stable_sort_of_all_cosines(rows, feature, top_k):
    feature %= len(rows)
    found = sae_with(rows).similar(feature, top_k)
    others = [f for f in range(len(rows)) if f != feature and rows[f].any() and rows[feature].any()]
    wanted = sorted(others, key=lambda f: (-cosine(rows[feature], rows[f]), f))[:top_k]
    expected = [cosine(rows[feature], rows[f]) for f in wanted]
    assert np.allclose([c for _, c in found], expected, atol=1e-12)
    assert len({f for f, _ in found}) == len(found) and set(dict(found)) <= set(others)
    for (a, x), (b, y) in pairwise(found):
        assert x > y or (x == y and a < b)


@pytest.mark.filterwarnings("ignore::mlxterp.MlxterpWarning")
@given(decoders, st.integers(1, 30), st.floats(-0.99, 1), st.permutations(range(25)))
@settings(deadline=None)
def test_a_diverse_set_is_the_greedy_one_and_none_could_be_added(rows, n, max_cos, order):
    among = [f for f in order if f < len(rows)]
    chosen = sae_with(rows).select_diverse(n, max_cos, among)
    units = directions.unit_rows(rows)
    cosines = units @ units.T
    assert len(chosen) <= n and chosen == sorted(chosen, key=among.index)
    for i, a in enumerate(chosen):
        assert rows[a].any() and all(cosines[a, b] < max_cos + 1e-12 for b in chosen[:i])
    if len(chosen) < n:
        left = [f for f in among if f not in chosen and rows[f].any()]
        assert all((cosines[f, chosen] >= max_cos - 1e-12).any() for f in left)


def test_neighbours_are_those_of_all_rows_in_float64():
    rows = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    order = [int(f) for f in np.argsort(-(unit @ unit[7]), kind="stable") if f != 7][:20]
    assert [f for f, _ in sae_with(rows).similar(7, 20)] == order


@pytest.mark.parametrize("top_k", [1, 10, 1499, 2000])
def test_rows_of_any_length_are_neighbours(top_k):
    rows = np.random.default_rng(0).normal(size=(1500, 4)).astype(np.float32)
    rows[:200] *= np.float32(1e-36)
    rows[200:400] *= np.float32(1e33)
    rows[400:500] = 0
    rows[500:550] = rows[7]
    wide = rows.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    unit = wide / np.where(norms > 0, norms, 1)
    for feature in (7, 300, 900):
        order = np.argsort(-(unit * unit[feature]).sum(axis=1), kind="stable").tolist()
        order = [f for f in order if f != feature and not 400 <= f < 500][:top_k]
        assert [f for f, _ in sae_with(rows).similar(feature, top_k)] == order


def test_scaling_a_decoder_row_changes_no_cosine():
    rows = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    scaled = rows * (2.0 ** np.arange(-20, 20, dtype=np.float32))[:, None]
    assert sae_with(scaled).similar(3) == sae_with(rows).similar(3)
    assert sae_with(scaled).select_diverse(5, 0.3) == sae_with(rows).select_diverse(5, 0.3)


def test_too_few_come_back_with_a_warning_that_says_what_to_do():
    sae = sae_with(np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 2]])
    with pytest.warns(MlxterpWarning, match="Raise max_cos"):
        assert sae.select_diverse(4) == [0, 2, 4]
    assert sae.select_diverse(2, among=[3, 2, 1, 0]) == [3, 1]
    assert sae.select_diverse(3, among=np.array([4, 4, 1, 3]).tolist()) == [4, 1, 3]  # twice the same is once


def test_what_cannot_be_asked_is_refused():
    sae = sae_with(np.eye(3, dtype=np.float32))
    bads: list[Any] = [0, -1, True, 1.5, "2"]
    for bad in bads:
        with pytest.raises(InputError, match="n is"):
            sae.select_diverse(bad)
        with pytest.raises(InputError, match="top_k"):
            sae.similar(0, bad)
    limits: list[Any] = [-1, 1.1, float("nan"), "0.7", True]
    for bad in limits:
        with pytest.raises(InputError, match="max_cos"):
            sae.select_diverse(2, bad)
    ids: list[Any] = [3, -1, 0.0, True, "0"]
    for bad in ids:
        with pytest.raises(UnknownFeatureError):
            sae.similar(bad)
        with pytest.raises(UnknownFeatureError):
            sae.select_diverse(1, among=[bad])
    with pytest.raises(InputError, match="among"):
        sae.select_diverse(1, among="012")  # type: ignore[arg-type]
