"""The tokens around many places of an index's texts, read at once, and the firings of a feature by rank.

`Answers.examples` and `all_examples` make examples of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core.ranking import Firings
from .examples import SAME, Window

OUTSIDE = -1
"""Stands in `Excerpts.ids` where there is no token."""
_TEXT = 32
"""Bits of a position, where text and position are one number."""


@dataclass(frozen=True, eq=False, slots=True)
class Excerpts:
    """Token ids around places, each row by itself; a row ends where its text does.

    Attributes:
        positions: int64, (n,): the position of each place in its text.
        ids: int32, (n, before + 1 + after): `OUTSIDE` beyond the text.
        before: Tokens before each place.
    """

    positions: np.ndarray
    ids: np.ndarray
    before: int


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
