"""Whole numbers as users hold them: Python's, NumPy's, arrays of one number; truth values are none.

`checks` refuses by these what is no number; calls that take other things beside numbers ask here which it is. Of what
a file says `is_integer` and `is_number` are asked: there only Python's own numbers come.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, TypeGuard


def as_integer(given: Any) -> int | None:
    """The number, where `given` has an `__index__` and is no truth value; else None."""
    if type(given) is int:  # as token ids are, by the thousand
        return given
    if is_truth_value(given):
        return None
    try:
        return operator.index(given)
    except Exception:  # arrays of other libraries raise what they like
        return None


def is_truth_value(given: Any) -> bool:
    """Whether it is True or False: Python's, NumPy's, or an array of any library that holds some."""
    return isinstance(given, bool) or str(getattr(given, "dtype", "")).rpartition(".")[2].startswith("bool")


def is_integer(given: Any) -> TypeGuard[int]:
    """Whether a value that JSON gave is an integer."""
    return isinstance(given, int) and not isinstance(given, bool)


def is_number(given: Any) -> TypeGuard[float]:
    """Whether a value that JSON gave is a number: an integer, or one with a fraction (which may not be finite)."""
    return isinstance(given, (int, float)) and not isinstance(given, bool)


def is_listable(given: Any) -> bool:
    """Whether it holds several things: what iterates, but texts and arrays of a single number without axes."""
    alone = isinstance(given, (str, bytes, bytearray)) or getattr(given, "shape", None) == ()
    return isinstance(given, Iterable) and not alone


def scalar(given: Any) -> Any:
    """An array of a single number without axes (0-d, of any library) as that number; else what was given."""
    if getattr(given, "ndim", None) == 0 and hasattr(given, "item"):
        return given.item()
    return given
