"""The n strongest of every feature at once, against a sort of each."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlxterp import InputError, SparseFeatures
from mlxterp.core import ranking
from mlxterp.core.ranking import TopN

FEW = st.sampled_from([0.0, 0.5, 1.0, -1.0, 2.0, -3.0])
"""Activations that are often equal in magnitude."""
MANY = st.floats(-8, 8, width=32)


def activations():
    """(tokens, features), dense."""
    shapes = st.tuples(st.integers(0, 60), st.integers(1, 6))
    return hnp.arrays(np.float32, shapes, elements=FEW) | hnp.arrays(np.float32, shapes, elements=MANY)


def sorted_one_by_one(dense: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.full((dense.shape[1], n), -1)
    values = np.zeros((dense.shape[1], n))
    for feature, column in enumerate(dense.T):
        active = [int(token) for token in np.flatnonzero(column)]
        best = sorted(active, key=lambda token: (-abs(column[token]), token))[:n]
        tokens[feature, : len(best)] = best
        values[feature, : len(best)] = column[best]
    return tokens, values


def assert_same(found: tuple[np.ndarray, np.ndarray], expected: tuple[np.ndarray, np.ndarray]) -> None:
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])


def all_at_once(by_feature: SparseFeatures, n: int) -> tuple[np.ndarray, np.ndarray]:
    found = TopN(by_feature.n, n)
    found.add(by_feature)
    return found.tokens, found.values


@given(activations(), st.integers(1, 8))
def test_the_strongest_of_each_are_those_of_a_sort(dense, n):
    by_feature = SparseFeatures.from_dense(dense).transpose()
    assert_same(all_at_once(by_feature, n), sorted_one_by_one(dense, n))


@given(activations(), st.integers(1, 3), st.integers(1, 40))
def test_how_many_are_looked_at_together_decides_nothing(dense, n, pairs):
    by_feature = SparseFeatures.from_dense(dense).transpose()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_PAIRS", pairs)
        assert_same(all_at_once(by_feature, n), sorted_one_by_one(dense, n))


@given(activations(), st.integers(1, 8), st.lists(st.integers(0, 60), max_size=3))
def test_shard_after_shard_gives_what_all_at_once_gives(dense, n, cuts):
    found = TopN(dense.shape[1], n)
    for first, end in pairwise([0, *sorted(min(cut, len(dense)) for cut in cuts), len(dense)]):
        found.add(SparseFeatures.from_dense(dense[first:end]).transpose(), first)
    assert_same((found.tokens, found.values), sorted_one_by_one(dense, n))


@given(activations(), st.integers(1, 8), st.integers(1, 8))
def test_a_smaller_copy_holds_the_strongest_and_a_larger_one_has_room_for_later_ones(dense, n, other):
    half = len(dense) // 2
    found = TopN(dense.shape[1], max(n, other))
    found.add(SparseFeatures.from_dense(dense[:half]).transpose())
    found = found.resized(dense.shape[1], n)
    assert_same((found.tokens, found.values), sorted_one_by_one(dense[:half], n))
    wider = found.resized(dense.shape[1] + 2, n + 1)
    assert_same((wider.tokens[:-2, :-1], wider.values[:-2, :-1]), (found.tokens, found.values))
    assert (wider.tokens[:, -1] == -1).all() and (wider.tokens[-2:] == -1).all()
    found.add(SparseFeatures.from_dense(dense[half:]).transpose(), half)
    assert_same((found.tokens, found.values), sorted_one_by_one(dense, n))


def test_rows_of_very_different_lengths_are_answered_exactly():
    rng = np.random.default_rng(0)
    dense = np.zeros((3000, 12), dtype=np.float32)
    for feature, share in enumerate(np.geomspace(1, 0.001, 12)):
        active = rng.random(3000) < share
        dense[active, feature] = np.round(rng.standard_normal(int(active.sum())), 1)
    assert_same(all_at_once(SparseFeatures.from_dense(dense).transpose(), 20), sorted_one_by_one(dense, 20))


def test_fewer_than_one_is_refused():
    with pytest.raises(InputError, match="n is 0"):
        all_at_once(SparseFeatures.from_dense(np.ones((2, 2))), 0)
