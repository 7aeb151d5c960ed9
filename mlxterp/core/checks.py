"""Checks of the numbers that users give, made where a call begins, alike in every room and wing.

Each takes what was given and the name of the argument, and returns it as Python's own number, so NumPy's
scalars and whatever else has `__index__` or `__float__` go no further than here. Truth values and
strings are no numbers. Errors say what came, what was expected, and (`hint`) what to do.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from ..errors import InputError, SAEError
from .integers import as_integer, is_truth_value

GREEDY = 1e-6
"""Below this temperature the likeliest token is taken."""

FLOAT32 = 3.4028234663852886e38
"""The largest float32."""
LARGEST = math.sqrt(FLOAT32)
"""The largest length of an activation: norms square it, and what overflows there comes out as 0."""

_T = TypeVar("_T")


def integer(
    given: Any,
    name: str,
    least: int | None = None,
    most: int | None = None,
    *,
    hint: str = "",
    error: type[Exception] = InputError,
) -> int:
    """An integer in [least, most], as a Python int."""
    wanted = "an integer" + _range(least, most)
    found = as_integer(given)
    if found is not None and (least is None or found >= least) and (most is None or found <= most):
        return found
    raise error(_message(given, name, wanted, hint))


def count(
    given: Any,
    name: str,
    least: int = 1,
    most: int | None = None,
    *,
    hint: str = "",
    error: type[Exception] = InputError,
) -> int:
    """How many of something: an integer of at least `least`, as a Python int.

    Where there is no `most`, more than a machine can count becomes the most that it can: "at most 10**20" means all.
    """
    return min(integer(given, name, least, most, hint=hint, error=error), sys.maxsize)


def count_or_none(
    given: Any, name: str, least: int = 1, *, hint: str = "", error: type[Exception] = InputError
) -> int | None:
    """As `count`; None stays None."""
    return None if given is None else count(given, name, least, hint=hint, error=error)


def seed(given: Any, name: str = "seed", *, error: type[Exception] = InputError) -> int:
    """The start of a random sequence: an integer in [0, 2**64)."""
    found = as_integer(given)
    if found is not None and 0 <= found < 2**64:
        return found
    raise error(_message(given, name, "an integer in [0, 2**64)", ""))


def finite(
    given: Any,
    name: str,
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    hint: str = "",
    error: type[Exception] = InputError,
) -> float:
    """A finite number in [least, most] (or (above, below)), as a Python float."""
    found = _number(given)
    fits = (
        found is not None
        and (least is None or found >= least)
        and (most is None or found <= most)
        and (above is None or found > above)
        and (below is None or found < below)
    )
    if fits and found is not None:
        return found
    bounds = [
        f"{word} {bound:g}"
        for word, bound in (("at least", least), ("above", above), ("at most", most), ("below", below))
        if bound is not None
    ]
    wanted = "a finite number" + (f", {' and '.join(bounds)}" if bounds else "")
    raise error(_message(given, name, wanted, hint))


def number(given: Any, name: str, *, error: type[Exception] = InputError) -> float:
    """A finite number that activations can be changed by: float32 holds its square, which norms take."""
    return finite(given, name, -LARGEST, LARGEST, error=error)


def finite_rows(rows: np.ndarray, name: str, first: int = 0) -> None:
    """Raises SAEError where a row of activations (n, width) holds NaN or infinite values.

    Args:
        first: Number of the first row, for the message.
    """
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if bad.size:
        raise SAEError(
            f"Row {first + int(bad[0])} of {name} holds NaN or infinite values (in float32)."
            " Drop such rows: x[np.isfinite(x).all(axis=1)]; or run the model in bfloat16 or float32."
        )


def fraction(given: Any, name: str, *, error: type[Exception] = InputError) -> float:
    """A share: a number in [0, 1]."""
    return finite(given, name, 0.0, 1.0, error=error)


def temperature(given: Any, name: str = "temperature") -> float:
    """The temperature of sampling: at least 0. Below 1e-6 it becomes 0, which takes the likeliest token."""
    found = finite(given, name, 0.0)
    return 0.0 if found < GREEDY else found


def instance(
    given: Any, name: str, kind: type[_T], *, hint: str = "", error: type[Exception] = InputError
) -> _T:
    """A value of a class, such as settings that are given as one object."""
    if isinstance(given, kind):
        return given
    article = "an" if kind.__name__[0] in "AEIO" else "a"
    raise error(_message(given, name, f"{article} {kind.__name__}", hint))


def whole_numbers(given: Any, name: str, wanted: str, *, error: type[Exception] = InputError) -> np.ndarray:
    """int64: an array of whole numbers, of any library, or what becomes one.

    Args:
        wanted: What it must be, for the message.
    """
    array = array_of(given)
    if array is None or array.dtype.kind not in "iu" or (array.size and array.max() >= 2**63):
        raise error(_message(given, name, wanted, ""))
    return array.astype(np.int64)


def truth_values(
    given: Any, name: str, n: int, of: str = "rows", *, error: type[Exception] = InputError
) -> np.ndarray:
    """bool, (n,): one truth value (or 0 or 1) for each, from an array of any library, or what becomes one.

    Args:
        of: What there are n of, for the message.
    """
    array = array_of(given)
    if (
        array is None
        or array.shape != (n,)
        or array.dtype.kind not in "biu"
        or not np.isin(array, (0, 1)).all()
    ):
        shape = "" if array is None else f" of shape {array.shape}, {array.dtype}"
        raise error(
            f"{name}: expected one truth value for each of the {n} {of}, got {type(given).__name__}{shape}."
        )
    return array.astype(bool)


def flag(given: Any, name: str, *, error: type[Exception] = InputError) -> bool:
    """True or False."""
    if not is_truth_value(given):
        raise error(_message(given, name, "True or False", ""))
    return bool(given)


def choice(given: Any, name: str, among: Iterable[_T], *, error: type[Exception] = InputError) -> _T:
    """One of a few values."""
    known = list(among)
    for value in known:
        if type(given) is type(value) and given == value:
            return value
    raise error(_message(given, name, "one of " + ", ".join(map(repr, known)), ""))


def strings(given: Any, name: str, *, error: type[Exception] = InputError) -> tuple[str, ...]:
    """None, one string or several, as a tuple; none of them is empty."""
    if given is None:
        return ()
    several = (given,) if isinstance(given, str) else given
    if isinstance(several, (bytes, bytearray)) or not isinstance(several, Iterable):
        raise error(_message(given, name, "a string, or several", ""))
    found = tuple(several)
    for text in found:
        if not isinstance(text, str):
            raise error(_message(text, f"an entry of {name}", "a string", ""))
        if not text:
            raise error(f"{name}= holds an empty string, which every text begins with.")
    return found


def _number(given: Any) -> float | None:
    if is_truth_value(given) or isinstance(given, (str, bytes, bytearray, complex)):
        return None
    try:
        number = float(given)
    except Exception:  # arrays of other libraries raise what they like
        return None
    return number if math.isfinite(number) else None


def array_of(given: Any) -> np.ndarray | None:
    """NumPy's array of what a user holds; None where it makes none."""
    try:
        if hasattr(given, "detach"):
            given = given.detach().cpu()
        return np.asarray(list(given) if isinstance(given, Iterator) else given)
    except (TypeError, ValueError, RuntimeError):  # other libraries' own kinds, rows of unequal length
        return None


def _range(least: int | None, most: int | None) -> str:
    if least is None:
        return "" if most is None else f" of at most {most}"
    return f" of at least {least}" if most is None else f" in [{least}, {most}]"


def _message(given: Any, name: str, wanted: str, hint: str) -> str:
    try:
        shown = repr(given)
    except Exception:
        shown = type(given).__name__
    shown = shown if len(shown) <= 60 else f"{shown[:57]}…"
    return f"{name} is {shown}; it must be {wanted}." + (f" {hint}" if hint else "")
