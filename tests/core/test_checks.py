"""What users hold as settings, numbers and lists is taken, or refused in words of the house."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from mlxterp import InputError
from mlxterp.core import checks
from mlxterp.core.integers import is_listable


def held(values: list[Any]) -> list[Any]:
    """The same numbers as users hold them."""
    found: list[Any] = [values, tuple(values), np.array(values), iter(values)]
    for library, make in (("torch", "tensor"), ("pandas", "Series"), ("mlx.core", "array")):
        try:
            found.append(getattr(__import__(library, fromlist=[make]), make)(values))
        except ImportError:
            continue
    return found


def test_whole_numbers_and_truth_values_are_taken_in_every_form():
    for given in held([3, 1, 2]):
        assert checks.whole_numbers(given, "rows", "integers").tolist() == [3, 1, 2]
    for given in [*held([True, False]), *held([1, 0])]:
        assert checks.truth_values(given, "labels", 2).tolist() == [True, False]


@pytest.mark.parametrize("bad", [[1.5], ["a"], [[1], [1, 2]], None, [2**70], np.array([2**63], np.uint64)])
def test_what_are_no_whole_numbers_is_named(bad):
    with pytest.raises(InputError, match=r"rows is .*; it must be integers"):
        checks.whole_numbers(bad, "rows", "integers")
    with pytest.raises(InputError, match="labels: expected one truth value for each of the 1 rows"):
        checks.truth_values(bad, "labels", 1)


def test_tensors_with_a_gradient_and_in_16_bits_raise_no_error_of_their_library():
    torch = pytest.importorskip("torch")
    for bad in (torch.ones(2, requires_grad=True), torch.ones(2, dtype=torch.bfloat16)):
        with pytest.raises(InputError, match="rows is"):
            checks.whole_numbers(bad, "rows", "integers")


def test_a_number_without_axes_is_no_list():
    alone = [given for given in held([3])[2:] if getattr(given, "shape", ())]
    assert not any(map(is_listable, [np.array(3), "ball", b"ball", 3, None]))
    assert all(map(is_listable, [[3], (3,), {3: 1}, iter([3]), range(3), *alone]))


def test_an_object_of_another_kind_is_named():
    with pytest.raises(InputError, match=r"plan is 'fast'; it must be an InputError\. Make one\."):
        checks.instance("fast", "plan", InputError, hint="Make one.")


def test_more_than_can_be_counted_is_all_that_can():
    assert checks.count(10**20, "n") == sys.maxsize
    with pytest.raises(InputError, match=r"in \[1, 9\]"):
        checks.count(10**20, "n", most=9)
