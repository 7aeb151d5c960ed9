"""Features back to activations, in MLX."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ...core.sparse import SparseFeatures
from ...weights import SAEWeights
from ..host import gather as gathering
from . import kernels

_GATHERED = 1 << 21
"""Numbers of decoder rows gathered at a time."""
_DENSE_SHARE = 16
"""Where more than one feature in so many is active, a matrix product is faster than gathering rows."""
_ROWS = 1024
"""Rows of sparse features at a time."""


def decode(ids: mx.array, values: mx.array, weights: SAEWeights) -> mx.array:
    """(n, d_out): decoder rows gathered for a few tokens at a time."""
    n, width = ids.shape
    if n == 0 or width == 0:
        return mx.broadcast_to(weights.b_dec, (n, weights.b_dec.shape[0]))
    if kernels.available():
        return kernels.decode(ids, values, weights.W_dec) + weights.b_dec
    if mx.default_device() == mx.Device(mx.cpu):
        rows = gathering.weighted_rows(np.asarray(weights.W_dec), np.asarray(ids), np.asarray(values))
        return mx.array(rows) + weights.b_dec
    step = max(1, _GATHERED // (width * weights.W_dec.shape[1]))
    parts = []
    for i in range(0, n, step):
        parts.append(weighted_rows(weights.W_dec, ids[i : i + step], values[i : i + step]))
        mx.async_eval(parts[-1])
    return mx.concatenate(parts) + weights.b_dec


def decode_dense(features: mx.array, weights: SAEWeights) -> mx.array:
    """(n, d_out) from dense features."""
    return features.astype(mx.float32) @ weights.W_dec + weights.b_dec


def decode_sparse(features: SparseFeatures, weights: SAEWeights) -> mx.array:
    """(n, d_out) from features in NumPy, a block of rows at a time."""
    parts = []
    if mx.default_device() == mx.Device(mx.cpu) and not _dense_enough(features):
        table = np.asarray(weights.W_dec)
        rows = gathering.weighted_ragged_rows(table, features.indptr, features.indices, features.values)
        return mx.array(rows) + weights.b_dec
    for part in features.blocks(_ROWS):
        ids, values = part.to_topk()
        if ids.shape[1] * _DENSE_SHARE > features.d_hidden:
            parts.append(decode_dense(mx.array(part.to_dense()), weights))
        else:
            parts.append(decode(mx.array(ids), mx.array(values), weights))
        mx.async_eval(parts[-1])
    return mx.concatenate(parts) if parts else mx.zeros((0, weights.b_dec.shape[0]))


def _dense_enough(features: SparseFeatures) -> bool:
    return len(features.values) * _DENSE_SHARE > features.n * features.d_hidden


def weighted_rows(table: mx.array, ids: mx.array, values: mx.array) -> mx.array:
    """Sum over j of values[i, j] * table[ids[i, j]], (n, width of table)."""
    return (values[:, None, :] @ table[ids])[:, 0]


def to_dense(ids: mx.array, values: mx.array, d_hidden: int) -> mx.array:
    """float32, (n, d_hidden); ids are distinct within a row."""
    dense = mx.zeros((ids.shape[0], d_hidden), dtype=mx.float32)
    return mx.put_along_axis(dense, ids, values, axis=-1)
