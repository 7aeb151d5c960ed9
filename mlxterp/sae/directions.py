"""Decoder rows as directions: which are alike, and which of them form a diverse set.

`SAE.similar` and `SAE.select_diverse` ask. Exact cosines in float64, and never d_hidden x d_hidden of them. Which rows
can be among the most alike, one product in float32 tells; the rest is left out.
A row of zeros has no direction: it is similar to none and never chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core import checks, feature_ids
from ..core.numeric import reached_by
from ..errors import InputError, warn

_TINY, _HUGE = 1e-30, 1e30
"""Norms between which float32 products keep their precision."""
_NONE = -4.0
"""In place of the cosine of a row that has none."""


def row_norms(W_dec: np.ndarray) -> np.ndarray:
    """float64, (d_hidden,): norms of rows; read-only."""
    norms = np.sqrt(np.einsum("ij,ij->i", W_dec, W_dec, dtype=np.float64))
    norms.flags.writeable = False
    return norms


@dataclass(frozen=True, eq=False, slots=True)
class RowLengths:
    """How long the rows of a decoder are, ready for cosines.

    Attributes:
        safe: float32, (d_hidden,): norms; 1 for the rows whose float32 products have no precision.
        unsafe: int64: those rows.
        unsafe_directions: int64: those of them that are no zeros.
    """

    safe: np.ndarray
    unsafe: np.ndarray
    unsafe_directions: np.ndarray

    @staticmethod
    def of(norms: np.ndarray) -> RowLengths:
        """From norms as `row_norms` gives them."""
        sure = (norms > _TINY) & (norms < _HUGE)
        safe = np.where(sure, norms, 1).astype(np.float32)
        return RowLengths(safe, np.flatnonzero(~sure), np.flatnonzero(~sure & (norms > 0)))


def similar(W_dec: np.ndarray, lengths: RowLengths, feature_id: Any, top_k: int) -> list[tuple[int, float]]:
    """See `SAE.similar`.

    Args:
        lengths: Of the rows of `W_dec`.
    """
    feature = feature_ids.feature_id(feature_id, len(W_dec))
    top_k = checks.count(top_k, "top_k")
    unit = unit_rows(W_dec[[feature]])[0]
    if not unit.any():
        return []
    ids = _candidates(W_dec, lengths, unit, feature, top_k)
    cosines = (unit_rows(W_dec[ids]) * unit).sum(axis=1)  # each row by itself: equal rows are equal
    order = np.lexsort((ids, -cosines))[:top_k]
    return [(int(ids[i]), float(cosines[i])) for i in order]


def _candidates(
    W_dec: np.ndarray, lengths: RowLengths, unit: np.ndarray, feature: int, top_k: int
) -> np.ndarray:
    """int64: every row that can be among the `top_k` with the largest cosines, but `feature` and rows of zeros."""
    near = W_dec @ unit.astype(np.float32)
    near /= lengths.safe
    near[lengths.unsafe] = _NONE
    near[feature] = _NONE
    apart = (
        2 * (W_dec.shape[1] + 2) * float(np.finfo(np.float32).eps)
    )  # no float32 cosine is off by half of it
    least = float(reached_by(near, top_k)) - apart if top_k < len(near) else _NONE
    chosen = np.flatnonzero(near >= max(least, _NONE / 2))
    others = lengths.unsafe_directions
    return np.concatenate([chosen, others[others != feature]])


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


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """float64 rows of norm 1; rows of zeros stay zeros."""
    rows = rows.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)
