"""The running-sum score of gene-set enrichment, for sets of tokens: scores, their nulls, p and q.

Tokens are ranked by their score, highest first. The sum goes up at a token of the set, by its share of the set's
weights |score|^weight, and down at any other by 1 / (tokens outside the set). Its largest departure from 0, with its
sign, is the set's score: near 1 for a set at the top, near -1 for one at the bottom. `enrichment` uses it.

After Subramanian et al., "Gene set enrichment analysis" (2005); q after Benjamini and Hochberg (1995).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

_CELLS = 1 << 21
"""Places of shuffled tokens held at once."""


def running_sum_scores(scores: np.ndarray, sets: Sequence[np.ndarray], weight: float = 1.0) -> np.ndarray:
    """The score of every set by every row of token scores.

    Args:
        scores: (n, tokens); among equals the earlier token is ranked first.
        sets: Token ids of each set, each once; neither none nor all.
        weight: Exponent of |score|; 0 counts a set's tokens alike.

    Returns:
        float64, (n, sets), in [-1, 1].
    """
    order, weights = ranked(scores, weight)
    ranks = np.empty(order.shape, dtype=np.int32)
    np.put_along_axis(ranks, order, np.arange(order.shape[1], dtype=np.int32)[None], axis=1)
    found = np.empty((len(scores), len(sets)))
    for j, ids in enumerate(sets):
        places = np.sort(ranks[:, ids], axis=1)
        found[:, j] = _peaks(np.take_along_axis(weights, places, axis=1), places, order.shape[1])
    return found


def ranked(scores: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each row from the highest score to the lowest, int64, and |score|^weight in that order, float64."""
    wide = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-wide, axis=1, kind="stable")
    return order, np.abs(np.take_along_axis(wide, order, axis=1)) ** weight


def shuffled_scores(weights: np.ndarray, size: int, n: int, seed: int) -> np.ndarray:
    """Scores of n random sets of `size` tokens by every row, as if a set's tokens had nothing to do with each other.

    Args:
        weights: (rows, tokens), in the order of ranks; see `ranked`.

    Returns:
        float64, (rows, n). The sets are the same for every row.
    """
    parts = []
    for places in _random_places(weights.shape[1], size, n, seed):
        parts.append([_peaks(row[places], places, weights.shape[1]) for row in weights])
    return np.concatenate(parts, axis=1)


def _random_places(tokens: int, size: int, n: int, seed: int) -> Iterator[np.ndarray]:
    """Ranks of n random sets, ascending within a set, some sets at a time."""
    draw = np.random.default_rng([seed, size])
    rows = max(1, _CELLS // size)
    for start in range(0, n, rows):
        some = [
            np.sort(draw.choice(tokens, size, replace=False, shuffle=False))
            for _ in range(min(rows, n - start))
        ]
        yield np.array(some)


def _peaks(weights: np.ndarray, places: np.ndarray, tokens: int) -> np.ndarray:
    """The largest departure from 0 of each row's running sum.

    Args:
        weights: (rows, set), of the set's tokens in the order of their ranks.
        places: (rows, set), their ranks, ascending.
        tokens: How many there are in all.
    """
    totals = weights.sum(axis=1, keepdims=True)
    weights = np.where(totals > 0, weights, 1.0)  # tokens whose scores are all 0 count alike
    shares = weights / weights.sum(axis=1, keepdims=True)
    size = weights.shape[1]
    after = np.cumsum(shares, axis=1) - (places - np.arange(size)) / (tokens - size)
    high, low = after.max(axis=1), (after - shares).min(axis=1)
    return np.where(high > -low, high, low)


def significance(found: np.ndarray, null: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far scores lie beyond those of a null of the same sign.

    Args:
        found: (n,).
        null: (draws,), or (n, draws).

    Returns:
        The normalised score, score / mean |null|, NaN where the null has none of this sign; and p, the share of the
        null as far from 0, the score itself counted among them. Both float64, (n,).
    """
    drawn = np.broadcast_to(null, (len(found), np.shape(null)[-1]))
    size = np.abs(drawn)
    same = (drawn >= 0) == (found >= 0)[:, None]
    count = same.sum(axis=1)
    beyond = (same & (size >= np.abs(found)[:, None])).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(same, size, 0.0).sum(axis=1) / count
        normalised = found / mean
    return np.where(count > 0, normalised, np.nan), (beyond + 1) / (count + 1)


def significance_of_null(null: np.ndarray) -> np.ndarray:
    """p of every draw of a null (draws,) among the others: what `significance` gives on chance alone."""
    p = np.ones(len(null))
    for side in (null >= 0, null < 0):
        size = np.abs(null[side])
        as_far = len(size) - np.searchsorted(np.sort(size), size, side="left")
        p[side] = as_far / max(len(size), 1)
    return p


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """q of p-values, over the last axis: the smallest false discovery rate at which each is a discovery."""
    n = p.shape[-1]
    order = np.argsort(p, axis=-1, kind="stable")
    raised = np.take_along_axis(p, order, axis=-1) * n / np.arange(1, n + 1)
    lowest = np.minimum.accumulate(raised[..., ::-1], axis=-1)[..., ::-1]
    q = np.empty_like(lowest)
    np.put_along_axis(q, order, np.minimum(lowest, 1.0), axis=-1)
    return q
