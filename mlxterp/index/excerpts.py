"""The firings of a feature by rank, and what stands around some of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.ranking import Firings

OUTSIDE = -1
"""Stands among token ids where there is no token."""


@dataclass(frozen=True, eq=False, slots=True)
class RankedFirings:
    """All firings of a feature.

    Attributes:
        every: In the order of the corpus.
        strongest: One of each text, the strongest first.
        rows: int64, (n,): numbers of the tokens of `every`, as all shards count them; ascending.
    """

    every: Firings
    strongest: Firings
    rows: np.ndarray

    def activations(self, low: np.ndarray, high: np.ndarray) -> list[np.ndarray]:
        """float32, (high - low,) each: activations on tokens from one up to another.

        Args:
            low, high: int64, (m,): as all shards count them.
        """
        first = self.rows.searchsorted(low)
        counts = self.rows.searchsorted(high) - first
        ends, stops = np.cumsum(high - low), np.cumsum(counts)
        begins, of = ends - (high - low), np.repeat(np.arange(len(low)), counts)
        pairs = (first - stops + counts)[of] + np.arange(len(of))
        found = np.zeros(int(ends[-1]), dtype=np.float32)
        found[self.rows[pairs] + (begins - low)[of]] = self.every.values[pairs]
        return [found[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
