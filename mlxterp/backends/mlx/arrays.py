"""Array operations in MLX."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ..base import Backend


class MLXBackend:
    """`Backend` for `mlx.core.array`."""

    name = "mlx"
    array_type = mx.array

    def put(self, x: np.ndarray, like: mx.array | None = None) -> mx.array:
        array = mx.array(x)
        return array if like is None else array.astype(like.dtype)

    def get(self, x: mx.array) -> np.ndarray:
        if x.dtype == mx.bfloat16:  # NumPy has no such type
            x = x.astype(mx.float32)
        return np.array(x)

    def cast(self, x: mx.array, like: mx.array) -> mx.array:
        return x.astype(like.dtype)

    def alias(self, x: mx.array) -> mx.array:
        return x[...]

    def compact(self, x: mx.array) -> mx.array:
        return mx.contiguous(x)

    def evaluate(self, arrays: Sequence[mx.array]) -> None:
        mx.eval(list(arrays))

    def is_floating(self, x: mx.array) -> bool:
        return mx.issubdtype(x.dtype, mx.floating)

    def where(self, condition: np.ndarray, x: mx.array, y: mx.array) -> mx.array:
        return mx.where(mx.array(condition), x, y)

    def clip(self, x: mx.array, low: float | None, high: float | None) -> mx.array:
        return mx.clip(x, low, high)


BACKEND: Backend = MLXBackend()
