"""The k largest pre-activations of each token, in MLX operations.

A feature and its value are packed into one integer, `bits of the value << 32 | highest id - id`, so
that the largest keys are the largest values and, among equals, the lowest ids. The walk goes over
chunks of features and keeps the best keys so far: rows x d_hidden never exists.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ...weights import SAEWeights
from ..host.topk import RunningTopK
from . import kernels

CHUNK = 4096
"""Features at a time."""
CELLS = 1 << 22
"""Pre-activations at a time: 16 MiB, small temporaries are several times faster on a CPU."""
_DEVICE_CELLS = 1 << 27
"""Pre-activations at a time on a GPU: 512 MiB."""
_LAST = 0xFFFFFFFF


def topk(x: mx.array, weights: SAEWeights, k: int) -> tuple[mx.array, mx.array]:
    """Ids (uint32) and values (float32), (n, k), of the k largest positive x @ W_enc + b_enc."""
    if kernels.available():
        return _by_kernel(x, weights, k)
    rows = rows_at_once(weights.W_enc.shape[1])
    if mx.default_device() == mx.Device(mx.cpu):
        parts = [_on_cpu(x[i : i + rows], weights, k) for i in range(0, max(1, x.shape[0]), rows)]
        ids, values = (np.concatenate(column) for column in zip(*parts, strict=True))
        return mx.array(ids.astype(np.uint32)), mx.array(values)
    blocks = [_best_keys(x[i : i + rows], weights, k) for i in range(0, x.shape[0], rows)]
    keys = mx.concatenate(blocks) if blocks else mx.zeros((0, k), dtype=mx.uint64)
    keys = mx.sort(keys, axis=-1)[:, ::-1]
    return _LAST - (keys & _LAST).astype(mx.uint32), (keys >> 32).astype(mx.uint32).view(mx.float32)


def rows_at_once(d_hidden: int) -> int:
    """Rows of a block, so that a chunk of its pre-activations has at most `CELLS`."""
    return max(1, CELLS // min(CHUNK, d_hidden))


def _on_cpu(x: mx.array, weights: SAEWeights, k: int) -> tuple[np.ndarray, np.ndarray]:
    """NumPy looks at each chunk where it lies, while MLX multiplies the next."""
    best = RunningTopK(x.shape[0], k)
    ready: tuple[int, mx.array] | None = None
    for first in range(0, weights.W_enc.shape[1], CHUNK):
        part = slice(first, first + CHUNK)
        scores = mx.addmm(weights.b_enc[part], x, weights.W_enc[:, part])
        mx.async_eval(scores)
        if ready is not None:
            best.add(ready[0], np.asarray(ready[1]))
        ready = first, scores
    if ready is not None:
        best.add(ready[0], np.asarray(ready[1]))
    return best.best()


def _by_kernel(x: mx.array, weights: SAEWeights, k: int) -> tuple[mx.array, mx.array]:
    rows = max(1, _DEVICE_CELLS // weights.W_enc.shape[1])
    parts = []
    for i in range(0, max(1, x.shape[0]), rows):
        pre = x[i : i + rows] @ weights.W_enc + weights.b_enc
        parts.append(kernels.select(mx.maximum(pre, 0), k))
        mx.async_eval(*parts[-1])
    ids, values = (mx.concatenate(list(column)) for column in zip(*parts, strict=True))
    return ids, values


def _best_keys(x: mx.array, weights: SAEWeights, k: int) -> mx.array:
    keys, doubts = _walk(x, weights, k, fast=True)
    if mx.any(mx.concatenate(doubts)).item():
        keys, _ = _walk(x, weights, k, fast=False)
        mx.eval(keys)
    return keys


def _walk(x: mx.array, weights: SAEWeights, k: int, fast: bool) -> tuple[mx.array, list[mx.array]]:
    """The k best keys of each row in any order, and whether a choice among equals may be wrong."""
    best: mx.array | None = None
    doubts = []
    for first in range(0, weights.W_enc.shape[1], CHUNK):
        pre = x @ weights.W_enc[:, first : first + CHUNK] + weights.b_enc[first : first + CHUNK]
        keys, doubt = _chunk_keys(pre, k, first, fast)
        best = keys if best is None else _largest(mx.concatenate([best, keys], axis=1), k)
        doubts.append(doubt)
        mx.async_eval(best, doubt)  # in this order, so that one chunk's temporaries are freed before the next
    assert best is not None
    return best, doubts


def _chunk_keys(pre: mx.array, k: int, first: int, fast: bool = True) -> tuple[mx.array, mx.array]:
    """The k best keys of a chunk whose first feature is `first`, and whether each row is in doubt."""
    n, width = pre.shape
    positive = mx.where(pre > 0, pre, 0.0)  # not maximum: -0.0 has the bits of a huge number
    for depth in (16, 8, 4):
        if fast and width % depth == 0 and width // depth >= 2 * k:
            return _two_stages(positive, k, first, depth)
    keys = _keys(positive, mx.arange(first, first + width, dtype=mx.uint32))
    return _largest(keys, k), mx.zeros((n,), dtype=mx.bool_)


def _two_stages(scores: mx.array, k: int, first: int, depth: int) -> tuple[mx.array, mx.array]:
    """Only the k blocks with the largest maxima can hold one of the k largest scores.

    Where the k-th and the next maximum are equal, the block left out may hold a lower id among
    equals: that row is in doubt.
    """
    n, width = scores.shape
    stride = width // depth
    blocks = scores.reshape(n, depth, stride)  # block b holds features b, b + stride, …
    peaks = blocks.max(axis=1)
    chosen = mx.argpartition(peaks, stride - k, axis=-1)[:, stride - k :]
    kept = mx.take_along_axis(peaks, chosen, axis=-1)
    floor = kept.min(axis=-1, keepdims=True)
    doubt = ((peaks == floor).sum(axis=-1) > (kept == floor).sum(axis=-1)) & (floor[:, 0] > 0)
    candidates = mx.take_along_axis(blocks, chosen[:, None, :], axis=2)
    ids = chosen[:, None, :] + (first + stride * mx.arange(depth, dtype=mx.uint32))[:, None]
    return _largest(_keys(candidates, ids).reshape(n, -1), k), doubt


def _keys(values: mx.array, ids: mx.array) -> mx.array:
    bits = values.view(mx.uint32).astype(mx.uint64)
    return (bits << 32) | (_LAST - ids).astype(mx.uint64)


def _largest(keys: mx.array, k: int) -> mx.array:
    width = keys.shape[1]
    return keys if width <= k else mx.partition(keys, width - k, axis=-1)[:, width - k :]
