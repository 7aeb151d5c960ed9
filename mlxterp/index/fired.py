"""`Fired`: what fires on a word of an index's texts. `token_table` reads it, `searching` adds it up and ranks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False, slots=True)
class Fired:
    """What fires on a word.

    Attributes:
        ids: int32 or int64, (n,): features that fire there, each once, ascending.
        hits: uint32 or int64, (n,): on how many of its occurrences.
        total: float64, (n,): sum of the activations there.
        occurrences: How often it stands in the texts.
    """

    ids: np.ndarray
    hits: np.ndarray
    total: np.ndarray
    occurrences: int

    @staticmethod
    def on_any(parts: Sequence[Fired]) -> Fired:
        """On any of some words that end in different places."""
        parts = [on for on in parts if on.occurrences]
        if len(parts) < 2:
            return parts[0] if parts else NOTHING
        ids, hits, total = summed(
            [on.ids for on in parts], [on.hits for on in parts], [on.total for on in parts]
        )
        return Fired(ids, hits, total, sum(on.occurrences for on in parts))

    def hits_of(self, feature: int) -> int:
        """On how many of the word's occurrences a feature fires."""
        at = int(self.ids.searchsorted(feature))
        return int(self.hits[at]) if at < len(self.ids) and self.ids[at] == feature else 0


NOTHING = Fired(np.zeros(0, np.int32), np.zeros(0, np.uint32), np.zeros(0), 0)
"""On a word that does not occur."""


def summed(ids: Sequence[np.ndarray], *columns: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The ids that are in any of some arrays, ascending; and for each column the sums of what stands beside each id.

    Args:
        ids: Arrays of distinct ids, each ascending.
        columns: Arrays as long as those of the ids.
    """
    limit = max((int(own[-1]) + 1 for own in ids if len(own)), default=0)
    there = np.zeros(limit, dtype=bool)
    for own in ids:
        there[own] = True
    union, row = np.flatnonzero(there), np.empty(limit, dtype=np.int64)
    row[union] = np.arange(len(union))
    return [union, *(_summed(column, [row[own] for own in ids], len(union)) for column in columns)]


def _summed(column: Sequence[np.ndarray], rows: Sequence[np.ndarray], n: int) -> np.ndarray:
    """int64 or float64, (n,): sums of what belongs to each row."""
    found = np.zeros(n, dtype=np.result_type(np.int64, *column))
    for own, at in zip(column, rows, strict=True):
        found[at] += own
    return found
