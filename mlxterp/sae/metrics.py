"""How well an SAE reconstructs activations."""

from __future__ import annotations

import numpy as np

from ..backends import backend_of
from ..errors import InputError, SAEError
from ..sites import Array
from .sae import SAE

_ROWS = 4096


def explained_variance(sae: SAE, x: Array) -> float:
    """1 - sum (x - reconstruction)^2 / sum (x - mean of x)^2 over all tokens of x (n, d_model).

    1 is a perfect reconstruction, 0 that of a constant; it can be negative.

    Raises:
        SAEError: The SAE's output is not as wide as its input (a transcoder), or x does not fit it.
        InputError: x is not (n, d_model), or all its rows are equal.
    """
    if sae.d_out != sae.d_model:
        raise SAEError(
            f"This SAE maps width {sae.d_model} to {sae.d_out}, so it does not reconstruct its input."
        )
    if getattr(x, "ndim", 0) != 2 or len(x) == 0:
        raise InputError(f"Expected activations (n, d_model), got shape {tuple(getattr(x, 'shape', ()))}.")
    parts = [x[i : i + _ROWS] for i in range(0, len(x), _ROWS)]
    mean = sum(_float64(part).sum(axis=0) for part in parts) / len(x)
    error = total = 0.0
    for part in parts:
        values = _float64(part)
        error += float(((values - _float64(sae.reconstruct(part))) ** 2).sum())
        total += float(((values - mean) ** 2).sum())
    if total == 0:
        raise InputError("All rows are equal, so there is no variance to explain. Give more tokens.")
    return 1 - error / total


def _float64(x: Array) -> np.ndarray:
    return (x if isinstance(x, np.ndarray) else backend_of(x).get(x)).astype(np.float64)
