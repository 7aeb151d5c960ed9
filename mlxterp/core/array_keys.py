"""Index expressions of arrays, checked against a shape before a library sees them.

MLX does not look: an integer, or a list of them, that lies outside an axis reads or writes other memory. Slices are
cut to the axis by both libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from .integers import as_integer

Read = Callable[[Any], np.ndarray | None]
"""The numbers of an array of any library that stands in an index; None for what is none."""


def check_key(key: Any, shape: Sequence[int], what: str, read: Read) -> None:
    """Raises InputError where an index lies outside the axis that it is for, or a mask has another shape.

    Text, fractions and what else is no index are refused in the same words for both libraries. Objects that nobody
    here knows are left to the library.

    Args:
        key: What stands in the brackets: integers, slices, lists, arrays, masks, or a tuple of these.
        what: Names the array in messages.
        read: Makes NumPy's arrays of the library's own.
    """
    for part in key if isinstance(key, tuple) else (key,):
        _check_kind(part, what)
    for axis, part, used in _axes(key, shape, what, read):
        if isinstance(part, np.ndarray):
            _check_array(part, axis, used, shape, what)
        elif (found := as_integer(part)) is not None:
            _check_number(found, axis, shape, what)


def _check_kind(part: Any, what: str) -> None:
    """Raises InputError where a part of a key is certainly no index."""
    if isinstance(part, list):
        for one in part:
            _check_kind(one, what)
        return
    kind = str(getattr(part, "dtype", ""))
    no_numbers = any(word in kind for word in ("float", "complex", "str", "<U", "object"))
    if no_numbers or isinstance(part, (str, bytes, float, complex, Mapping, set)):
        raise InputError(
            f"{what} cannot be indexed by {part!r:.60}: expected integers, slices, None, ..., lists or arrays of"
            " integers, or masks. A component of a trace is named: t.activations['layers.3.mlp']."
        )


def _axes(key: Any, shape: Sequence[int], what: str, read: Read) -> Iterator[tuple[int, Any, int]]:
    """(axis, index, axes that it takes) of each part of a key."""
    parts = [_numbers(part, read) for part in (key if isinstance(key, tuple) else (key,))]
    used = [_used(part) for part in parts]
    taken, rank = sum(used), len(shape)
    if taken > rank:
        raise InputError(f"{taken} indices are too many for {what}, which has {rank} axes, {_told(shape)}.")
    axis = 0
    for part, n in zip(parts, used, strict=True):
        if part is ...:
            axis += rank - taken
            continue
        if n:
            yield axis, part, n
        axis += n


def _numbers(part: Any, read: Read) -> Any:
    """An index as it is checked: arrays and lists of numbers as NumPy's arrays, all else as it is."""
    if part is None or part is ... or isinstance(part, (bool, int, slice, str)):
        return part
    if isinstance(part, range):
        part = list(part)
    if isinstance(part, (list, np.ndarray)):
        try:
            found = np.asarray([_numbers(x, read) for x in part] if isinstance(part, list) else part)
        except (TypeError, ValueError):  # of unequal lengths
            return part
    else:
        found = read(part)
    return part if found is None or found.dtype.kind not in "iub" else found


def _used(part: Any) -> int:
    if part is None or part is ... or isinstance(part, (bool, np.bool_)):
        return 0
    if isinstance(part, np.ndarray) and part.dtype.kind == "b":
        return part.ndim
    return 1


def _check_array(part: np.ndarray, axis: int, used: int, shape: Sequence[int], what: str) -> None:
    if part.dtype.kind == "b":
        own = tuple(shape[axis : axis + used])
        if part.shape != own:
            raise InputError(
                f"A mask of shape {part.shape} does not fit {_axes_of(axis, used)} of {what}, of shape {own}"
                f" ({_told(shape)})."
            )
    elif part.size:
        for extreme in (int(part.min()), int(part.max())):
            _check_number(extreme, axis, shape, what)


def _check_number(index: int, axis: int, shape: Sequence[int], what: str) -> None:
    size = shape[axis]
    if -size <= index < size:
        return
    range_ = f"0 to {size - 1}, or -{size} to -1 from the end" if size else "so it has no index"
    raise InputError(
        f"Index {index} is outside axis {axis} of {what}, which has {size} entries ({range_}); {_told(shape)}."
    )


def _axes_of(axis: int, used: int) -> str:
    return f"axis {axis}" if used == 1 else f"axes {axis} to {axis + used - 1}"


def _told(shape: Sequence[int]) -> str:
    return f"its shape is {tuple(shape)}"
