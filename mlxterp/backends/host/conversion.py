"""What users hold becomes an array: lists, NumPy, pandas, MLX and PyTorch in any real dtype, with or without gradient.

Everything that takes a vector or an array of numbers goes through here: `to_numpy`, `to_vector` for one row, and
`to_native` for an array of the library that runs.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from ...core.sites import Array
from ...errors import InputError, MlxterpError
from .. import backend_of
from ..base import Backend

_LIBRARIES = ("mlx", "torch")


def to_numpy(given: Any, what: str = "The value", error: type[MlxterpError] = InputError) -> np.ndarray:
    """An array of real numbers in NumPy: float64 as it is, everything else as float32; detached.

    Args:
        given: Nested lists or tuples, an array of NumPy, MLX or PyTorch (bfloat16 and narrower, too), a pandas Series
            or data frame, a `SteeringVector`.
        what: Names it in messages.

    Raises:
        InputError (or `error`): It holds something else than real numbers, or rows of unequal length.
    """
    array = _read(given, what, error)
    if array.dtype.kind == "V" or array.dtype.name.startswith(("bfloat16", "float8", "int4", "uint4")):
        array = array.astype(np.float32)  # of ml_dtypes
    if (
        array.dtype.kind == "O"
        and array.size
        and all(isinstance(x, Real) and not isinstance(x, bool) for x in array.flat)
    ):
        try:
            array = array.astype(np.float64)  # a row of a table whose columns are of several types
        except OverflowError as failed:  # Python's integers have no end
            raise error(f"{what} holds a number beyond float64; expected finite numbers.") from failed
    if array.dtype.kind not in "fiu":
        said = "text" if array.dtype.kind in "UST" else str(array.dtype)
        raise error(f"{what} holds {said}; expected real numbers.")
    if array.dtype == np.float64:
        return array
    return array.astype(np.float64 if array.dtype.itemsize > 4 and array.dtype.kind != "f" else np.float32)


def to_vector(given: Any, what: str = "The vector", width: int | None = None) -> np.ndarray:
    """One row of finite numbers, float32 (width,), its own memory.

    Args:
        given: As in `to_numpy`, of shape (width,); axes of length 1 beside it do not matter, so that (1, width), as one
            token of a trace gives it, and (width, 1) are rows too.
        width: How many numbers there must be; None takes any.

    Raises:
        InputError: It has another shape, or a number is NaN, infinite or too large for float32.
    """
    array = to_numpy(given, what)
    expected = "(width,)" if width is None else f"({width},)"
    if array.ndim < 1 or array.size < 1 or array.size != max(array.shape):
        raise InputError(f"{what} has shape {array.shape}; expected a vector {expected}, one row of numbers.")
    with np.errstate(over="ignore"):  # refused below
        row = np.array(array.reshape(-1), dtype=np.float32)
    if width is not None and len(row) != width:
        raise InputError(f"{what} has {len(row)} numbers; expected {width}.")
    bad = np.flatnonzero(~np.isfinite(row))
    if bad.size:
        raise InputError(
            f"{what} has no direction: {bad.size} of {row.size} numbers are NaN, infinite or too large for float32"
            f" (first: number {int(bad[0])}). Look at the activations it was made from."
        )
    return row


def to_native(
    given: Any, like: Array, what: str = "The value", error: type[MlxterpError] = InputError
) -> Array:
    """The same as an array of `like`'s library, dtype and device; one that is of the library stays on it.

    Raises:
        InputError (or `error`): As `to_numpy`.
    """
    backend: Backend = backend_of(like)
    if isinstance(given, backend.array_type):
        return backend.cast(given, like)
    return backend.put(to_numpy(given, what, error), like)


def is_native(given: Any) -> bool:
    """Whether it is an array of MLX or PyTorch."""
    return any(cls.__module__.partition(".")[0] in _LIBRARIES for cls in type(given).__mro__[:-1])


def _read(given: Any, what: str, error: type[MlxterpError]) -> np.ndarray:
    try:
        if is_native(given):
            return backend_of(given).get(given)
        if np.ma.is_masked(given):
            raise error(
                f"{what} has masked numbers, which say nothing. Fill them (x.filled(…)) or drop their rows."
            )
        if isinstance(given, (list, tuple)):
            given = [_inside(part, what, error) for part in given]
        if hasattr(given, "iloc") and hasattr(
            given, "to_numpy"
        ):  # pandas, whose own integers may lack values
            return given.to_numpy(dtype=np.float64, na_value=np.nan)
        return np.asarray(given)
    except (TypeError, ValueError, RuntimeError, OverflowError) as cause:
        raise error(
            f"{what} is {type(given).__name__}, which makes no array of numbers ({cause}). Give an array, or lists of"
            " numbers of equal length."
        ) from cause


def _inside(part: Any, what: str, error: type[MlxterpError]) -> Any:
    """What stands in a list: numbers stay, arrays and lists become arrays."""
    if is_native(part) or isinstance(part, (list, tuple)):
        return _read(part, what, error)
    return part
