"""Array operations in MLX."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ...core.numeric import plain
from ...errors import BackendError
from ...weights import SAEWeights
from ..base import Backend, Optimizer
from ..host.fork import refuse_in_children
from . import backward as gradients
from . import decoding, encoding, pairs, training


class MLXBackend:
    """`Backend` for `mlx.core.array`."""

    name = "mlx"
    array_type = mx.array

    def put(self, x: np.ndarray, like: mx.array | None = None) -> mx.array:
        array = mx.array(plain(x))
        return array if like is None else array.astype(like.dtype)

    def get(self, x: mx.array) -> np.ndarray:
        if x.dtype == mx.bfloat16:  # NumPy has no such type
            x = x.astype(mx.float32)
        return np.array(x)

    def cast(self, x: mx.array, like: mx.array) -> mx.array:
        return x.astype(like.dtype)

    def widen(self, x: mx.array) -> mx.array:
        return x.astype(mx.float32) if x.dtype in (mx.float16, mx.bfloat16) else x

    def alias(self, x: mx.array) -> mx.array:
        return x[...]

    def constant(self, x: mx.array) -> mx.array:
        return mx.stop_gradient(x)

    def compact(self, x: mx.array) -> mx.array:
        return mx.contiguous(x)

    def concatenate(self, arrays: Sequence[mx.array]) -> mx.array:
        return mx.concatenate(list(arrays))

    def start(self, arrays: Sequence[mx.array]) -> None:
        mx.async_eval(list(arrays))

    def evaluate(self, arrays: Sequence[mx.array]) -> None:
        mx.eval(list(arrays))

    def is_floating(self, x: mx.array) -> bool:
        return mx.issubdtype(x.dtype, mx.floating)

    def where(self, condition: np.ndarray, x: mx.array, y: mx.array) -> mx.array:
        return mx.where(mx.array(condition), x, y)

    def token_losses(self, logits: mx.array, targets: np.ndarray) -> np.ndarray:
        logits = logits.astype(mx.float32)
        logits = logits - logits.max(axis=-1, keepdims=True)
        chosen = mx.take_along_axis(logits, mx.array(targets.astype(np.int32))[:, None], axis=-1)[:, 0]
        return np.array(mx.log(_sum_in_blocks(mx.exp(logits))) - chosen)

    def clip(self, x: mx.array, low: float | None, high: float | None) -> mx.array:
        return mx.clip(x, low, high)

    # -- sparse autoencoders ------------------------------------------------------------------

    def put_beside(self, x: np.ndarray, like: mx.array) -> mx.array:
        return mx.array(plain(x))

    def view(self, x: mx.array) -> np.ndarray:
        return np.asarray(x)

    def check_device(self, device: str | None) -> None:
        _check_device(device)

    def device(self, x: mx.array) -> str:
        return _default_device()

    def lengths(self, x: mx.array) -> np.ndarray:
        return np.array(mx.linalg.norm(x.astype(mx.float32), axis=-1))

    def largest(self, x: mx.array) -> float:
        return float(mx.finfo(x.dtype).max if self.is_floating(x) else mx.iinfo(x.dtype).max)

    def rounding(self, x: mx.array) -> float:
        return float(mx.finfo(x.dtype).eps)

    def all_finite(self, x: mx.array) -> bool:
        return bool(mx.isfinite(x).all().item())

    def put_weights(self, weights: SAEWeights, device: str | None = None) -> SAEWeights:
        _check_device(device)
        return encoding.put_weights(weights)

    normalize = staticmethod(encoding.normalize)
    encode = staticmethod(encoding.encode)
    encode_sparse = staticmethod(encoding.encode_sparse)
    encode_dense = staticmethod(encoding.encode_dense)
    encode_features = staticmethod(encoding.encode_features)
    reconstruct = staticmethod(encoding.reconstruct)
    to_dense = staticmethod(decoding.to_dense)
    decode = staticmethod(decoding.decode)
    decode_sparse = staticmethod(decoding.decode_sparse)
    decode_dense = staticmethod(decoding.decode_dense)
    backward = staticmethod(gradients.backward)
    slopes = staticmethod(pairs.slopes)
    sum_by_feature = staticmethod(pairs.sum_by_feature)
    add_auxiliary = staticmethod(gradients.add_auxiliary)

    def optimizer(self, weights: SAEWeights, device: str | None = None) -> Optimizer:
        _check_device(device)
        return training.MLXOptimizer(weights)

    group = staticmethod(training.group)


def _default_device() -> str:
    return "gpu" if mx.default_device() == mx.Device(mx.gpu) else "cpu"


def _check_device(device: str | None) -> None:
    if device not in (None, _default_device()):
        raise BackendError(
            f"MLX arrays have no device of their own, so {device!r} cannot be chosen here: everything runs on"
            f" the default device, now {_default_device()!r}. Leave device=None; see mx.set_default_device."
        )


BACKEND: Backend = MLXBackend()
refuse_in_children("mlx", MLXBackend)


def _sum_in_blocks(x: mx.array) -> mx.array:
    """Sum over the last axis, 256 values at a time: on the CPU MLX adds one after the other in float32, and
    a vocabulary of 14,000 tokens already loses 5e-5 of the sum that way."""
    x = mx.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % 256)])
    return x.reshape(*x.shape[:-1], -1, 256).sum(axis=-1).sum(axis=-1)
