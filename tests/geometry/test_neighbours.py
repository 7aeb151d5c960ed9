"""Exact cosine neighbours: against brute force, with ties, rows of zeros and bad input."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxterp import InputError
from mlxterp.geometry import cosine_neighbours, neighbours


def brute(rows, among, k, own):
    unit = [x / np.where((n := np.linalg.norm(x, axis=1, keepdims=True)) > 0, n, 1) for x in (rows, among)]
    cosines = np.round(unit[0].astype(float) @ unit[1].astype(float).T, 12)
    cosines[:, ~among.any(axis=1)] = np.nan
    cosines[~rows.any(axis=1)] = np.nan
    if own:
        np.fill_diagonal(cosines, np.nan)
    ids = np.lexsort((np.broadcast_to(np.arange(len(among)), cosines.shape), -cosines), axis=1)[:, :k]
    best = np.take_along_axis(cosines, ids, axis=1)
    return np.where(np.isnan(best), -1, ids), best


@settings(max_examples=60)
@given(st.integers(2, 60), st.integers(1, 60), st.integers(1, 5), st.integers(0, 10**6), st.booleans())
def test_the_neighbours_are_those_of_brute_force_ties_and_zeros_included(n, m, width, seed, own):
    draw = np.random.default_rng(seed)
    rows, among = draw.integers(-2, 3, (n, width)) * 1.0, draw.integers(-2, 3, (m, width)) * 1.0
    among = rows if own else among
    k = int(draw.integers(1, len(among) + 1 - own))
    found = cosine_neighbours(rows, None if own else among, k)
    ids, cosines = brute(rows, among, k, own)
    assert np.array_equal(found.ids, ids)
    np.testing.assert_allclose(found.cosines, cosines, atol=1e-11)


def test_tiles_do_not_show(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(300, 24))
    rows[7] = 0
    rows[20:60] = rows[20]  # more equals than are kept
    whole = cosine_neighbours(rows, k=9)
    monkeypatch.setattr(neighbours, "_CELLS", 700)
    monkeypatch.setattr(neighbours, "_WIDE", 37)
    tiled = cosine_neighbours(rows, k=9)
    assert np.array_equal(whole.ids, tiled.ids) and np.array_equal(whole.ids, brute(rows, rows, 9, True)[0])
    assert (whole.ids[7] == -1).all() and 7 not in whole.ids


def test_neighbours_agree_with_the_sae(demo):
    found = cosine_neighbours(demo.sae.W_dec, k=5)
    for feature in (0, 741, 2047):
        assert found.ids[feature].tolist() == [other for other, _ in demo.sae.similar(feature, 5)]


def test_bad_input_is_named():
    rows, ask = np.eye(3), cast(Any, cosine_neighbours)
    for call, words in [
        (lambda: cosine_neighbours(rows, k=3), "there are 2 other rows"),
        (lambda: cosine_neighbours(rows, np.ones((2, 4)), 1), "width 3"),
        (lambda: cosine_neighbours(rows * np.nan, k=1), "not finite"),
        (lambda: cosine_neighbours(rows, k=0), "at least 1"),
        (lambda: ask(rows, neighbours=1), "takes no neighbours="),
        (lambda: cosine_neighbours(np.ones(3), k=1), "matrix"),
    ]:
        with pytest.raises(InputError, match=words):
            call()
