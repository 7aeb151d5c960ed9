"""Figures of one feature over an index, and the features that fire on the same tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..core.numeric import largest
from .derived import Derived
from .summary import Summary

_BINS_PER_OCTAVE = 4
_LARGEST_BINS = 64
_FEW = 16
"""Sorting costs as much as counting all features, where there are so many for each entry that is sorted."""


@dataclass(frozen=True, eq=False, slots=True)
class FeatureStats:
    """How often and how strongly a feature fires. Activations of signed SAEs count by magnitude.

    Attributes:
        feature_id: The feature.
        count: Number of tokens on which it is active.
        n_tokens: Number of tokens that were counted.
        n_texts: Number of texts in which it is active.
        mean: Mean activation where it is active; 0 where it never is.
        maximum: Activation of largest magnitude; 0 where it is never active.
        histogram: (int64 (bins,), float64 (bins + 1,)): tokens by activation, and the edges of the bins: four to a
            doubling, 64 at most. Empty for a feature that is never active.
        top_tokens: Tokens it fires on most often, and how often.
    """

    feature_id: int
    count: int
    n_tokens: int
    n_texts: int
    mean: float
    maximum: float
    histogram: tuple[np.ndarray, np.ndarray]
    top_tokens: tuple[tuple[str, int], ...]

    @property
    def density(self) -> float:
        """Share of the tokens where it is active."""
        return self.count / self.n_tokens

    def __repr__(self) -> str:
        tokens = ", ".join(f"{token!r} {count}" for token, count in self.top_tokens[:5])
        return (
            f"FeatureStats(feature {self.feature_id}: active on {self.count} of {self.n_tokens} tokens"
            f" ({self.density:.3%}) in {self.n_texts} texts, mean {self.mean:.3g},"
            f" maximum {self.maximum:.3g}; on {tokens})"
        )


def log_histogram(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts of values (n,) by magnitude in log-spaced bins, and the edges; bins below the lowest edge's are in it."""
    magnitudes = np.abs(np.asarray(values, dtype=np.float64))
    if not len(magnitudes):
        return np.zeros(0, dtype=np.int64), np.zeros(1)
    steps = np.floor(np.log2(magnitudes) * _BINS_PER_OCTAVE).astype(np.int64)
    last = int(steps.max())
    first = max(int(steps.min()), last - _LARGEST_BINS + 1)
    counts = np.bincount(np.maximum(steps, first) - first, minlength=last - first + 1)
    edges = 2.0 ** (np.arange(first, last + 2) / _BINS_PER_OCTAVE)
    return counts, edges


def commonest(ids: np.ndarray, piece: Callable[[int], str], top_k: int) -> tuple[tuple[str, int], ...]:
    """The token ids that occur most often, as text, and how often; among equals the lower id first."""
    found, counts = np.unique(ids, return_counts=True)
    order = np.lexsort((found, -counts))[:top_k]
    return tuple((piece(int(found[i])), int(counts[i])) for i in order)


def partners(summary: Summary, derived: Derived, feature_id: int, top_k: int) -> list[tuple[int, float]]:
    """Features that fire on the same tokens: (feature id, Jaccard index), the largest first, then the lower id."""
    rows = derived.sampled(feature_id)
    if not len(rows):
        return []
    ids, together = _together(summary, rows)
    shares = together / (len(rows) + summary.sample_count[ids] - together)
    shares[ids.searchsorted(feature_id)] = 0  # it is no partner of itself; all others have a share
    best = largest(shares, top_k)
    return [(f, share) for f, share in zip(ids[best].tolist(), shares[best].tolist(), strict=True) if share]


def share_of(derived: Derived, feature_id: int, other: int) -> float:
    """Jaccard index of two features; 0 where neither is active in the sample, 1 for the same active feature."""
    rows, others = derived.sampled(feature_id), derived.sampled(other)
    both = len(np.intersect1d(rows, others, assume_unique=True))
    either = len(rows) + len(others) - both
    return float(both / either) if either else 0.0


def _together(summary: Summary, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features that fire on some sampled tokens, ascending, and on how many of them."""
    indptr, listed = summary.sample_indptr, summary.sample_features
    pairs = zip(indptr[rows].tolist(), indptr[rows + 1].tolist(), strict=True)
    features = np.concatenate([listed[:0], *(listed[start:stop] for start, stop in pairs)])
    if len(features) * _FEW < len(summary.count):
        features.sort()
        bounds = _runs(features)
        return features[bounds[:-1]], bounds[1:] - bounds[:-1]
    found = np.bincount(features, minlength=len(summary.count))
    ids = np.flatnonzero(found != 0)  # truth values are looked through many times faster than numbers
    return ids, found[ids]


def _runs(ordered: np.ndarray) -> np.ndarray:
    """int64, (runs + 1,): where each run of equal numbers starts, and where the last ends."""
    new = np.ones(len(ordered) + 1, dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:-1])
    return np.flatnonzero(new)
