"""Figures of one feature over an index, and the features that fire on the same tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .derived import Derived
from .summary import Summary

_BINS_PER_OCTAVE = 4
_LARGEST_BINS = 64
_FEW = 16
"""Sorting costs as much as counting all features, where so many fire for each entry that is sorted."""


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
    ids, together = _together(summary, rows)
    together, ids = together[ids != feature_id], ids[ids != feature_id]
    shares = together / (len(rows) + summary.sample_count[ids] - together)
    order = np.lexsort((ids, -shares))[:top_k]
    return [(int(ids[i]), float(shares[i])) for i in order]


def share_of(derived: Derived, feature_id: int, other: int) -> float:
    """Jaccard index of two features; 0 where neither is active in the sample, 1 for the same active feature."""
    rows, others = derived.sampled(feature_id), derived.sampled(other)
    both = len(np.intersect1d(rows, others, assume_unique=True))
    either = len(rows) + len(others) - both
    return float(both / either) if either else 0.0


def _together(summary: Summary, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features that fire on some sampled tokens, ascending, and on how many of them."""
    starts = summary.sample_indptr[rows]
    counts = summary.sample_indptr[rows + 1] - starts
    ends = np.cumsum(counts)
    pairs = np.repeat(starts - (ends - counts), counts) + np.arange(int(counts.sum()))
    features = summary.sample_features[pairs]
    if len(features) * _FEW < len(summary.count):
        return np.unique(features, return_counts=True)
    found = np.bincount(features, minlength=len(summary.count))
    ids = np.flatnonzero(found)
    return ids, found[ids]
