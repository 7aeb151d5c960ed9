"""`Prefixes`: rows of a graph from passes of the prompt's first tokens, where no more are needed.

What is read at a position depends on no later token, so features at early positions need only a short pass. Each such
pass is compared with the whole one before it is used; and the law is measured on the whole one, for every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..backends.frozen import FrozenPass
from ..core.frozen import ReadAt, SourceVectors

_PARTS = 4
"""Lengths of passes, at most."""
_WORK = 40_000
"""Rows times tokens for which another length is worth its recording."""
_ALIKE = 1e-4
"""Difference of what both passes read, relative to the largest."""


class Prefixes:
    """A frozen pass, and those of its first tokens, one at a time.

    Args:
        frozen: The whole.
        columns: What gradients are multiplied with.
        rows: How many rows there will be; more of them are worth more lengths.
    """

    def __init__(self, frozen: FrozenPass, columns: Sequence[SourceVectors], rows: int):
        self._frozen, self._columns = frozen, columns
        self.positions = len(next(iter(frozen.sources.values())))
        parts = int(np.clip(rows * self.positions // _WORK, 1, _PARTS))
        self._ends = sorted({-(-self.positions * part // parts) for part in range(1, parts + 1)})
        self._end = self.positions
        self._short: tuple[FrozenPass, list[SourceVectors], np.ndarray] | None = None

    def groups(self, positions: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """How many tokens are needed, and which of the positions need them."""
        start = 0
        for end in self._ends:
            found = np.flatnonzero((positions >= start) & (positions < end))
            if len(found):
                yield end, found
            start = end

    def rows(self, reads: Sequence[ReadAt]) -> np.ndarray:
        """float32, (reads, columns): see `FrozenPass.rows`."""
        last = max(read.position for read in reads)
        end = next(end for end in self._ends if end > last)
        if end == self.positions or not self._shortened(end):
            return self._frozen.rows(reads, self._columns)
        assert self._short is not None
        frozen, columns, kept = self._short
        found = np.zeros((len(reads), sum(len(column.positions) for column in self._columns)), np.float32)
        found[:, kept] = frozen.rows(reads, columns)
        return found

    def _shortened(self, end: int) -> bool:
        """Whether there is a pass of so many tokens that reads what the whole does there."""
        if self._end != end:
            self._end, self._short = end, None
            frozen = self._frozen.first(end)
            if self._alike(frozen, end):
                self._short = (frozen, *_within(self._columns, end))
        return self._short is not None

    def _alike(self, frozen: FrozenPass, end: int) -> bool:
        for key, value in self._frozen.base.inputs.items():
            whole, found = value[0, :end], frozen.base.inputs[key][0]
            if not np.abs(whole - found).max() <= _ALIKE * np.abs(whole).max():
                return False
        return True


def _within(columns: Sequence[SourceVectors], end: int) -> tuple[list[SourceVectors], np.ndarray]:
    """The columns before a position, and which they are."""
    masks = [column.positions < end for column in columns]
    short = [
        SourceVectors(column.key, column.positions[mask], column.vectors[mask])
        for column, mask in zip(columns, masks, strict=True)
    ]
    return short, np.flatnonzero(np.concatenate(masks))
