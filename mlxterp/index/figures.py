"""What a table says of every feature: how often, how strongly, on which tokens, and where it is strongest.

Made from a sweep over the shards (`sweep`), kept in `table.safetensors` (`derived`), shown by `table`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .summary import Summary
from .sweep import FeatureRange

TOP_TOKENS = 5
SPARK_BINS = 12

COLUMNS = (
    "count", "mean", "maximum", "n_texts", "top_tokens", "top_token_counts", "spark", "best_text", "best_position"
)  # fmt: skip
"""Arrays of `table.safetensors`."""
_EMPTY = -1


@dataclass(frozen=True, eq=False, slots=True)
class TokenCounts:
    """On which tokens each feature of a range fires: by feature, then by token id.

    Attributes:
        feature: int64, (n,): the feature, counted from the range's first.
        token: int32, (n,): a token id.
        count: int64, (n,): firings of the feature on it.
        total: float64, (n,): sum of the activations there, added in the order of the corpus.
    """

    feature: np.ndarray
    token: np.ndarray
    count: np.ndarray
    total: np.ndarray

    @staticmethod
    def of(firings: FeatureRange) -> TokenCounts:
        """Of all firings of a range."""
        feature, token, values = firings.feature, firings.tokens(), firings.values()
        order = _by_feature_and_token(feature, token)
        feature, token = feature[order], token[order]
        first = np.flatnonzero(changes(feature, token))
        count = np.diff(np.append(first, len(order)))
        group = np.repeat(np.arange(len(first)), count)
        total = np.bincount(group, weights=values[order], minlength=len(first))
        return TokenCounts(feature[first], token[first], count, total)


class Figures:
    """The arrays of the table, filled range by range.

    Args:
        summary: Of the same shards.
        first_texts: Number of the first text that has tokens in each shard.
    """

    def __init__(self, summary: Summary, first_texts: Sequence[int]):
        count, self._first_texts = np.array(summary.count), first_texts
        mean = summary.total / np.maximum(count, 1)
        n = len(count)
        self.arrays: dict[str, np.ndarray] = {
            "count": count.astype(np.uint32), "mean": mean.astype(np.float32), "maximum": np.array(summary.maximum),
            "n_texts": np.zeros(n, np.uint32), "top_tokens": np.full((n, TOP_TOKENS), _EMPTY, np.int32),
            "top_token_counts": np.zeros((n, TOP_TOKENS), np.uint32), "spark": np.zeros((n, SPARK_BINS), np.uint8),
            "best_text": np.full(n, _EMPTY, np.int32), "best_position": np.full(n, _EMPTY, np.int32),
        }  # fmt: skip

    def add(self, firings: FeatureRange, counts: TokenCounts) -> None:
        """Fills in the features of a range."""
        part = slice(firings.first, firings.first + firings.n_features)
        arrays = {name: array[part] for name, array in self.arrays.items()}
        feature, magnitude = firings.feature, np.abs(firings.values())
        texts = texts_of(firings, self._first_texts)
        arrays["n_texts"][:] = np.bincount(feature[changes(feature, texts)], minlength=firings.n_features)
        arrays["spark"][:] = _spark(feature, magnitude, np.abs(arrays["maximum"]))
        which, row, position = _strongest(firings, feature, magnitude)
        arrays["best_text"][which], arrays["best_position"][which] = texts[row], position
        which, rank, row = _commonest(counts)
        arrays["top_tokens"][which, rank] = counts.token[row]
        arrays["top_token_counts"][which, rank] = counts.count[row]


def texts_of(firings: FeatureRange, first_texts: Sequence[int]) -> np.ndarray:
    """int64, (pairs,): the text of each firing."""

    def of(number: int, pairs: slice) -> np.ndarray:
        shard = firings.shards[number]
        return shard.piece_text[shard.pieces_of(shard.rows[pairs])] + first_texts[number]

    return firings.gathered(np.int64, of)


def positions_of(firings: FeatureRange) -> np.ndarray:
    """int64, (pairs,): the position of each firing in its text."""

    def of(number: int, pairs: slice) -> np.ndarray:
        shard = firings.shards[number]
        rows = shard.rows[pairs].astype(np.int64)
        pieces = shard.pieces_of(rows)
        return rows - shard.offsets[pieces] + shard.piece_start[pieces]

    return firings.gathered(np.int64, of)


def _spark(feature: np.ndarray, magnitude: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """uint8, (features, bins): firings by |activation| / the largest; 255 × the root of their share of the fullest."""
    share = magnitude.astype(np.float64) / largest.astype(np.float64)[feature]
    bins = np.minimum((share * SPARK_BINS).astype(np.int64), SPARK_BINS - 1)
    counts = np.bincount(feature * SPARK_BINS + bins, minlength=len(largest) * SPARK_BINS)
    counts = counts.reshape(-1, SPARK_BINS)
    return np.ceil(255 * np.sqrt(counts / np.maximum(counts.max(axis=1, keepdims=True), 1))).astype(np.uint8)


def _strongest(
    firings: FeatureRange, feature: np.ndarray, magnitude: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features that are active, their first firing of the largest magnitude, and its position in its text."""
    active = np.flatnonzero(np.diff(firings.indptr))
    if not len(active):
        return active, active, active
    largest = np.zeros(firings.n_features, dtype=np.float32)
    largest[active] = np.maximum.reduceat(magnitude, firings.indptr[active])
    hits = np.flatnonzero(magnitude == largest[feature])
    which, first = np.unique(feature[hits], return_index=True)
    return which, hits[first], positions_of(firings)[hits[first]]


def _commonest(counts: TokenCounts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Feature, rank and row of the tokens that each feature fires on most; among equals the lower id first."""
    order = np.lexsort((-counts.count, counts.feature))  # stable: tokens ascend already
    feature = counts.feature[order]
    rank = np.arange(len(order)) - np.searchsorted(feature, feature)
    best = rank < TOP_TOKENS
    return feature[best], rank[best], order[best]


def changes(feature: np.ndarray, other: np.ndarray) -> np.ndarray:
    """bool, (n,): where one of two arrays is another than before; the first is."""
    first = np.ones(len(feature), dtype=bool)
    first[1:] = (feature[1:] != feature[:-1]) | (other[1:] != other[:-1])
    return first


def _by_feature_and_token(feature: np.ndarray, token: np.ndarray) -> np.ndarray:
    """int64: the order by feature, then token, then as they stand."""
    n = len(feature)
    if not n:
        return np.zeros(0, dtype=np.int64)
    bits = [int(most).bit_length() for most in (feature[-1], token.max(), n - 1)]
    if sum(bits) > 63 or int(token.min()) < 0:
        return np.lexsort((token, feature))
    # Feature, token and place fit into 64 bits: one sort without keys beside it.
    packed = feature.astype(np.int64)
    packed <<= bits[1]
    packed |= token
    packed <<= bits[2]
    packed |= np.arange(n)
    packed.sort()
    packed &= (1 << bits[2]) - 1
    return packed
