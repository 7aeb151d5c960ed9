"""The tokens around many places of an index's texts, read at once, and the firings of a feature by rank.

`Answers.examples` and `all_examples` make examples of them.
"""

from __future__ import annotations

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

    def window(self, row: int) -> Window:
        """A row, without what lies beyond its text; it says nothing of activations."""
        position = int(self.positions[row])
        start = max(0, position - self.before)
        ids = self.ids[row]
        return Window(ids[self.before - (position - start) : _length(ids)], _NONE, start)

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

    def activations(self, text_id: int, start: int, length: int) -> np.ndarray:
        """float32, (length,): activations on the tokens of a text from `start` on."""
        first = (text_id << _TEXT) + start
        begin, end = self.places.searchsorted((first, first + length)).tolist()
        found = np.zeros(length, dtype=np.float32)
        found[self.places[begin:end] - first] = self.every.values[begin:end]
        return found


def place_numbers(text_ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """int64: text and position as one number, in the order of the corpus."""
    return (np.asarray(text_ids, dtype=np.int64) << _TEXT) + positions


def _length(ids: np.ndarray) -> int:
    """Up to where a row holds tokens."""
    end = len(ids)
    while ids[end - 1] == OUTSIDE:
        end -= 1
    return end


_NONE = np.zeros(0, dtype=np.float32)
