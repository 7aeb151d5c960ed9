"""What comes first for a feature: the one rule that search and the index share.

`Firings` ranks the texts of one feature: a text counts once, at its strongest token (the earliest of equals);
stronger texts come first, then earlier ones. `TopN` keeps the strongest tokens of all features at once. Activations of
signed SAEs are ranked by magnitude.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .sparse import SparseFeatures

CLOSE = 0.02
"""Relative difference that the rounding of bfloat16 can make; in float32 it is a thousand times less."""


@dataclass(frozen=True, eq=False, slots=True)
class Firings:
    """Tokens where one feature is active, in the order of the corpus."""

    text_ids: np.ndarray
    """int64, (n,): the text of each, ascending."""
    positions: np.ndarray
    """int64, (n,): its position in the text, ascending within a text."""
    values: np.ndarray
    """float32, (n,): activations, never 0."""
    prefixes: np.ndarray
    """uint64, (n,): hashes of the text up to and including the token, as `Corpus.prefixes` gives them."""

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: np.ndarray | slice) -> Firings:
        """The given rows, in the given order."""
        return Firings(self.text_ids[rows], self.positions[rows], self.values[rows], self.prefixes[rows])

    def without_rounding(self) -> Firings:
        """The same value wherever the text so far is the same (a BOS token, a text given twice).

        The model computes the same there but for the rounding of another batch, which would otherwise
        decide which text comes first.
        """
        order = np.argsort(self.prefixes)
        new = _changes(self.prefixes[order])
        if new.all():
            return self
        earliest = np.minimum.reduceat(order, new.nonzero()[0])
        first = np.empty_like(order)
        first[order] = earliest[np.cumsum(new) - 1]
        values = self.values.copy()
        again = (first != np.arange(len(first))).nonzero()[0]
        own, earlier = values[again], values[first[again]]
        values[again] = np.where(np.abs(own - earlier) <= CLOSE * np.abs(earlier), earlier, own)
        return Firings(self.text_ids, self.positions, values, self.prefixes)

    def strongest_of_each_text(self) -> Firings:
        """One token of each text: texts by strength, then in the order of the corpus."""
        settled = self.without_rounding()
        strength = np.abs(settled.values)
        new = _changes(self.text_ids)
        if not len(new):
            return settled
        largest = np.maximum.reduceat(strength, new.nonzero()[0])
        best = (strength == largest[np.cumsum(new) - 1]).nonzero()[0]
        best = best[_changes(self.text_ids[best])]  # one token of each text, texts ascending
        return settled.take(best[np.argsort(-strength[best], kind="stable")])


def _changes(ascending: np.ndarray) -> np.ndarray:
    """bool, (n,): where a number is another than the one before; the first is."""
    found = np.ones(len(ascending), dtype=bool)
    np.not_equal(ascending[1:], ascending[:-1], out=found[1:])
    return found


_PAIRS = 1 << 20
"""Looked at together, so that temporaries stay small."""


class TopN:
    """The n strongest tokens of every feature, of all shards that were added.

    Raises:
        InputError: `n` is below 1.
    """

    tokens: np.ndarray
    """int64, (d_hidden, n): tokens, the strongest first; -1 where the feature is active on fewer."""
    values: np.ndarray
    """float32, (d_hidden, n): the feature's activations there; 0 where it is active on fewer."""

    def __init__(self, d_hidden: int, n: int):
        if n < 1:
            raise InputError(f"n is {n}; it must be at least 1.")
        self.tokens = np.full((d_hidden, n), -1, dtype=np.int64)
        self.values = np.zeros((d_hidden, n), dtype=np.float32)
        self._n = n

    def add(self, by_feature: SparseFeatures, first_token: int = 0) -> None:
        """Takes the next tokens into account; they come after all that were added before.

        Args:
            by_feature: Row f: the tokens where feature f is active.
            first_token: Number of the first of these tokens.
        """
        for first, end in row_groups(by_feature.indptr, _PAIRS):
            weakest = np.abs(self.values[first:end, -1])
            indptr = by_feature.indptr[first : end + 1]
            row, rank, pair = strongest_of_rows(indptr, by_feature.values, self._n, weakest)
            tokens = by_feature.indices[pair] + np.int64(first_token)
            self._place(first + row, rank, tokens, by_feature.values[pair])

    def resized(self, d_hidden: int, n: int) -> TopN:
        """A copy with room for other numbers of features and tokens; what has no room there is left out.

        Where a feature had more tokens than it had room for, a larger copy does not bring them back.

        Raises:
            InputError: `n` is below 1.
        """
        copy, rows, width = TopN(d_hidden, n), min(d_hidden, len(self.tokens)), min(n, self._n)
        copy.tokens[:rows, :width] = self.tokens[:rows, :width]
        copy.values[:rows, :width] = self.values[:rows, :width]
        return copy

    def _place(self, row: np.ndarray, rank: np.ndarray, tokens: np.ndarray, values: np.ndarray) -> None:
        """Puts later tokens into the rows, given in order of row and rank."""
        begins = np.flatnonzero(rank == 0)
        touched = row[begins]
        if not self.values[touched, 0].any():  # nothing was there
            self.tokens[row, rank], self.values[row, rank] = tokens, values
            return
        at = np.repeat(np.arange(len(begins)), np.diff(np.append(begins, len(row))))
        both_tokens, both_values = (np.tile(table[touched], 2) for table in (self.tokens, self.values))
        both_tokens[:, self._n :], both_values[:, self._n :] = -1, 0
        both_tokens[at, self._n + rank], both_values[at, self._n + rank] = tokens, values
        order = np.argsort(-np.abs(both_values), axis=1, kind="stable")[:, : self._n]
        self.tokens[touched] = np.take_along_axis(both_tokens, order, axis=1)
        self.values[touched] = np.take_along_axis(both_values, order, axis=1)


