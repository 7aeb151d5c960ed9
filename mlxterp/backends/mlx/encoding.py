"""Activations to features, in MLX: every variant that decides a token by itself or by its batch.

`selecting` finds the k largest; here are the other rules, the input's form, and the walk over blocks of
rows and chunks of features that keeps memory bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import mlx.core as mx
import numpy as np

from ...core.sparse import SparseFeatures
from ...variants import (
    ELEMENTWISE,
    FIXED_K,
    Activation,
    BatchTopK,
    Gated,
    GroupMax,
    InputForm,
    JumpReLU,
    TanhReLU,
    TopK,
)
from ...weights import SAEWeights
from ..host.selection import FEW, column_of, gathered, ranked
from . import decoding, selecting


def put_weights(weights: SAEWeights) -> SAEWeights:
    """Native weights; W_enc lies feature by feature, so that a chunk of features is one piece."""

    def put(x: np.ndarray) -> mx.array:
        return mx.array(x.T).T if x is weights.W_enc else mx.array(x)

    native = weights.map(put)
    mx.eval(*native.arrays().values())
    return native


def normalize(x: mx.array, form: InputForm) -> tuple[mx.array, tuple[mx.array, mx.array]]:
    """See `Backend.normalize`."""
    x = x.astype(mx.float32)
    scale, shift = mx.ones((x.shape[0], 1)), mx.zeros((x.shape[0], 1))
    if form.center or form.normalize == "layer_norm":
        shift = x.mean(axis=-1, keepdims=True)
        x = x - shift
    if form.normalize == "layer_norm":
        scale = mx.sqrt((x * x).sum(axis=-1, keepdims=True) / max(1, x.shape[1] - 1))
        x = x / (scale + 1e-5)
    elif form.normalize == "constant_norm":
        scale = mx.linalg.norm(x, axis=-1, keepdims=True) / x.shape[1] ** 0.5
        x = x / mx.maximum(scale, 1e-30)
    return x, (scale, shift)


def encode(x: mx.array, weights: SAEWeights, activation: Activation) -> tuple[mx.array, mx.array]:
    """Ids (uint32) and values (float32), (n, width); see `Backend.encode`."""
    assert isinstance(activation, FIXED_K)
    x = _inputs(x, weights)
    if isinstance(activation, TopK) and activation.relu:
        ids, values = selecting.topk(x, weights, min(activation.k, weights.W_enc.shape[1]))
    elif isinstance(activation, GroupMax):
        ids, values = _joined(
            [_group_max(p, activation.k) for p in _pre_activations(x, weights)], activation.k
        )
    else:
        by_size = not isinstance(activation, TopK)
        found = [ranked(np.array(p), activation.k, by_size) for p in _pre_activations(x, weights)]
        ids, values = _joined([(mx.array(i), mx.array(v)) for i, v in found], activation.k)
    if "value_scale" in weights.extra:
        values = values * weights.extra["value_scale"][ids]
    return ids, values


def encode_sparse(x: mx.array, weights: SAEWeights, activation: Activation) -> SparseFeatures:
    """See `Backend.encode_sparse`."""
    n, d_hidden = x.shape[0], weights.W_enc.shape[1]
    if isinstance(activation, ELEMENTWISE):
        return gathered(_active(_inputs(x, weights), weights, activation), n, d_hidden)
    if isinstance(activation, BatchTopK):
        scale = weights.extra.get("value_scale")
        active = _active(_inputs(x, weights), replace(weights, extra={}), activation)
        return gathered(active, n, d_hidden, activation.k * n, None if scale is None else np.asarray(scale))
    ids, values = encode(x, weights, activation)
    return SparseFeatures.from_topk(np.array(ids), np.array(values), d_hidden)


def encode_dense(x: mx.array, weights: SAEWeights, activation: Activation) -> mx.array:
    """See `Backend.encode_dense`."""
    if isinstance(activation, ELEMENTWISE):
        rows: dict[int, list[mx.array]] = {}
        for row, _, values in _blocks(_inputs(x, weights), weights, activation):
            rows.setdefault(row, []).append(values)
        parts = [part[0] if len(part) == 1 else mx.concatenate(part, axis=1) for part in rows.values()]
        if not parts:
            return mx.zeros((0, weights.W_enc.shape[1]))
        return parts[0] if len(parts) == 1 else mx.concatenate(parts)
    if isinstance(activation, BatchTopK):
        return mx.array(encode_sparse(x, weights, activation).to_dense())
    return decoding.to_dense(*encode(x, weights, activation), weights.W_enc.shape[1])


def encode_features(x: mx.array, weights: SAEWeights, activation: Activation, ids: np.ndarray) -> mx.array:
    """See `Backend.encode_features`."""
    part = mx.array(ids.astype(np.int32))
    if isinstance(activation, ELEMENTWISE):
        return _elementwise(_inputs(x, weights) @ weights.W_enc[:, part], weights, activation, part)
    if isinstance(activation, BatchTopK):
        return mx.array(encode_sparse(x, weights, activation).columns(ids))
    active, values = encode(x, weights, activation)
    if len(ids) <= FEW:
        hit = active.astype(mx.int32)[..., None] == part
        return mx.where(hit, values[..., None], 0).sum(axis=1)
    column = mx.array(column_of(ids, weights.W_enc.shape[1]))[active]
    rows = mx.arange(active.shape[0])[:, None]
    return mx.zeros((active.shape[0], len(ids) + 1)).at[rows, column].add(values)[:, :-1]


def reconstruct(x: mx.array, weights: SAEWeights, activation: Activation) -> mx.array:
    """See `Backend.reconstruct`."""
    if isinstance(activation, BatchTopK):
        return decoding.decode_sparse(encode_sparse(x, weights, activation), weights)
    if not isinstance(activation, ELEMENTWISE):
        return decoding.decode(*encode(x, weights, activation), weights)
    rows = max(1, selecting.CELLS // weights.W_enc.shape[1])
    parts = []
    for i in range(0, x.shape[0], rows):
        dense = encode_dense(x[i : i + rows], weights, activation)
        parts.append(decoding.decode_dense(dense, weights))
        mx.async_eval(parts[-1])
    return mx.concatenate(parts) if parts else mx.zeros((0, weights.b_dec.shape[0]))


# -- pre-activations and what becomes of them ---------------------------------------------------


def _inputs(x: mx.array, weights: SAEWeights) -> mx.array:
    x = x.astype(mx.float32)
    return x - weights.b_dec if weights.subtract_b_dec else x


def _pre_activations(x: mx.array, weights: SAEWeights) -> Iterator[mx.array]:
    """Blocks of rows of x @ W_enc + b_enc, all features of each."""
    rows = max(1, selecting.CELLS // weights.W_enc.shape[1])
    for i in range(0, x.shape[0], rows):
        yield x[i : i + rows] @ weights.W_enc + weights.b_enc


def _blocks(x: mx.array, weights: SAEWeights, activation: Activation) -> Iterator[tuple[int, int, mx.array]]:
    """First row, first feature and features of one block of rows and chunk of features after another.

    Dense and sparse features come from the same products: of another shape, some would be rounded otherwise, and
    whether a feature exceeds its threshold could differ.
    """
    d_hidden = weights.W_enc.shape[1]
    rows = selecting.rows_at_once(d_hidden)
    for i in range(0, x.shape[0], rows):
        for first in range(0, d_hidden, selecting.CHUNK):
            part = slice(first, first + selecting.CHUNK)
            yield i, first, _elementwise(x[i : i + rows] @ weights.W_enc[:, part], weights, activation, part)


def _active(
    x: mx.array, weights: SAEWeights, activation: Activation
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows, ids and values of the active features, block by block."""
    for i, first, values in _blocks(x, weights, activation):
        dense = np.asarray(values)  # the same memory, on a CPU
        found = np.flatnonzero(dense)
        row, column = np.divmod(found, dense.shape[1])
        yield row + i, column + first, dense.reshape(-1)[found]


