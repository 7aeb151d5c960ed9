"""The largest activations of a batch, and the windows around them: `get_k_largest_indices`, `index_with_buffer`.

Both take arrays of either library, or of NumPy, and give arrays of the same kind on the same device.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backends import backend_of
from ...backends.host.conversion import is_native
from ...core import checks
from ...errors import InputError


def get_k_largest_indices(x: Any, k: int, buffer: int = 0, no_overlap: bool = True) -> Any:
    """Where the largest values of a batch are, the largest first; among equals the earlier place.

    Args:
        x: (batch, positions), of one latent.
        k: At most so many; fewer come back where there are no more places.
        buffer: Positions at both ends of a row that are not chosen, so that a window fits around each.
        no_overlap: Whether no place lies within `buffer` of a larger one in its row.

    Returns:
        int, (k, 2): row and position.

    Raises:
        InputError: `x` has another shape or holds NaN, or no position has room for the buffer.

    Examples:
        >>> import numpy as np
        >>> from mlxterp.compat.arena import get_k_largest_indices
        >>> get_k_largest_indices(np.array([[0.0, 3.0, 1.0, 2.0]]), k=2).tolist()
        [[0, 1], [0, 3]]
    """
    values, k, buffer = _host(x), checks.count(k, "k"), checks.count(buffer, "buffer", 0)
    if not np.isfinite(values).all():
        raise InputError("x holds NaN or infinite values, which have no order. Look at the activations.")
    places = largest_places(values, k, buffer, checks.flag(no_overlap, "no_overlap"))
    return _like(places, x)


def index_with_buffer(x: Any, indices: Any, buffer: int | None = None) -> Any:
    """The values at these places, or whole windows around them; one too near an end is moved inwards.

    Args:
        x: (batch, positions): tokens or activations.
        indices: int, (k, 2): row and position.
        buffer: Positions on both sides; None gives the places alone.

    Returns:
        (k, 2 × buffer + 1), or (k,) without a buffer.

    Raises:
        InputError: A place lies outside `x`, or rows are shorter than a window.

    Examples:
        >>> import numpy as np
        >>> from mlxterp.compat.arena import index_with_buffer
        >>> index_with_buffer(np.arange(6)[None], np.array([[0, 2], [0, 5]]), buffer=1).tolist()
        [[1, 2, 3], [3, 4, 5]]
    """
    values, places = _host(x), _places(indices)
    outside = (places < 0) | (places >= np.array(values.shape))
    if outside.any():
        bad = places[outside.any(axis=1)][0].tolist()
        raise InputError(
            f"indices hold {bad}; x has {values.shape[0]} rows of {values.shape[1]}, counted from 0."
        )
    if buffer is None:
        return _like(values[places[:, 0], places[:, 1]], x)
    return _like(windows_at(values, places, checks.count(buffer, "buffer", 0)), x)


def largest_places(values: np.ndarray, k: int, buffer: int, no_overlap: bool) -> np.ndarray:
    """int64, (k, 2): as `get_k_largest_indices`, in NumPy."""
    length = values.shape[1]
    _check_room(length, buffer)
    inner = values[:, buffer : length - buffer]
    order = np.argsort(-inner, axis=None, kind="stable")
    rows, columns = np.divmod(order, inner.shape[1])
    places = np.stack([rows, columns + buffer], axis=1)
    return _apart(places, k, buffer) if no_overlap else places[:k]


def windows_at(values: np.ndarray, places: np.ndarray, buffer: int) -> np.ndarray:
    """(k, 2 × buffer + 1): windows around places, moved inwards at the ends of a row."""
    length = values.shape[1]
    _check_room(length, buffer)
    centres = np.clip(places[:, 1], buffer, length - buffer - 1)
    return values[places[:, :1], centres[:, None] + np.arange(-buffer, buffer + 1)]


def _apart(places: np.ndarray, k: int, buffer: int) -> np.ndarray:
    """The first k places of which none lies within `buffer` of an earlier one."""
    taken: dict[int, list[int]] = {}
    found = []
    for row, position in places.tolist():
        near = taken.setdefault(row, [])
        if all(abs(position - other) > buffer for other in near):
            near.append(position)
            found.append((row, position))
            if len(found) == k:
                break
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _check_room(length: int, buffer: int) -> None:
    if length < 2 * buffer + 1:
        raise InputError(f"Rows of {length} positions have no room for a window of {2 * buffer + 1}.")


def _host(x: Any) -> np.ndarray:
    values = backend_of(x).get(x) if is_native(x) else np.asarray(x)
    if values.ndim != 2 or not values.size or values.dtype.kind not in "fiu":
        raise InputError(f"x is an array (batch, positions) of numbers, got {values.dtype} {values.shape}.")
    return values


def _places(indices: Any) -> np.ndarray:
    found = backend_of(indices).get(indices) if is_native(indices) else np.asarray(indices)
    if not found.size:
        return np.zeros((0, 2), dtype=np.int64)
    if found.ndim != 2 or found.shape[1] != 2 or found.dtype.kind not in "iu":
        raise InputError(f"indices are integers (k, 2): row and position; got {found.dtype} {found.shape}.")
    return found.astype(np.int64)


def _like(found: np.ndarray, x: Any) -> Any:
    """An array of the library of `x`, on its device."""
    if not is_native(x):
        return found
    backend = backend_of(x)
    if found.dtype == np.int64 and backend.name == "mlx":
        found = found.astype(np.int32)  # what MLX's own indices are
    return backend.put_beside(found, x)
