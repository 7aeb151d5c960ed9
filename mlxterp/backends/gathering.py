"""Sparse decoding and its transpose in NumPy: a few rows of the table at a time, which stay in the cache."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_BUFFER = 1 << 18
"""Numbers gathered at a time: 1 MiB."""


@np.errstate(over="ignore", invalid="ignore")  # as MLX: what is not finite shows in the result
def weighted_rows(table: np.ndarray, ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sum over j of values[i, j] * table[ids[i, j]], float32 (n, width of table)."""
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


def weighted_columns(table: np.ndarray, ids: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Sum over the (i, j) with ids[i, j] = f of values[i, j] * table[i], float32 (n, width of table), f < n.

    The transpose of `weighted_rows`.
    """
    rows, slots = np.nonzero(values)
    return Columns(rows, ids[rows, slots], n).weighted(table, values[rows, slots])


class Columns:
    """Pairs (row, feature), put in order by feature once, to sum several tables with."""

    def __init__(self, rows: np.ndarray, ids: np.ndarray, n: int):
        self._order = np.argsort(ids, kind="stable")
        self._rows = rows[self._order]
        self._indptr = np.concatenate([[0], np.cumsum(np.bincount(ids, minlength=n))])

    def weighted(self, table: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Sum over each feature's pairs of their number times their row of the table, float32 (n, width)."""
        return weighted_ragged_rows(table, self._indptr, self._rows, numbers[self._order])


def weighted_ragged_rows(
    table: np.ndarray, indptr: np.ndarray, ids: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """As `weighted_rows`, of compressed sparse rows. Rows of equal length are summed together."""
    out = np.zeros((len(indptr) - 1, table.shape[1]), dtype=np.float32)
    for rows, pairs in _by_length(indptr):
        out[rows] = weighted_rows(table, ids[pairs], values[pairs])
    return out


def ragged_products(table: np.ndarray, indptr: np.ndarray, ids: np.ndarray, x: np.ndarray) -> np.ndarray:
    """table[ids[p]] · x[row of p] for each pair p of compressed sparse rows, float32 (pairs,)."""
    out = np.empty(len(ids), dtype=np.float32)
    for rows, pairs in _by_length(indptr):
        step = max(1, _BUFFER // (pairs.shape[1] * table.shape[1]))
        for i in range(0, len(rows), step):
            some = pairs[i : i + step]
            gathered = np.take(table, ids[some], axis=0)
            out[some] = np.matmul(gathered, x[rows[i : i + step], :, None])[:, :, 0]
    return out


def _by_length(indptr: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of equal length (r,) and where their pairs are (r, length), for each length but 0."""
    lengths = np.diff(indptr)
    for length in np.unique(lengths[lengths > 0]):
        rows = np.flatnonzero(lengths == length)
        yield rows, indptr[rows][:, None] + np.arange(length)