def row_groups(indptr: np.ndarray, pairs: int) -> Iterator[tuple[int, int]]:
    """Rows that are looked at together, of at most so many pairs, or one row alone: (first, end)."""
    first = 0
    while first < len(indptr) - 1:
        end = int(np.searchsorted(indptr, indptr[first] + pairs, side="right")) - 1
        end = max(end, first + 1)
        yield first, end
        first = end


def strongest_of_rows(
    indptr: np.ndarray, values: np.ndarray, n: int, weakest: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, rank in it, and place in `values` of the strongest pairs of each row, at most n; among equals the earlier.

    Args:
        weakest: Magnitude that pairs have to exceed, 0 where the row has room; None takes 0 for all.
    """
    if weakest is None:
        weakest = np.zeros(len(indptr) - 1, dtype=np.float32)
    counts, starts = np.diff(indptr), indptr[:-1] - indptr[0]
    strength = np.zeros(counts.sum() + 1, dtype=np.float32)  # one more, where the last row ends
    np.abs(values[indptr[0] : indptr[-1]], out=strength[:-1])
    floors = _floors(strength, starts, counts, weakest, n)
    kept = np.flatnonzero(strength[:-1] >= np.repeat(floors, counts))
    row = np.searchsorted(starts + counts, kept, side="right")
    # Floats above 0 are ordered as their bits are.
    weakness = np.uint32(0xFFFFFFFF) - strength[kept].view(np.uint32)
    order = np.argsort(row.astype(np.uint64) << np.uint64(32) | weakness, kind="stable")
    kept, row = kept[order], row[order]
    rank = np.arange(len(row)) - np.searchsorted(row, np.arange(len(counts)))[row]
    best = rank < n
    return row[best], rank[best], kept[best] + indptr[0]


def _floors(
    strength: np.ndarray, starts: np.ndarray, counts: np.ndarray, weakest: np.ndarray, n: int
) -> np.ndarray:
    """float32, (rows,): the magnitude that a pair must have: more than `weakest`, or what n of the row have.

    For the second a long row is cut into 2n blocks: the n-th largest of their maxima is reached in n of them.
    """
    floors = np.where(weakest > 0, np.nextafter(weakest, np.float32(np.inf)), np.float32(0))
    blocks = 2 * n
    long = np.flatnonzero((weakest == 0) & (counts > 2 * blocks))
    if len(long):
        bounds = starts[long, None] + counts[long, None] * np.arange(blocks + 1) // blocks
        maxima = np.maximum.reduceat(strength, bounds.ravel()).reshape(bounds.shape)[:, :-1]
        floors[long] = np.partition(maxima, blocks - n, axis=1)[:, blocks - n]
    return floors
