"""Gradients of encoding and decoding with few features, in MLX, without products of full size.

With g the gradient of the reconstruction, A the sparse features and D[i, j] = W_dec[ids[i, j]] · g[i] where
values[i, j] > 0: dW_dec = Aᵀ g, dW_enc = (Dᵀ x)ᵀ, db_enc = column sums of D, and, where b_dec is subtracted
from x, db_dec = Σ g - W_enc db_enc.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ...weights import SAEWeights
from .. import gathering

_CACHED, _HELD = 1 << 18, 1 << 26
"""Numbers of decoder rows gathered at a time: on a CPU they stay in the cache, a GPU wants large pieces."""


def backward(
    x: mx.array, ids: mx.array, values: mx.array, weights: SAEWeights, gradient: mx.array
) -> SAEWeights:
    """See `Backend.backward`."""
    x, g = x.astype(mx.float32), gradient.astype(mx.float32)
    inside = x - weights.b_dec if weights.subtract_b_dec else x
    slopes = _slopes(weights.W_dec, ids, g) * (values != 0)
    n = weights.W_dec.shape[0]
    db_enc = mx.zeros(n).at[ids.reshape(-1)].add(slopes.reshape(-1))
    db_dec = g.sum(axis=0)
    if weights.subtract_b_dec:
        db_dec = db_dec - weights.W_enc @ db_enc
    return SAEWeights(
        _by_feature(inside, ids, slopes, n).T,
        db_enc,
        _by_feature(g, ids, values, n),
        db_dec,
        weights.subtract_b_dec,
    )


def _slopes(W_dec: mx.array, ids: mx.array, g: mx.array) -> mx.array:
    """W_dec[ids[i, j]] · g[i], (n, k)."""
    cells = _CACHED if mx.default_device() == mx.Device(mx.cpu) else _HELD
    step = max(1, cells // (ids.shape[1] * W_dec.shape[1]))
    parts = []
    for i in range(0, ids.shape[0], step):
        parts.append((W_dec[ids[i : i + step]] @ g[i : i + step, :, None])[:, :, 0])
        mx.async_eval(parts[-1])
    return mx.concatenate(parts)


def _by_feature(table: mx.array, ids: mx.array, numbers: mx.array, n: int) -> mx.array:
    """Sum over each feature's pairs of their number times their row of the table, (n, width)."""
    if mx.default_device() == mx.Device(mx.cpu):
        return mx.array(
            gathering.weighted_columns(np.asarray(table), np.asarray(ids), np.asarray(numbers), n)
        )
    out = mx.zeros((n, table.shape[1]))
    step = max(1, _HELD // (ids.shape[1] * table.shape[1]))
    for i in range(0, ids.shape[0], step):
        part = slice(i, i + step)
        out = out.at[ids[part]].add(numbers[part][:, :, None] * table[part][:, None, :])
        mx.async_eval(out)
    return out
