"""Random stand-ins keep what they say they keep; intervals cover; values are shown with their control."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxterp import InputError
from mlxterp.core.controls import KINDS, Controlled, bootstrap, draw_seed, group_means, random_like


def rows(seed: int = 0, n: int = 4000, width: int = 6) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(n, width)) @ draw.normal(size=(width, width)) + draw.normal(size=width)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**64 - 1), n=st.integers(1, 30), width=st.integers(1, 9))
@settings(max_examples=30)
def test_each_row_has_the_length_of_the_one_it_stands_for(kind, seed, n, width):
    W = np.random.default_rng(n).normal(size=(n, width)) * 3
    found = random_like(W, kind, seed)
    assert found.shape == W.shape and found.dtype == np.float32
    assert np.allclose(np.linalg.norm(found, axis=1), np.linalg.norm(W, axis=1), rtol=1e-4)
    assert np.array_equal(found, random_like(W, kind, seed))


def test_covariance_keeps_what_rows_share_and_isotropic_does_not():
    W = rows()
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    moments = {"W": W.T @ W} | {kind: (R := random_like(W, kind)).T @ R for kind in KINDS}
    near = {
        kind: float((moments["W"] * M).sum() / np.linalg.norm(moments["W"]) / np.linalg.norm(M))
        for kind, M in moments.items()
    }
    assert near["covariance"] > 0.98 > near["shuffled"] and near["covariance"] > 0.98 > near["isotropic"]


def test_shuffled_keeps_each_column_up_to_lengths():
    W = np.sign(rows(1, 50))  # rows of one length, whichever signs they have
    assert np.array_equal(np.sort(random_like(W, "shuffled"), axis=0), np.sort(W, axis=0))


@pytest.mark.parametrize(
    ("W", "kind", "said"),
    [
        ([[1.0, np.nan]], "isotropic", "Row 0 of W is not finite"),
        ([1.0, 2.0], "isotropic", "matrix"),
        (np.zeros((0, 3)), "isotropic", "matrix"),
        ([[1.0, 2.0]], "gaussian", "there are: isotropic"),
        ([["a"]], "isotropic", "matrix"),
    ],
)
def test_bad_input_is_named(W, kind, said):
    with pytest.raises(InputError, match=said):
        random_like(W, cast(Any, kind))
    with pytest.raises(InputError, match="seed"):
        random_like([[1.0]], seed=cast(Any, 0.5))


def test_an_interval_covers_the_mean_about_as_often_as_it_says():
    draw = np.random.default_rng(0)
    inside = 0
    for i in range(200):
        low, high = bootstrap(draw.normal(size=60), seed=i, n=200)
        inside += low <= 0 <= high
    assert 180 <= inside <= 198
    assert np.isnan(bootstrap(np.empty(0))).all()


def test_neighbouring_seeds_share_no_draw():
    seeds = {draw_seed(seed, draw) for seed in range(20) for draw in range(1, 20)}
    assert len(seeds) == 380 and not seeds & set(range(20)) and draw_seed(7, 0) == 7
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_groups_of_a_control_vary_as_means_of_as_many_units_do():
    units = np.random.default_rng(0).random(5000) < 0.1
    found = group_means(units, 100, seed=1)
    assert found.shape == (200,) and found.mean() == pytest.approx(units.mean(), abs=0.01)
    assert found.std() == pytest.approx(np.sqrt(0.09 / 100), rel=0.2)
    assert np.array_equal(found, group_means(units, 100, seed=1))
    assert group_means(np.ones(3), 50).tolist() == [1.0] * 200


def test_a_value_is_shown_with_its_control():
    control = np.linspace(0.1, 0.3, 20)
    found = Controlled(0.5, (0.4, 0.6), control, "covariance", 3)
    assert found.stands_out and found.p == pytest.approx(1 / 21)
    assert str(found) == "0.500 [0.400, 0.600]; control 0.200 [0.105, 0.295] (20 draws, covariance, seed 3)"
    assert not Controlled(0.2, None, control, "covariance", 3).stands_out
    none = Controlled(0.5, None, np.empty(0), "", 0)
    assert none.stands_out is None and "left out" in str(none)
