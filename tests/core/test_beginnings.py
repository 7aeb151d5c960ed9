"""Tokens whose texts begin alike have one row of features: the first one's."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlxterp import SparseFeatures
from mlxterp.core.beginnings import MARKS, Beginnings, first_alike

N, WIDTH = 12, 5


def marks_of(lengths: np.ndarray) -> np.ndarray:
    """Marks of activations of these lengths along one direction."""
    marks = np.repeat(np.asarray(lengths, np.float32)[:, None], MARKS, axis=1)
    marks[:, -1] *= 1e-4
    return marks


@st.composite
def tokens(draw):
    """Prefixes, lengths that rounding changes or something else does, and features of some tokens."""
    prefixes = np.array(draw(st.lists(st.integers(0, 4), min_size=1, max_size=N)), dtype=np.uint64)
    share = st.sampled_from([1.0, 1 + 2**-22, 1 - 2**-22, 1.5])
    lengths = np.array([draw(share) for _ in prefixes])
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    dense = np.where(rng.random((len(prefixes), WIDTH)) < 0.5, rng.standard_normal((len(prefixes), WIDTH)), 0)
    return prefixes, lengths, dense.astype(np.float32)


def by_definition(prefixes, lengths) -> list[int]:
    """For each token the first with its beginning, where that was computed alike."""
    found = []
    for i, (prefix, length) in enumerate(zip(prefixes, lengths, strict=True)):
        first = list(prefixes).index(prefix)
        found.append(first if abs(lengths[first] - length) < 1e-3 else i)
    return found


@given(tokens())
def test_the_first_that_was_computed_alike_speaks_for_all(given_tokens):
    prefixes, lengths, _ = given_tokens
    assert first_alike(prefixes, marks_of(lengths)).tolist() == by_definition(prefixes, lengths)


@given(tokens(), st.lists(st.integers(0, N), max_size=4))
def test_how_texts_are_cut_into_calls_decides_nothing(given_tokens, cuts):
    prefixes, lengths, dense = given_tokens
    beginnings, found = Beginnings(), []
    bounds = [0, *sorted(min(cut, len(prefixes)) for cut in cuts), len(prefixes)]
    for a, b in pairwise(bounds):
        part = SparseFeatures.from_dense(dense[a:b])
        found.append(beginnings.settled(part, prefixes[a:b], marks_of(lengths[a:b])).to_dense())
    assert np.array_equal(np.concatenate(found), dense[by_definition(prefixes, lengths)])


def test_beginnings_beyond_the_limit_stand_for_themselves():
    beginnings = Beginnings(limit=2)
    dense = np.arange(1, 7, dtype=np.float32).reshape(6, 1)
    prefixes = np.array([7, 8, 9, 7, 8, 9], dtype=np.uint64)
    found = [
        beginnings.settled(
            SparseFeatures.from_dense(dense[i : i + 1]), prefixes[i : i + 1], marks_of(np.ones(1))
        )
        for i in range(6)
    ]
    assert [float(f.values[0]) for f in found] == [1, 2, 3, 1, 2, 6]
