"""Sparse decoding and its transpose in NumPy: a few rows of the table at a time, which stay in the cache."""

from __future__ import annotations

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

    The transpose of `weighted_rows`. Features that occur equally often are summed together.
    """
    rows, slots = np.nonzero(values)
    ids, values = ids[rows, slots], values[rows, slots]
    order = np.argsort(ids, kind="stable")
    rows, values = rows[order], values[order]
    counts = np.bincount(ids, minlength=n)
    starts = np.cumsum(counts) - counts
    out = np.zeros((n, table.shape[1]), dtype=np.float32)
    for count in np.unique(counts[counts > 0]):
        features = np.flatnonzero(counts == count)
        pairs = starts[features][:, None] + np.arange(count)
        out[features] = weighted_rows(table, rows[pairs], values[pairs])
    return out
