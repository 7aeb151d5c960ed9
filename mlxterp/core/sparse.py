"""Features of many tokens, kept as the rows of a sparse matrix.

`SparseFeatures` holds, for every token, the few features that are active on it. `SAE.encode_sparse`
leaves it behind; top features of a text are its row maximum, top texts of a feature are one row of
its transpose. NumPy only: nothing here knows which array library ran the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError, UnknownFeatureError


@dataclass(frozen=True, eq=False, slots=True)
class SparseFeatures:
    """Active features of n tokens (compressed sparse rows, ids ascending within a row).

    Attributes:
        indptr: int64, (n + 1,): where each row starts; the last entry is the number of pairs.
        indices: int32, (pairs,): feature ids in [0, d_hidden), ascending and distinct within a row.
        values: float32, (pairs,): activations, never 0, in the SAE's own scale.
        d_hidden: Number of columns: features of the SAE (in a transpose: tokens).
    """

    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    d_hidden: int

    def __post_init__(self) -> None:
        fits = (
            self.indptr.ndim == 1
            and self.indptr.size > 0
            and self.indices.shape == self.values.shape == (int(self.indptr[-1]),)
        )
        if not fits:
            raise InputError(
                f"indptr {self.indptr.shape}, indices {self.indices.shape} and values {self.values.shape}"
                " do not belong together. Use SparseFeatures.from_topk or from_dense."
            )

    def check_ids(self) -> None:
        """Raises InputError where a feature id lies outside [0, d_hidden): MLX would read other memory there."""
        if self.indices.size and not 0 <= int(self.indices.min()) <= int(self.indices.max()) < self.d_hidden:
            bad = self.indices[(self.indices < 0) | (self.indices >= self.d_hidden)][0]
            raise InputError(f"These features hold the id {bad}, which is outside [0, {self.d_hidden}).")

    # -- making one ---------------------------------------------------------------------------

    @staticmethod
    def from_topk(ids: np.ndarray, values: np.ndarray, d_hidden: int) -> SparseFeatures:
        """Rows from (n, width) ids and values in any order; a value of 0 is an empty slot.

        Raises:
            InputError: Shapes differ, a value is not finite, or a row names a feature twice.
            UnknownFeatureError: An id of an active feature lies outside [0, d_hidden).
        """
        ids, values = np.asarray(ids), np.asarray(values, dtype=np.float32)
        if ids.shape != values.shape or ids.ndim != 2:
            raise InputError(f"ids {ids.shape} and values {values.shape} must both be (n, width).")
        active = values != 0
        _check_pairs(ids[active], values[active], d_hidden)
        order = np.argsort(np.where(active, ids, d_hidden), axis=1, kind="stable")
        ids, values, active = (np.take_along_axis(a, order, axis=1) for a in (ids, values, active))
        if ((ids[:, 1:] == ids[:, :-1]) & active[:, 1:]).any():
            raise InputError("A row names the same feature twice.")
        return SparseFeatures(
            _starts(active.sum(axis=1)), ids[active].astype(np.int32), values[active], int(d_hidden)
        )

    @staticmethod
    def from_dense(dense: np.ndarray) -> SparseFeatures:
        """Rows from a dense (n, d_hidden) array; what is 0 there is not stored.

        Raises:
            InputError: The array is not two-dimensional, or a value is not finite.
        """
        dense = np.asarray(dense, dtype=np.float32)
        if dense.ndim != 2:
            raise InputError(f"Dense features have shape {dense.shape}; expected (n, d_hidden).")
        rows, columns = np.nonzero(dense)
        values = dense[rows, columns]
        _check_pairs(columns, values, dense.shape[1])
        counts = np.bincount(rows, minlength=len(dense))
        return SparseFeatures(_starts(counts), columns.astype(np.int32), values, dense.shape[1])

    @staticmethod
    def concat(parts: Sequence[SparseFeatures]) -> SparseFeatures:
        """All rows of `parts`, in order.

        Raises:
            InputError: There are no parts, or they differ in d_hidden.
        """
        widths = sorted({part.d_hidden for part in parts})
        if len(widths) != 1:
            raise InputError(f"Expected parts of one SAE, got d_hidden {widths or 'of nothing'}.")
        counts = np.concatenate([np.diff(part.indptr) for part in parts])
        indices = np.concatenate([part.indices for part in parts])
        values = np.concatenate([part.values for part in parts])
        return SparseFeatures(_starts(counts), indices, values, widths[0])

    # -- reading it ---------------------------------------------------------------------------

    @property
    def n(self) -> int:
        """Number of rows (tokens)."""
        return len(self.indptr) - 1

    @property
    def nbytes(self) -> int:
        """Bytes that the three arrays hold."""
        return self.indptr.nbytes + self.indices.nbytes + self.values.nbytes

    @property
    def row_ids(self) -> np.ndarray:
        """int64, (pairs,): the row of each pair."""
        return np.repeat(np.arange(self.n), np.diff(self.indptr))

    def row(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids (ascending) and values of row i; negative i counts from the end.

        Raises:
            InputError: There is no such row.
        """
        if not -self.n <= i < self.n:
            raise InputError(f"No row {i}: there are {self.n}, numbered from 0.")
        start, end = self.indptr[i % self.n], self.indptr[i % self.n + 1]
        return self.indices[start:end], self.values[start:end]

    def without_rows(self, out: np.ndarray) -> SparseFeatures:
        """The same rows, with nothing in those where `out`, booleans (n,), holds."""
        if not out.any():
            return self
        counts = np.diff(self.indptr)
        kept = ~np.repeat(out, counts)
        indptr = np.concatenate([[0], np.cumsum(np.where(out, 0, counts))]).astype(np.int64)
        return SparseFeatures(indptr, self.indices[kept], self.values[kept], self.d_hidden)

    def take(self, rows: np.ndarray) -> SparseFeatures:
        """The given rows (integers, (m,)), in the given order."""
        rows = np.asarray(rows, dtype=np.int64)
        starts = _starts(np.diff(self.indptr)[rows])
        counts = np.diff(starts)
        source = np.repeat(self.indptr[rows] - starts[:-1], counts) + np.arange(starts[-1])
        return SparseFeatures(starts, self.indices[source], self.values[source], self.d_hidden)

    def blocks(self, rows: int) -> Iterator[SparseFeatures]:
        """The rows in order, so many at a time; nothing is copied but the starts."""
        for first in range(0, self.n, rows):
            indptr = self.indptr[first : first + rows + 1]
            pairs = slice(int(indptr[0]), int(indptr[-1]))
            yield SparseFeatures(indptr - indptr[0], self.indices[pairs], self.values[pairs], self.d_hidden)

    def transpose(self) -> SparseFeatures:
        """Rows become columns: row f of the result lists the tokens where feature f is active."""
        counts = np.bincount(self.indices, minlength=self.d_hidden)
        rows, values = self._by_column()
        return SparseFeatures(_starts(counts), rows, values, self.n)

    def _by_column(self) -> tuple[np.ndarray, np.ndarray]:
        """Row (int32) and value of every pair, by column and then by row."""
        row_bits = max(self.n - 1, 0).bit_length()
        rows = np.repeat(np.arange(self.n, dtype=np.int32), np.diff(self.indptr))
        if row_bits + max(self.d_hidden - 1, 0).bit_length() > 32:
            order = stable_order(self.indices, self.d_hidden)
            return rows[order], self.values[order]
        # Column, row and value fit into 64 bits, so that one sort moves all three.
        pairs = self.indices.astype(np.uint64)
        pairs <<= np.uint64(row_bits)
        pairs |= rows.view(np.uint32)
        pairs <<= np.uint64(32)
        pairs |= self.values.view(np.uint32)
        pairs.sort()
        values = pairs.astype(np.uint32).view(np.float32)  # the lower half
        pairs >>= np.uint64(32)
        return pairs.astype(np.int32) & np.int32((1 << row_bits) - 1), values

    def to_dense(self) -> np.ndarray:
        """float32, (n, d_hidden)."""
        dense = np.zeros((self.n, self.d_hidden), dtype=np.float32)
        dense[self.row_ids, self.indices] = self.values
        return dense

    def strongest_by(self, groups: np.ndarray, n_groups: int) -> SparseFeatures:
        """One row for each group of rows: every feature's activation of the largest magnitude, sign kept.

        Args:
            groups: int64, (n,): the group of each row.
        """
        row = np.asarray(groups, dtype=np.int64)[self.row_ids]
        order = np.lexsort((-np.abs(self.values), self.indices, row))
        row, ids = row[order], self.indices[order]
        first = np.ones(len(row), dtype=bool)
        first[1:] = (row[1:] != row[:-1]) | (ids[1:] != ids[:-1])
        counts = np.bincount(row[first], minlength=n_groups)
        return SparseFeatures(_starts(counts), ids[first], self.values[order][first], self.d_hidden)

    def columns(self, features: np.ndarray) -> np.ndarray:
        """float32, (n, len(features)): the given features of every row, 0 where not active."""
        place = np.full(self.d_hidden, -1, dtype=np.int64)
        place[features] = np.arange(len(features))
        column = place[self.indices]
        asked = column >= 0
        dense = np.zeros((self.n, len(features)), dtype=np.float32)
        dense[self.row_ids[asked], column[asked]] = self.values[asked]
        return dense

    def to_topk(self) -> tuple[np.ndarray, np.ndarray]:
        """int32 ids and float32 values, (n, longest row); empty slots hold id 0 and value 0."""
        counts = np.diff(self.indptr)
        used = np.arange(int(counts.max(initial=0))) < counts[:, None]
        ids, values = np.zeros(used.shape, dtype=np.int32), np.zeros(used.shape, dtype=np.float32)
        ids[used], values[used] = self.indices, self.values
        return ids, values


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def stable_order(ids: np.ndarray, limit: int) -> np.ndarray:
    """The order that sorts ids in [0, limit), equal ones as they stand; NumPy sorts 16-bit keys by radix."""
    order = np.argsort(ids.astype(np.uint16), kind="stable")  # the low 16 bits
    if limit <= 1 << 16:
        return order
    return order[np.argsort((ids >> 16).astype(np.uint16)[order], kind="stable")]


def _check_pairs(ids: np.ndarray, values: np.ndarray, d_hidden: int) -> None:
    if not np.isfinite(values).all():
        raise InputError("A feature activation is not finite. Look at the activations that were encoded.")
    outside = ids[(ids < 0) | (ids >= d_hidden)]
    if outside.size:
        raise UnknownFeatureError(f"Feature {int(outside[0])} is outside [0, {d_hidden}).")
