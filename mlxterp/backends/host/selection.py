"""Selecting features on the host, in NumPy: what both wings use where pairs have left the device.

`RowBuilder` puts the active features that a walk over blocks of rows and chunks of features finds into
one `SparseFeatures`; `LargestOfAll` keeps the largest of a whole call; `ranked` settles rare rankings.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...core.sparse import SparseFeatures

Pieces = Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Rows, ids and values of active features: row by row and, within a row, by ascending id."""

FEW = 16
"""Features asked for by id are looked up one by one up to so many."""


def column_of(ids: np.ndarray, d_hidden: int) -> np.ndarray:
    """int64, (d_hidden,): where each feature stands in `ids`; len(ids) for those that do not."""
    found = np.full(d_hidden, len(ids), dtype=np.int64)
    found[ids] = np.arange(len(ids))
    return found


def gathered(
    pieces: Pieces, n: int, d_hidden: int, total: int | None = None, scale: np.ndarray | None = None
) -> SparseFeatures:
    """Pieces as the rows of one `SparseFeatures`.

    Args:
        total: Keep only so many, the largest of all rows.
        scale: float32 (d_hidden,): each kept feature is multiplied by its number.
    """
    if total is None:
        builder = RowBuilder(n, d_hidden)
        for piece in pieces:
            builder.add(*piece)
        return builder.finish()
    best = LargestOfAll(total)
    for piece in pieces:
        best.add(*piece)
    return best.features(n, d_hidden, scale)


class RowBuilder:
    """Active features of n rows, from pieces that come row by row and, within a row, by ascending id."""

    def __init__(self, n: int, d_hidden: int):
        self._n, self._d_hidden = n, d_hidden
        self._pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, rows: np.ndarray, ids: np.ndarray, values: np.ndarray) -> None:
        """One piece: rows ascending, ids larger than those of earlier pieces in the same row."""
        if len(rows):
            self._pieces.append((rows.astype(np.int64), ids.astype(np.int32), values.astype(np.float32)))

    def finish(self) -> SparseFeatures:
        counts = [np.bincount(rows, minlength=self._n) for rows, _, _ in self._pieces]
        total = np.sum(counts, axis=0) if counts else np.zeros(self._n, dtype=np.int64)
        indptr = np.concatenate([[0], np.cumsum(total)]).astype(np.int64)
        ids = np.empty(int(indptr[-1]), dtype=np.int32)
        values = np.empty(int(indptr[-1]), dtype=np.float32)
        free = indptr[:-1].copy()  # where each row goes on
        for (rows, some_ids, some_values), count in zip(self._pieces, counts, strict=True):
            first = np.cumsum(count) - count
            place = (free - first)[rows] + np.arange(len(rows))
            ids[place], values[place] = some_ids, some_values
            free += count
        return SparseFeatures(indptr, ids, values, self._d_hidden)


class LargestOfAll:
    """The `total` largest positive values of all that is added; among equals the lower id, then the earlier row."""

    def __init__(self, total: int):
        self._total = total
        self._pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._held = 0
        self.floor = 0.0
        """Smaller values cannot be among them any more."""

    def add(self, rows: np.ndarray, ids: np.ndarray, values: np.ndarray) -> None:
        keep = values >= self.floor
        self._pieces.append((rows[keep], ids[keep], values[keep]))
        self._held += int(keep.sum())
        if self._held > 2 * self._total:
            self._prune()

    def features(self, n: int, d_hidden: int, scale: np.ndarray | None = None) -> SparseFeatures:
        """What is left, as rows; each feature times its number in `scale` (d_hidden,)."""
        self._prune()
        rows, ids, values = self._pieces[0]
        order = np.lexsort((ids, rows))
        values = values if scale is None else values * scale[ids]
        builder = RowBuilder(n, d_hidden)
        builder.add(rows[order], ids[order], values[order])
        return builder.finish()

    def _prune(self) -> None:
        if not self._pieces:
            nothing = np.zeros(0, dtype=np.int64)
            self._pieces = [(nothing, nothing, nothing.astype(np.float32))]
        rows, ids, values = (np.concatenate(column) for column in zip(*self._pieces, strict=True))
        if len(values) > self._total:
            self.floor = float(np.partition(values, -self._total)[-self._total])
            above, equal = np.flatnonzero(values > self.floor), np.flatnonzero(values == self.floor)
            equal = equal[np.lexsort((rows[equal], ids[equal]))][: self._total - len(above)]
            keep = np.concatenate([above, equal])
            rows, ids, values = rows[keep], ids[keep], values[keep]
        self._pieces, self._held = [(rows, ids, values)], len(values)


def ranked(pre: np.ndarray, k: int, by_size: bool) -> tuple[np.ndarray, np.ndarray]:
    """Ids (int64) and values (n, k) of the k largest of each row, of the largest |value| if `by_size`."""
    rank = np.abs(pre) if by_size else pre
    ids = np.argsort(-rank, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(pre, ids, axis=1)
