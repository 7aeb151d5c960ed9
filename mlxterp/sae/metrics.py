"""How well an SAE reconstructs activations."""

from __future__ import annotations

import numpy as np

from ..backends import backend_of
from ..core.sites import Array
from ..errors import InputError, SAEError
from .sae import SAE

_ROWS = 1024


def explained_variance(sae: SAE, x: Array, target: Array | None = None) -> float:
    """1 - sum (y - reconstruction)^2 / sum (y - mean of y)^2 over all tokens.

    1 is a perfect reconstruction, 0 that of a constant; it can be negative.

    Args:
        x: Activations (n, d_model).
        target: What a transcoder predicts, (n, d_out); y is x without it.

    Raises:
        SAEError: The SAE's output is not as wide as y, or x does not fit it.
        InputError: x or target is not (n, width), or all rows of y are equal.
    """
    y = x if target is None else target
    for array in (x, y):
        if getattr(array, "ndim", 0) != 2 or len(array) == 0 or len(array) != len(x):
            raise InputError(
                f"Expected activations (n, d_model), got shape {tuple(getattr(array, 'shape', ()))}."
            )
    if sae.d_out != y.shape[1]:
        raise SAEError(
            f"This SAE maps width {sae.d_model} to {sae.d_out}, what it is compared with is {y.shape[1]} wide."
            " Give a transcoder's outputs as target."
        )
    starts = range(0, len(x), _ROWS)
    mean = sum(_float64(y[i : i + _ROWS]).sum(axis=0) for i in starts) / len(x)
    error = total = 0.0
    for i in starts:
        values = _float64(y[i : i + _ROWS])
        error += float(((values - _float64(sae.reconstruct(x[i : i + _ROWS]))) ** 2).sum())
        total += float(((values - mean) ** 2).sum())
    if total == 0:
        raise InputError("All rows are equal, so there is no variance to explain. Give more tokens.")
    return 1 - error / total


def _float64(x: Array) -> np.ndarray:
    return (x if isinstance(x, np.ndarray) else backend_of(x).get(x)).astype(np.float64)
