"""Decoder rows as directions: which are alike, and which of them form a diverse set.

`SAE.similar` and `SAE.select_diverse` ask. Exact cosines in float64, and never d_hidden x d_hidden of them.
A row of zeros has no direction: it is similar to none and never chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..core import checks, feature_ids
from ..errors import InputError, warn

_CELLS = 1 << 24
"""Numbers of W_dec that are held in float64 at once."""


def similar(W_dec: np.ndarray, feature_id: Any, top_k: int) -> list[tuple[int, float]]:
    """See `SAE.similar`."""
    feature = feature_ids.feature_id(feature_id, len(W_dec))
    top_k = checks.count(top_k, "top_k")
    cosines = _cosines(W_dec, unit_rows(W_dec[[feature]])[0])
    cosines[feature] = np.nan
    order = np.lexsort((np.arange(len(cosines)), -cosines))  # NaN last
    return [(int(f), float(cosines[f])) for f in order[:top_k] if not np.isnan(cosines[f])]


def select_diverse(W_dec: np.ndarray, n: int, max_cos: float, among: Any = None) -> list[int]:
    """See `SAE.select_diverse`."""
    n = checks.count(n, "n")
    max_cos = checks.finite(max_cos, "max_cos", above=-1, most=1, hint="It is a cosine to stay below.")
    if among is not None and (isinstance(among, (str, bytes)) or not hasattr(among, "__iter__")):
        raise InputError(f"among is {among!r}; expected feature ids, in the order to try them.")
    candidates: Sequence[int] = range(len(W_dec))
    if among is not None:
        candidates = list(dict.fromkeys(feature_ids.feature_id(one, len(W_dec)) for one in among))
    chosen: list[int] = []
    rows = np.empty((min(int(n), len(candidates)), W_dec.shape[1]))
    for feature in candidates:
        if len(chosen) == len(rows):
            break
        unit = unit_rows(W_dec[[feature]])[0]
        if unit.any() and (rows[: len(chosen)] @ unit < max_cos).all():
            rows[len(chosen)] = unit
            chosen.append(int(feature))
    if len(chosen) < n:
        warn(
            f"Only {len(chosen)} of the {n} features asked for: going through {len(candidates)}, every other one has a"
            f" cosine of at least {max_cos} with one chosen before. Raise max_cos, or give more features in among=."
        )
    return chosen


def _cosines(W_dec: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """float64 (d_hidden,): of every row with a unit vector; NaN for rows of zeros, and all NaN with zeros."""
    found = np.empty(len(W_dec))
    step = max(1, _CELLS // W_dec.shape[1])
    for start in range(0, len(W_dec), step):
        rows = unit_rows(W_dec[start : start + step])
        found[start : start + step] = np.where(rows.any(axis=1), rows @ unit, np.nan)
    return found if unit.any() else np.full(len(W_dec), np.nan)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """float64 rows of norm 1; rows of zeros stay zeros."""
    rows = rows.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)
