"""Examples of many features at once, as arrays: what `Answers.examples` gives of each, from one sweep over the shards.

`all_examples` turns them into examples and files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..core.ranking import CLOSE, strongest_of_rows
from .examples import SAME
from .figures import changes
from .reading import Reader
from .sweep import FeatureRange, feature_ranges

_PAIRS = 1 << 19
"""Firings whose examples are held at once."""
_MIXED, _SCATTER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


@dataclass(frozen=True, eq=False, slots=True)
class ExampleBlock:
    """Examples of features `first` to `stop` - 1, by feature and then by rank; m of them.

    Attributes:
        first: The first feature.
        stop: The one after the last.
        feature_id: int64, (m,): whose example each is.
        rank: int64, (m,): 0 for a feature's strongest.
        text_id: int64, (m,): number of the text.
        position: int64, (m,): position in it of the token where the feature is strongest.
        activation: float32, (m,): how strongly it fires there.
        before: Tokens shown before that one.
        token_ids: int32, (m, before + 1 + after): the tokens around it; -1 beyond the text.
        activations: float32, of the same shape: how strongly the feature fires on each; 0 beyond the text.
    """

    first: int
    stop: int
    feature_id: np.ndarray
    rank: np.ndarray
    text_id: np.ndarray
    position: np.ndarray
    activation: np.ndarray
    before: int
    token_ids: np.ndarray
    activations: np.ndarray

    def __len__(self) -> int:
        return len(self.feature_id)

    @property
    def start(self) -> np.ndarray:
        """int64, (m,): position in the text of the first token that is shown."""
        return np.maximum(0, self.position - self.before)


def example_blocks(reader: Reader, d_hidden: int, n: int, before: int, after: int) -> Iterator[ExampleBlock]:
    """The first n examples of every feature, some features at a time.

    Raises:
        FeatureIndexError: A shard is damaged.
    """
    for firings in feature_ranges(reader.shards(), d_hidden, _PAIRS):
        yield _Block(reader, firings).examples(n, before, after)


class _Block:
    """The firings of a range of features."""

    def __init__(self, reader: Reader, firings: FeatureRange):
        self._reader, self._firings = reader, firings
        self._rows, self._values = firings.rows(reader.starts), firings.values()
        self._settled = self._without_rounding()

    def examples(self, n: int, before: int, after: int) -> ExampleBlock:
        """The first n of each feature."""
        first, size, waiting = self._firings.first, n + n // 4 + 4, np.arange(self._firings.n_features)
        feature, at = np.zeros(0, np.int64), np.zeros(0, np.int64)
        while len(waiting):
            row, chosen, short = self._chosen(waiting, n, size)
            feature, at = np.append(feature, waiting[row]), np.append(at, chosen)
            waiting, size = waiting[short], 4 * size
        order = np.argsort(feature, kind="stable")
        feature, at = feature[order], at[order]
        counts = np.bincount(feature, minlength=self._firings.n_features)
        rank = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows, texts = self._rows[at], self._reader.texts_of(self._rows[at])
        positions = rows - self._reader.text_begins[texts]
        low, high = self._reader.spans(texts, positions, before, after)
        return ExampleBlock(
            first, first + self._firings.n_features, feature + first, rank, texts, positions, self._settled[at],
            before, self._reader.excerpts(rows, low, high, before, after),
            self._activations(feature, at, low, high, before, after),
        )  # fmt: skip

    def _without_rounding(self) -> np.ndarray:
        """float32: activations as `core.ranking.Firings.without_rounding` settles them for each feature."""
        again = np.flatnonzero(self._firings.gathered(bool, self._begin_another))
        feature = self._firings.indptr.searchsorted(again, side="right") - 1
        _, first = _first_of_each(feature, self._reader.prefixes(self._rows[again]))
        own, earliest = self._values[again], self._values[again[first]]
        settled = self._values.copy()
        settled[again] = np.where(np.abs(own - earliest) <= CLOSE * np.abs(earliest), earliest, own)
        return settled

    def _begin_another(self, number: int, pairs: slice) -> np.ndarray:
        """bool: whether the text up to and including each token may begin another text too."""
        shard = self._firings.shards[number]
        found = np.zeros(shard.n_tokens, dtype=bool)
        found[self._reader.shared_rows(number)] = True
        return found[shard.rows[pairs]]

    def _chosen(self, features: np.ndarray, n: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of some features the examples, by feature and rank: whose each is, counted among them, and its firing; and
        bool, whether a feature needs more places.

        Args:
            size: Places of each that are looked at.
        """
        indptr = self._firings.indptr
        counts = np.diff(indptr)[features]
        starts = np.concatenate([[0], np.cumsum(counts)])
        pairs = np.repeat(indptr[features] - starts[:-1], counts) + np.arange(starts[-1])
        row, _, place = strongest_of_rows(starts, self._settled[pairs], size)
        at = pairs[place]
        kept = self._distinct(row, at)
        row, at = row[kept], at[kept]
        got = np.bincount(row, minlength=len(features))
        short = (got < n) & (counts > size)
        first_n = np.arange(len(row)) - np.repeat(np.cumsum(got) - got, got) < n
        kept = first_n & ~short[row]
        return row[kept], at[kept], short

    def _distinct(self, row: np.ndarray, at: np.ndarray) -> np.ndarray:
        """int64: the places that are the first of their text and differ from those before them in their row, as
        `examples.distinct` says.

        Args:
            row: Of each place, ascending.
            at: Firings, by strength.
        """
        rows = self._rows[at]
        texts = self._reader.texts_of(rows)
        kept = np.flatnonzero(_first_of_each(row, texts.astype(np.uint64))[0])
        positions = rows - self._reader.text_begins[texts]
        again = kept[positions[kept] < self._reader.shared[texts[kept]]]
        repeated = again[~_first_of_each(row[again], self._reader.prefixes(rows[again]))[0]]
        kept = np.setdiff1d(kept, repeated, assume_unique=True)
        low, high = self._reader.spans(texts[kept], positions[kept], SAME, SAME)
        around = self._reader.excerpts(rows[kept], low, high, SAME, SAME)
        new, earliest = _first_of_each(row[kept], _mixed(around))
        again = np.flatnonzero(~new)
        if np.array_equal(around[again], around[earliest[again]]):
            return kept[new]
        known = np.unique(around, axis=0, return_inverse=True)[1]  # two windows have one hash
        return kept[_first_of_each(row[kept], known.astype(np.uint64).ravel())[0]]

    def _activations(
        self, feature: np.ndarray, at: np.ndarray, low: np.ndarray, high: np.ndarray, before: int, after: int
    ) -> np.ndarray:
        """float32, (m, before + 1 + after): activations around firings, from those beside them."""
        found = np.zeros((len(at), before + 1 + after), dtype=np.float32)
        found[:, before] = self._values[at]
        indptr, own = self._firings.indptr, self._rows[at]
        for direction, ends in ((-1, indptr[feature]), (1, indptr[feature + 1] - 1)):
            rows, near = np.arange(len(at)), at
            while len(rows):
                more = near != ends[rows]  # of the feature
                rows, near = rows[more], near[more] + direction
                place = self._rows[near]
                inside = (place >= low[rows]) & (place < high[rows])
                rows, near, place = rows[inside], near[inside], place[inside]
                found[rows, before + place - own[rows]] = self._values[near]
        return found


