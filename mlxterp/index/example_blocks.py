"""Examples of many features at once, as arrays: what `Answers.examples` gives of each, from one sweep over the shards.

`all_examples` turns them into examples and files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..core.ranking import CLOSE, strongest_of_rows
from .examples import SAME, distinct
from .excerpts import Excerpts
from .figures import changes, positions_of, texts_of
from .reading import Reader
from .sweep import FeatureRange, feature_ranges

_PAIRS = 1 << 19
"""Firings whose examples are held at once."""
_MIXED = np.uint64(0x9E3779B97F4A7C15)


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
    """The firings of a range of features, those of a text next to each other."""

    def __init__(self, reader: Reader, firings: FeatureRange):
        self._reader, self._firings = reader, firings
        self._feature, self._values = firings.feature, firings.values()
        self._texts = texts_of(firings, reader.first_texts)
        self._positions = positions_of(firings)
        self._prefixes = firings.prefixes()
        self._settled = _without_rounding(self._feature, self._prefixes, self._values)
        self._peaks = _peaks(self._feature, self._texts, np.abs(self._settled))
        counts = np.bincount(self._feature[self._peaks], minlength=firings.n_features)
        self._starts = np.concatenate([[0], np.cumsum(counts)])

    def examples(self, n: int, before: int, after: int) -> ExampleBlock:
        """The first n of each feature."""
        found, waiting, size = [], np.arange(self._firings.n_features), n + n // 4 + 4
        while len(waiting):
            chosen, waiting = self._chosen(waiting, n, size)
            found.append(chosen)
            size *= 4
        at = np.concatenate([np.zeros(0, np.int64), *found])
        at = at[np.argsort(self._feature[at], kind="stable")]
        feature = self._feature[at]
        around = self._reader.excerpts(self._texts[at], self._positions[at], before, after)
        return ExampleBlock(
            self._firings.first, self._firings.first + self._firings.n_features, feature + self._firings.first,
            np.arange(len(at)) - np.searchsorted(feature, feature), self._texts[at], self._positions[at],
            self._settled[at], before, around.ids, self._activations(at, before, after),
        )  # fmt: skip

    def _chosen(self, features: np.ndarray, n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Firings of the examples of some features, by feature and rank; and the features that need more places.

        Args:
            size: Places of each that are looked at.
        """
        counts = np.diff(self._starts)[features]
        starts = np.concatenate([[0], np.cumsum(counts)])
        peaks = self._peaks[np.repeat(self._starts[features] - starts[:-1], counts) + np.arange(starts[-1])]
        row, _, place = strongest_of_rows(starts, self._settled[peaks], size)
        at = peaks[place]
        kept = self._distinct(row, at)
        begins, so_far = np.searchsorted(row, row), np.cumsum(kept)
        kept &= so_far - so_far[begins] + kept[begins] <= n
        got = np.bincount(row[kept], minlength=len(features))
        short = (got < n) & (counts > size)
        return at[kept & ~short[row]], features[short]

    def _distinct(self, row: np.ndarray, at: np.ndarray) -> np.ndarray:
        """bool: the places that differ from those before them in their row, as `examples.distinct` says."""
        kept = np.zeros(len(row), dtype=bool)
        first = np.flatnonzero(_first_of_each(row, self._prefixes[at])[0])
        around = self._reader.excerpts(self._texts[at[first]], self._positions[at[first]], SAME, SAME)
        key = _mixed(around.ids)
        new, earliest = _first_of_each(row[first], key)
        kept[first[new]] = True
        collide = (around.ids != around.ids[earliest]).any(axis=1)
        for feature in np.unique(row[first[collide]]).tolist():  # two windows with one hash
            part = np.flatnonzero(row == feature)
            kept[part] = False
            kept[part[self._plainly(at[part])]] = True
        return kept

    def _plainly(self, at: np.ndarray) -> list[int]:
        around: Excerpts = self._reader.excerpts(self._texts[at], self._positions[at], SAME, SAME)
        return list(distinct(self._prefixes[at].tolist(), around.same_where(), len(at)))

    def _activations(self, at: np.ndarray, before: int, after: int) -> np.ndarray:
        """float32, (m, before + 1 + after): activations around firings, from those beside them."""
        found = np.zeros((len(at), before + 1 + after), dtype=np.float32)
        found[:, before] = self._values[at]
        for direction, reach in ((-1, before), (1, after)):
            rows, near = np.arange(len(at)), at
            for _ in range(reach):
                near = near + direction
                inside = (near >= 0) & (near < len(self._values))
                rows, near = rows[inside], near[inside]
                own = at[rows]
                apart = self._positions[near] - self._positions[own]
                same = (self._feature[near] == self._feature[own]) & (self._texts[near] == self._texts[own])
                same &= np.abs(apart) <= reach
                rows, near, apart = rows[same], near[same], apart[same]
                if not len(rows):
                    break
                found[rows, before + apart] = self._values[near]
        return found


def _peaks(feature: np.ndarray, texts: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """int64: of the firings of a feature in a text the strongest, among equals the first."""
    first = np.flatnonzero(changes(feature, texts))
    if not len(first):
        return first
    group = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(feature))))
    hits = np.flatnonzero(strength == np.maximum.reduceat(strength, first)[group])
    return hits[changes(group[hits], group[hits])]


def _without_rounding(feature: np.ndarray, prefixes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """float32: activations as `core.ranking.Firings.without_rounding` settles them for each feature."""
    mixed = prefixes * _MIXED + feature.astype(np.uint64)
    ordered = np.sort(mixed)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(twice):
        return values
    members = np.flatnonzero(_among(mixed, twice))
    _, first = _first_of_each(feature[members], prefixes[members])
    earliest, own = values[members[first]], values[members]
    settled = values.copy()
    settled[members] = np.where(np.abs(own - earliest) <= CLOSE * np.abs(earliest), earliest, own)
    return settled


def _first_of_each(row: np.ndarray, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """bool, (n,): whether each is the first with its row and key; int64, (n,): which is.

    Args:
        row: Not negative.
        key: uint64: hashes, mostly.
    """
    bits = np.uint64(64 - int(row.max(initial=0)).bit_length())
    short = row.astype(np.uint64) << bits | key >> np.uint64(64) - bits if bits < 64 else key
    order = np.argsort(short)  # one number for each, of the row and the key's upper bits
    starts = np.flatnonzero(changes(short[order], short[order]))
    earliest = np.minimum.reduceat(order, starts) if len(starts) else order
    which = np.empty(len(row), dtype=np.int64)
    which[order] = np.repeat(earliest, np.diff(np.append(starts, len(row))))
    if (key != key[which]).any():  # the lower bits tell some apart
        return _plainly_first(row, key)
    first = np.zeros(len(row), dtype=bool)
    first[earliest] = True
    return first, which


def _plainly_first(row: np.ndarray, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `_first_of_each`, of any keys."""
    order = np.lexsort((key, row))  # stable
    new = changes(row[order], key[order])
    first = np.zeros(len(row), dtype=bool)
    first[order[new]] = True
    which = np.empty(len(row), dtype=np.int64)
    which[order] = np.repeat(order[new], np.diff(np.append(np.flatnonzero(new), len(row))))
    return first, which


def _among(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return ordered[places] == values


def _mixed(ids: np.ndarray) -> np.ndarray:
    """uint64, (n,): a number for each row of ids; equal rows have equal ones."""
    found = np.zeros(len(ids), dtype=np.uint64)
    for column in ids.T:
        found = (found + (column + 2).astype(np.uint64)) * _MIXED
        found ^= found >> np.uint64(29)
    return found
