"""Which features fire together, on the summary's sample of tokens. Never d_hidden x d_hidden."""

from __future__ import annotations

import numpy as np

from .summary import Summary


def partners(summary: Summary, feature_id: int) -> list[tuple[int, float]]:
    """Features that fire on the same tokens: (feature id, Jaccard index), the largest first, then the lower id."""
    together, own = _together(summary, feature_id)
    ids = np.flatnonzero(together)
    ids = ids[ids != feature_id]
    alone = summary.sample_count[ids]
    shares = together[ids] / (own + alone - together[ids])
    order = np.lexsort((ids, -shares))
    return [(int(ids[i]), float(shares[i])) for i in order]


def share_of(summary: Summary, feature_id: int, other: int) -> float:
    """Jaccard index of two features; 0 where neither is active in the sample, 1 for the same active feature."""
    together, own = _together(summary, feature_id)
    either = own + int(summary.sample_count[other]) - int(together[other])
    return float(together[other] / either) if either else 0.0


def _together(summary: Summary, feature_id: int) -> tuple[np.ndarray, int]:
    """int64, (d_hidden,): sampled tokens where a feature fires beside this one; and where this one does."""
    hits = np.flatnonzero(summary.sample_features == feature_id)
    rows = np.searchsorted(summary.sample_indptr, hits, side="right") - 1
    starts, counts = summary.sample_indptr[rows], np.diff(summary.sample_indptr)[rows]
    ends = np.cumsum(counts)
    pairs = np.repeat(starts - (ends - counts), counts) + np.arange(int(counts.sum()))
    return np.bincount(summary.sample_features[pairs], minlength=len(summary.count)), len(rows)
