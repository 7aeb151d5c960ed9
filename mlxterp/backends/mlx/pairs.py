"""Gradients of sparse features that vary in number from token to token, in MLX.

The pairs (token, feature) and their numbers are NumPy's, as `encode_sparse` gives them; tables and what
comes out are native.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ...core.sparse import SparseFeatures
from ..host import gather as gathering

_HELD = 1 << 26
"""Numbers gathered at a time on a GPU."""


def slopes(features: SparseFeatures, W_dec: mx.array, gradient: mx.array) -> np.ndarray:
    """See `Backend.slopes`."""
    if _on_cpu():
        table, g = np.asarray(W_dec), np.asarray(gradient)
        return gathering.ragged_products(table, features.indptr, features.indices, g)
    rows, ids = mx.array(features.row_ids), mx.array(features.indices)
    step = max(1, _HELD // W_dec.shape[1])
    parts = [np.zeros(0, dtype=np.float32)]
    for i in range(0, len(features.indices), step):
        part = slice(i, i + step)
        parts.append(np.array((W_dec[ids[part]] * gradient[rows[part]]).sum(axis=-1)))
    return np.concatenate(parts)


def sum_by_feature(features: SparseFeatures, terms: Sequence[tuple[np.ndarray, mx.array]]) -> list[mx.array]:
    """See `Backend.sum_by_feature`."""
    if _on_cpu():
        columns = gathering.Columns(features.row_ids, features.indices, features.d_hidden)
        return [mx.array(columns.weighted(np.asarray(table), numbers)) for numbers, table in terms]
    rows, ids = mx.array(features.row_ids), mx.array(features.indices)
    return [_scattered(rows, ids, mx.array(numbers), table, features.d_hidden) for numbers, table in terms]


def _scattered(rows: mx.array, ids: mx.array, numbers: mx.array, table: mx.array, n: int) -> mx.array:
    out = mx.zeros((n, table.shape[1]))
    step = max(1, _HELD // table.shape[1])
    for i in range(0, len(ids), step):
        part = slice(i, i + step)
        out = out.at[ids[part]].add(numbers[part][:, None] * table[rows[part]])
        mx.async_eval(out)
    return out


def _on_cpu() -> bool:
    return mx.default_device() == mx.Device(mx.cpu)
