"""Gradients of encoding and decoding with few features, in MLX, without products of full size.

With g the gradient of the reconstruction, A the sparse features and D[i, j] = W_dec[ids[i, j]] · g[i] where
values[i, j] > 0: dW_dec = Aᵀ g, dW_enc = (Dᵀ x)ᵀ, db_enc = column sums of D, and, where b_dec is subtracted
from x, db_dec = Σ g - W_enc db_enc. `add_auxiliary` adds those of the loss that revives dead features.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ...weights import SAEWeights
from ..host import gather as gathering

_HELD = 1 << 26
"""Numbers of decoder rows gathered at a time on a GPU."""


def backward(
    x: mx.array, ids: mx.array, values: mx.array, weights: SAEWeights, gradient: mx.array
) -> SAEWeights:
    """See `Backend.backward`."""
    x, g = x.astype(mx.float32), gradient.astype(mx.float32)
    inside = x - weights.b_dec if weights.subtract_b_dec else x
    on_cpu = mx.default_device() == mx.Device(mx.cpu)
    by_feature = _on_cpu if on_cpu else _on_device
    W_enc, db_enc, W_dec = by_feature(inside, ids, values, weights.W_dec, g)
    db_dec = g.sum(axis=0)
    if weights.subtract_b_dec:
        db_dec = db_dec - weights.W_enc @ db_enc
    return SAEWeights(W_enc.T, db_enc, W_dec, db_dec, weights.subtract_b_dec)


def _on_cpu(
    inside: mx.array, ids: mx.array, values: mx.array, W_dec: mx.array, g: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    """Gradients of the encoder (feature by feature), b_enc and the decoder."""
    mx.eval(inside, g)
    table, slots, numbers, slope = (np.asarray(a) for a in (W_dec, ids, values, g))
    n = len(table)
    active = numbers.reshape(-1) != 0
    flat = slots.reshape(-1)[active]
    rows = np.repeat(np.arange(len(slots)), slots.shape[1])[active]
    slopes = gathering.products(table, slots, slope).reshape(-1)[active]
    columns = gathering.Columns(rows, flat, n)
    encoder = columns.weighted(np.asarray(inside), slopes)
    decoder = columns.weighted(slope, numbers.reshape(-1)[active])
    sums = np.bincount(flat, slopes, n).astype(np.float32)
    return mx.array(encoder), mx.array(sums), mx.array(decoder)


def _on_device(
    inside: mx.array, ids: mx.array, values: mx.array, W_dec: mx.array, g: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    slopes = _slopes(W_dec, ids, g) * (values != 0)
    n = W_dec.shape[0]
    sums = mx.zeros(n).at[ids.reshape(-1)].add(slopes.reshape(-1))
    return _scattered(inside, ids, slopes, n), sums, _scattered(g, ids, values, n)


def _slopes(W_dec: mx.array, ids: mx.array, g: mx.array) -> mx.array:
    """W_dec[ids[i, j]] · g[i], (n, k)."""
    step = max(1, _HELD // (ids.shape[1] * W_dec.shape[1]))
    parts = []
    for i in range(0, ids.shape[0], step):
        parts.append((W_dec[ids[i : i + step]] @ g[i : i + step, :, None])[:, :, 0])
        mx.async_eval(parts[-1])
    return mx.concatenate(parts)


def _scattered(table: mx.array, ids: mx.array, numbers: mx.array, n: int) -> mx.array:
    """The sum over a feature's pairs of their number times their row of the table, (n, width)."""
    out = mx.zeros((n, table.shape[1]))
    step = max(1, _HELD // (ids.shape[1] * table.shape[1]))
    for i in range(0, ids.shape[0], step):
        part = slice(i, i + step)
        out = out.at[ids[part]].add(numbers[part][:, :, None] * table[part][:, None, :])
        mx.async_eval(out)
    return out


def add_auxiliary(
    gradients: SAEWeights,
    x: mx.array,
    error: mx.array,
    weights: SAEWeights,
    dead: np.ndarray,
    k: int,
    scale: float,
) -> tuple[mx.array, SAEWeights]:
    """See `Backend.add_auxiliary`."""
    picked = mx.array(dead.astype(np.int32))
    encoder, decoder = weights.W_enc.T[picked], weights.W_dec[picked]
    inside = x - weights.b_dec if weights.subtract_b_dec else x
    scores = inside @ encoder.T + weights.b_enc[picked]
    cut = len(dead) - k
    if cut > 0:
        floor = mx.partition(scores, cut, axis=-1)[:, cut, None]
        scores = mx.where(scores >= floor, scores, 0)
    features = mx.maximum(scores, 0)
    rest = error - features @ decoder
    slope = rest * (-2 * scale)
    into = mx.where(features > 0, slope @ decoder.T, 0)
    sums = into.sum(axis=0)
    b_dec = gradients.b_dec - sums @ encoder if weights.subtract_b_dec else gradients.b_dec
    return (rest**2).sum(axis=-1).sum(), SAEWeights(
        gradients.W_enc.T.at[picked].add(into.T @ inside).T,
        gradients.b_enc.at[picked].add(sums),
        gradients.W_dec.at[picked].add(features.T @ slope),
        b_dec,
        weights.subtract_b_dec,
        gradients.extra,
    )