def _elementwise(
    p: mx.array, weights: SAEWeights, activation: Activation, part: slice | mx.array
) -> mx.array:
    """Features of products p = x @ W_enc[:, part]; 0 where not active."""
    h, extra = p + weights.b_enc[part], weights.extra
    features = mx.maximum(h, 0)
    if isinstance(activation, TanhReLU):
        features = mx.tanh(features)
    elif isinstance(activation, JumpReLU):
        features = mx.where(h > extra["threshold"][part], features, 0)
    elif isinstance(activation, Gated):
        magnitude = p * extra["gate_scale"][part] + extra["b_mag"][part]
        features = mx.where(h > 0, mx.maximum(magnitude, 0), 0)
    return features * extra["value_scale"][part] if "value_scale" in extra else features


def _group_max(pre: mx.array, k: int) -> tuple[mx.array, mx.array]:
    groups = mx.maximum(pre, 0).reshape(pre.shape[0], k, -1)
    ids = mx.argmax(groups, axis=-1)
    values = mx.take_along_axis(groups, ids[..., None], axis=-1)[..., 0]
    return ids + groups.shape[2] * mx.arange(k, dtype=mx.uint32), values


def _joined(blocks: list[tuple[mx.array, mx.array]], width: int) -> tuple[mx.array, mx.array]:
    if not blocks:
        return mx.zeros((0, width), dtype=mx.uint32), mx.zeros((0, width))
    ids, values = (mx.concatenate(list(column)) for column in zip(*blocks, strict=True))
    return ids.astype(mx.uint32), values.astype(mx.float32)
