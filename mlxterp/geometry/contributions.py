"""What features contribute to a probe's direction on single tokens: the formulas of absorption.

With h an activation less the SAE's b_dec, g the probe's direction (length 1), z features and d decoder rows:

    projection      p = h · g
    contribution    c_j = z_j (d_j · g)          for rows of length 1: z_j cos(d_j, g)
    full absorption every main feature is silent, p > 0, and the largest c_j of the others is at least `share` of p,
                    with cos(d_j, g) at least `cos_full`
    fraction        A: sum of the `top` largest c_j > 0 of features that are no mains, with cosine at least `cos_share`;
                    M: sum of the mains' c. 0 where p <= 0, M >= p or A < `share` p; 1 where M <= 0;
                    else u / (u + M) with u = min(A, p - M)

After Chanin et al., "A is for Absorption" (2024), and SAEBench (2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core.sparse import SparseFeatures

_SILENT = 1e-8
"""A main feature up to so much is silent."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Numbers of the formulas."""

    cos_full: float = 0.025
    cos_share: float = 0.1
    share: float = 0.4
    top: int = 3


@dataclass(frozen=True, eq=False, slots=True)
class Contributions:
    """Of n tokens; every array is (n,)."""

    projection: np.ndarray
    """float64: p."""
    missed: np.ndarray
    """bool: every main feature is silent."""
    full: np.ndarray
    """bool: fully absorbed."""
    fraction: np.ndarray
    """float64, in [0, 1]."""
    best: np.ndarray
    """int64: the feature, none of the mains, with the largest contribution; -1 where no other is active."""
    part: np.ndarray
    """float64: its contribution / p; 0 where p is not positive or there is none."""
    cosine: np.ndarray
    """float64: of its decoder row with the direction; 0 where there is none."""


def contributions(
    features: SparseFeatures, W_dec: np.ndarray, centred: np.ndarray, direction: np.ndarray,
    mains: Sequence[int], limits: Limits,
) -> Contributions:  # fmt: skip
    """The formulas above.

    Args:
        features: Of n tokens.
        W_dec: (d_hidden, width).
        centred: (n, width): activations less b_dec.
        direction: (width,), of length 1.
    """
    along, cosines = W_dec.astype(np.float64) @ direction, cosines_with(W_dec, direction)
    is_main = np.zeros(len(W_dec), dtype=bool)
    is_main[list(mains)] = True
    n, row, ids = features.n, features.row_ids, features.indices
    values = features.values.astype(np.float64)
    given, main = values * along[ids], is_main[ids]

    p = centred.astype(np.float64) @ direction
    safe = np.where(p > 0, p, 1.0)
    missed = np.bincount(row[main & (np.abs(values) > _SILENT)], minlength=n) == 0
    of_mains = np.bincount(row[main], given[main], minlength=n)

    row, ids, given = row[~main], ids[~main], given[~main]
    order = np.lexsort((ids, -given, row))
    row, ids, given = row[order], ids[order], given[order]
    first = np.flatnonzero(np.diff(row, prepend=-1))
    best, largest = np.full(n, -1, dtype=np.int64), np.zeros(n)
    best[row[first]], largest[row[first]] = ids[first], given[first]
    part = np.where(p > 0, largest / safe, 0.0)
    cosine = np.where(best >= 0, cosines[best], 0.0)
    full = missed & (best >= 0) & (cosine >= limits.cos_full) & (p > 0) & (part >= limits.share)

    others = _sum_of_first(row, np.where(cosines[ids] >= limits.cos_share, given, 0.0), n, limits.top)
    filled = np.minimum(others, p - of_mains)
    fraction = np.where(of_mains <= 0, 1.0, filled / np.where(of_mains > 0, filled + of_mains, 1.0))
    none = (p <= 0) | (of_mains >= p) | (others < limits.share * p)
    return Contributions(p, missed, full, np.where(none, 0.0, fraction), best, part, cosine)


def cosines_with(W_dec: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """float64, (d_hidden,): of decoder rows with a direction of length 1; 0 for rows of zeros."""
    exact = W_dec.astype(np.float64)
    return exact @ direction / np.maximum(np.linalg.norm(exact, axis=1), 1e-12)


def _sum_of_first(row: np.ndarray, values: np.ndarray, n: int, top: int) -> np.ndarray:
    """float64, (n,): of each row, the sum of its `top` largest positive values. Rows ascend, and in each the values
    that are not 0 descend."""
    row, values = row[values > 0], values[values > 0]
    starts = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=n))])
    rank = np.arange(len(row)) - starts[row]
    return np.bincount(row[rank < top], values[rank < top], minlength=n)


def find_mains(
    features: SparseFeatures, labels: np.ndarray, cosines: np.ndarray, most: int, gain: float
) -> tuple[list[int], list[float]]:
    """Features that say a concept by being active, and the F1 of all up to each: the best, then what raises F1 most.

    A token is said to have the concept where one of them is active. Among equals the one nearest to the probe comes
    first. It ends where the next raises F1 by less than `gain`.

    Args:
        labels: bool, (n,).
        cosines: (d_hidden,): of decoder rows with the probe's direction.
        most: At most so many.
    """
    row, ids = features.row_ids, features.indices
    left = np.ones(features.n, dtype=bool)  # tokens on which none of the mains is active
    said = right = 0
    mains: list[int] = []
    scores: list[float] = []
    while len(mains) < most:
        here = left[row]
        fires = np.bincount(ids[here], minlength=features.d_hidden)
        hits = np.bincount(ids[here & labels[row]], minlength=features.d_hidden)
        found = 2 * (right + hits) / np.maximum(said + fires + labels.sum(), 1)
        best = int(np.where(found == found.max(), cosines, -np.inf).argmax())
        if found[best] < (scores[-1] + gain if scores else 0.0) or not hits[best]:
            break
        mains.append(best)
        scores.append(float(found[best]))
        left[row[ids == best]] = False
        said, right = said + int(fires[best]), right + int(hits[best])
    return mains, scores
