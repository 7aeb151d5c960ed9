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

    def window(self, row: int, before: int, after: int) -> Window:
        """A part of a row, without what lies beyond its text; it says nothing of activations."""
        position = int(self.positions[row])
        start = max(0, position - before)
        first, end = self.before - (position - start), self.before + 1 + after
        ids = self.ids[row]
        while ids[end - 1] == OUTSIDE:
            end -= 1
        return Window(ids[first:end], _NONE, start)

    @staticmethod
    def windows(parts: Sequence[Excerpts], rows: Sequence[int], before: int, after: int) -> list[Window]:
        """Windows of some rows, ascending.

        Args:
            parts: Whose rows are counted one part after the other.
        """
        found, begin, left = [], 0, iter(parts)
        part = next(left)
        for row in rows:
            while row - begin >= len(part.ids):
                begin, part = begin + len(part.ids), next(left)
            found.append(part.window(row - begin, before, after))
        return found

    def same_where(self) -> list[bytes]:
        """Of each row what it has in common with those that count as the same example: five tokens on both sides."""
        part = np.ascontiguousarray(self.ids[:, self.before - SAME : self.before + SAME + 1])
        return [row.tobytes() for row in part]


@dataclass(frozen=True, eq=False, slots=True)
class RankedFirings:
    """All firings of a feature.

    Attributes:
        every: In the order of the corpus.
        strongest: One of each text, the strongest first.
        places: int64, (n,): text and position of each of `every` as one number, ascending.
    """

    every: Firings
    strongest: Firings
    places: np.ndarray

    @staticmethod
    def of(every: Firings) -> RankedFirings:
        """Ranks them."""
        return RankedFirings(
            every, every.strongest_of_each_text(), place_numbers(every.text_ids, every.positions)
        )

    def activations(self, text_ids: np.ndarray, windows: Sequence[Window]) -> list[np.ndarray]:
        """float32, of each window: activations on its tokens.

        Args:
            text_ids: The text of each window.
        """
        first = place_numbers(text_ids, np.array([window.start for window in windows], dtype=np.int64))
        lengths = [len(window.ids) for window in windows]
        begins, ends = self.places.searchsorted(first), self.places.searchsorted(first + lengths)
        found = []
        for start, length, begin, end in zip(
            first.tolist(), lengths, begins.tolist(), ends.tolist(), strict=True
        ):
            own = np.zeros(length, dtype=np.float32)
            own[self.places[begin:end] - start] = self.every.values[begin:end]
            found.append(own)
        return found


def place_numbers(text_ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """int64: text and position as one number, in the order of the corpus."""
    return (np.asarray(text_ids, dtype=np.int64) << _TEXT) + positions


_NONE = np.zeros(0, dtype=np.float32)
