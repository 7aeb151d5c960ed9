"""A sweep over an index: all firings of some features at a time, from every shard, in the order of the corpus.

A shard lists its firings by feature, so those of a range of features are one slice of each. Ranges are as large as a
shard: memory does not grow with the texts. `derived` makes the tables of all features by one sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.ranking import row_groups
from .shard import Shard

PAIRS = 1 << 21
"""Firings that are held at once; one feature with more is held by itself."""


@dataclass(frozen=True, eq=False, slots=True)
class FeatureRange:
    """All firings of features `first`, `first` + 1, …: by feature, then in the order of the corpus."""

    first: int
    indptr: np.ndarray
    """int64, (features + 1,): where each feature's firings start."""
    shards: Sequence[Shard]
    slices: Sequence[slice]
    """Of each shard the firings that belong to the range."""
    places: Sequence[np.ndarray]
    """int64: where each of them stands among the range's."""

    @property
    def n_features(self) -> int:
        """How many features."""
        return len(self.indptr) - 1

    @property
    def feature(self) -> np.ndarray:
        """int64, (pairs,): the feature of each firing, counted from `first`."""
        return np.repeat(np.arange(self.n_features), np.diff(self.indptr))

    def gathered(self, kind: type, of: Callable[[int, slice], np.ndarray]) -> np.ndarray:
        """Something of every firing.

        Args:
            kind: Its type.
            of: Gives it for a slice of a shard's firings.
        """
        found = np.empty(int(self.indptr[-1]), dtype=kind)
        for number, (pairs, places) in enumerate(zip(self.slices, self.places, strict=True)):
            if len(places):
                found[places] = of(number, pairs)
        return found

    def values(self) -> np.ndarray:
        """float32, (pairs,): activations."""
        return self.gathered(np.float32, lambda number, pairs: self.shards[number].values[pairs])

    def tokens(self) -> np.ndarray:
        """int32, (pairs,): token ids."""
        return self._by_token(np.int32, "tokens")

    def prefixes(self) -> np.ndarray:
        """uint64, (pairs,): hashes of the text up to and including each token."""
        return self._by_token(np.uint64, "prefixes")

    def rows(self, starts: Sequence[int]) -> np.ndarray:
        """int64, (pairs,): numbers of the tokens.

        Args:
            starts: What the first token of each shard counts as.
        """
        return self.gathered(
            np.int64, lambda number, pairs: self.shards[number].rows[pairs].astype(np.int64) + starts[number]
        )

    def _by_token(self, kind: type, name: str) -> np.ndarray:
        def of(number: int, pairs: slice) -> np.ndarray:
            shard = self.shards[number]
            return getattr(shard, name)[shard.rows[pairs]]

        return self.gathered(kind, of)


def feature_ranges(
    shards: Sequence[Shard], d_hidden: int, pairs: int | None = None
) -> Iterator[FeatureRange]:
    """All features in order, some at a time.

    Args:
        pairs: Firings that are held at once; None takes `PAIRS`.

    Raises:
        FeatureIndexError: A shard is damaged.
    """
    indptrs = [np.asarray(shard.indptr) for shard in shards]
    total = sum(indptrs, np.zeros(d_hidden + 1, dtype=np.int64))
    for first, stop in row_groups(total, PAIRS if pairs is None else pairs):
        counts = [np.diff(indptr[first : stop + 1]) for indptr in indptrs]
        indptr = total[first : stop + 1] - total[first]
        starts, places = indptr[:-1].copy(), []
        for count in counts:
            ends = np.cumsum(count)
            places.append(np.repeat(starts - (ends - count), count) + np.arange(int(count.sum())))
            starts += count
        slices = [slice(int(each[first]), int(each[stop])) for each in indptrs]
        yield FeatureRange(first, indptr, shards, slices, places)
