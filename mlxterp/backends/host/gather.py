"""Sparse decoding and its transpose in NumPy: a few rows of the table at a time, which stay in the cache."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_BUFFER = 1 << 18
"""Numbers gathered at a time: 1 MiB."""


def weighted_rows(table: np.ndarray, ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sum over j of values[i, j] * table[ids[i, j]], float32 (n, width of table)."""
    with np.errstate(over="ignore", invalid="ignore"):  # as MLX: what is not finite shows in the result
        return _weighted_rows(table, ids, values)


def _weighted_rows(table: np.ndarray, ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    (n, k), width = ids.shape, table.shape[1]
    out = np.empty((n, 1, width), dtype=np.float32)
    step = max(1, _BUFFER // max(1, k * width))
    gathered = np.empty((step * k, width), dtype=np.float32)
    for i in range(0, n, step):
        some = ids[i : i + step]
        rows = gathered[: some.size]
        np.take(table, some.reshape(-1), axis=0, out=rows, mode="clip")  # "raise" would copy the rows twice
        np.matmul(values[i : i + step, None, :], rows.reshape(*some.shape, width), out=out[i : i + step])
    return out[:, 0]


def products(table: np.ndarray, ids: np.ndarray, x: np.ndarray) -> np.ndarray:
    """table[ids[i, j]] · x[i], float32 (n, k)."""
    (n, k), width = ids.shape, table.shape[1]
    out = np.empty((n, k, 1), dtype=np.float32)
    step = max(1, _BUFFER // max(1, k * width))
    gathered = np.empty((step * k, width), dtype=np.float32)
    for i in range(0, n, step):
        some = ids[i : i + step]
        rows = gathered[: some.size]
        np.take(table, some.reshape(-1), axis=0, out=rows, mode="clip")
        np.matmul(rows.reshape(*some.shape, width), x[i : i + step, :, None], out=out[i : i + step])
    return out[:, :, 0]


class Columns:
    """Pairs (row, feature), put in order by feature once, to sum several tables with."""

    def __init__(self, rows: np.ndarray, ids: np.ndarray, n: int):
        small = ids.astype(np.uint16) if n <= 1 << 16 else ids  # which NumPy sorts by radix
        self._order = np.argsort(small, kind="stable")
        self._rows = rows[self._order]
        self._indptr = np.concatenate([[0], np.cumsum(np.bincount(ids, minlength=n))])

    def weighted(self, table: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Sum over each feature's pairs of their number times their row of the table, float32 (n, width)."""
        return weighted_ragged_rows(table, self._indptr, self._rows, numbers[self._order])


def weighted_ragged_rows(
    table: np.ndarray, indptr: np.ndarray, ids: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """As `weighted_rows`, of compressed sparse rows. Rows of about equal length are summed together."""
    out = np.zeros((len(indptr) - 1, table.shape[1]), dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for rows, pairs, real in _by_length(indptr):
            out[rows] = _weighted_rows(table, ids[pairs], values[pairs] * real)
    return out


def ragged_products(table: np.ndarray, indptr: np.ndarray, ids: np.ndarray, x: np.ndarray) -> np.ndarray:
    """table[ids[p]] · x[row of p] for each pair p of compressed sparse rows, float32 (pairs,)."""
    out = np.empty(len(ids), dtype=np.float32)
    for rows, pairs, real in _by_length(indptr):
        out[pairs[real]] = products(table, ids[pairs], x[rows])[real]
    return out


def _by_length(indptr: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Groups of rows of about equal length, the empty ones left out.

    Rows (r,), where their pairs are (r, longest), and which of these are theirs: shorter rows are filled up
    with their last pair.
    """
    lengths = np.diff(indptr)
    exponent = np.maximum(np.floor(np.log2(np.maximum(lengths, 1))).astype(np.int64) - 2, 0)
    rounded = ((lengths - 1 >> exponent) + 1) << exponent  # four steps to each doubling
    for longest in np.unique(rounded[lengths > 0]):
        rows = np.flatnonzero(rounded == longest)
        slots = np.arange(longest)
        real = slots < lengths[rows][:, None]
        yield rows, indptr[rows][:, None] + np.minimum(slots, lengths[rows][:, None] - 1), real