def _first_of_each(row: np.ndarray, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """bool, (n,): whether each is the first with its row and key; int64, (n,): which is.

    Args:
        row: Not negative.
        key: uint64.
    """
    number = np.arange(len(row))
    bits = (4 * len(row)).bit_length()
    slot = ((key + row.astype(np.uint64) * _SCATTER) * _MIXED >> np.uint64(64 - bits)).astype(np.int64)
    holder = np.empty(1 << bits, dtype=np.int32)
    holder[slot[::-1]] = number[::-1]  # the first of each slot is written last, and stays
    which = holder[slot].astype(np.int64)
    other = np.flatnonzero((key != key[which]) | (row != row[which]))
    which[other] = other[_plainly_first(row[other], key[other])]  # those whose slot another key holds
    return which == number, which


def _plainly_first(row: np.ndarray, key: np.ndarray) -> np.ndarray:
    """int64, (n,): which is the first with the same row and key."""
    order = np.lexsort((key, row))  # stable
    new = changes(row[order], key[order])
    which = np.empty(len(row), dtype=np.int64)
    which[order] = np.repeat(order[new], np.diff(np.append(np.flatnonzero(new), len(row))))
    return which


def _mixed(ids: np.ndarray) -> np.ndarray:
    """uint64, (n,): a number for each row of ids; equal rows have equal ones."""
    found = np.zeros(len(ids), dtype=np.uint64)
    for column in ids.T:
        found = (found + (column + 2).astype(np.uint64)) * _MIXED
        found ^= found >> np.uint64(29)
    return found
