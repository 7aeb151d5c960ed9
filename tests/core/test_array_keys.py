"""Index expressions against shapes: what NumPy refuses is refused, what it takes is taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlxterp import InputError
from mlxterp.core.array_keys import check_key

SHAPE = (2, 5, 3)
ARRAY = np.zeros(SHAPE)
INSIDE: list[Any] = [
    0, -2, np.int64(1), (0, 4), (1, -5, 2), ..., None, (..., 2), (0, ..., -3), (None, 1, 4), slice(7, 99), [0, 1], [],
    (slice(None), [4, -5]), (slice(None), np.array([0, 4])), ([[0, 1], [1, 0]],), np.array([True, False]),
    (0, np.arange(5) > 2), np.ones((2, 5), bool), np.ones(SHAPE, bool), (slice(None), [True] * 5),
]  # fmt: skip
OUTSIDE: list[Any] = [
    2, -3, np.int64(9), (0, 5), (1, -6), (0, 0, 3), (..., 3), (0, ..., -4), (None, 2), [2], (slice(None), [0, 5]),
    (slice(None), np.array([-6])), ([[0, 1], [1, 2]],), np.array([True]), (0, np.ones(4, bool)), np.ones((2, 4), bool),
    (0, 0, 0, 0), (slice(None), [True] * 4),
]  # fmt: skip


def refused(key: Any) -> str | None:
    try:
        check_key(key, SHAPE, "the array", lambda _: None)
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize("key", INSIDE, ids=str)
def test_an_index_inside_passes(key):
    ARRAY[key]
    assert refused(key) is None


@pytest.mark.parametrize("key", OUTSIDE, ids=str)
def test_an_index_outside_is_named_with_the_shape(key):
    with pytest.raises(IndexError):
        ARRAY[key]
    assert "(2, 5, 3)" in (refused(key) or "")


def test_what_nobody_here_knows_is_left_to_the_library():
    for key in ([[0], [0, 1]], (0, object()), [None]):
        assert refused(key) is None


@pytest.mark.parametrize(
    "key",
    [
        "layers.3",
        1.0,
        np.float32(2),
        (0, "a"),
        (slice(None), [0, 1.5]),
        (0, np.array([0.5])),
        {"a": 1},
        ([["a"]],),
    ],
    ids=str,
)
def test_what_is_no_index_is_said_in_the_same_words_for_both_libraries(key):
    said = refused(key)
    assert said is not None and "cannot be indexed by" in said


def test_a_range_is_an_index_as_a_list_is():
    assert refused((slice(None), range(5))) is None
    assert "Index 5 is outside axis 1" in str(refused((slice(None), range(6))))
