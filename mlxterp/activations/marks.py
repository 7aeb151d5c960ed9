"""Marks of activations, by which `core.beginnings` tells rounding from a difference."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..backends import backend_of
from ..core.beginnings import MARKS
from ..core.sites import Array

_NARROW, _WIDE = 0.02, 1e-4
"""Shares of an activation's length that the rounding of 16 bits, and of 32, can change."""


def marks(rows: Array) -> np.ndarray:
    """float32, (n, MARKS): projections of activations (n, width), their lengths, and what rounding can change."""
    backend = backend_of(rows)
    signs = backend.put_beside(_signs(int(rows.shape[-1])), rows)
    lengths = backend.lengths(rows)
    tolerance = np.float32(_NARROW if "16" in str(rows.dtype) else _WIDE) * lengths
    projected = np.asarray(backend.get(backend.cast(rows, signs) @ signs))
    return np.column_stack([projected, lengths, tolerance]).astype(np.float32)


@lru_cache(maxsize=16)
def _signs(width: int) -> np.ndarray:
    return np.random.default_rng(0).choice(np.array([-1, 1], np.float32), (width, MARKS - 2))
