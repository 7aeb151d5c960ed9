"""Whole numbers as users hold them: Python's, NumPy's, arrays of one number; truth values are none."""

from __future__ import annotations

import operator
from typing import Any


def as_integer(given: Any) -> int | None:
    """The number, where `given` has an `__index__` and is no truth value; else None."""
    if isinstance(given, bool) or "bool" in str(getattr(given, "dtype", "")):
        return None
    try:
        return operator.index(given)
    except TypeError:
        return None


def number(given: Any) -> Any:
    """An array of a single number without axes (0-d, of any library) as that number; else what was given."""
    if getattr(given, "ndim", None) == 0 and hasattr(given, "item"):
        return given.item()
    return given
