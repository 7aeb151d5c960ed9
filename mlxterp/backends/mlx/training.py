"""Adam on the weights of an SAE in MLX, decoder rows kept at unit norm; processes that train together."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

from ...weights import NAMES, SAEWeights


class MLXOptimizer:
    """`Optimizer` for MLX. The encoder lies feature by feature, as gradients of few features touch it."""

    def __init__(self, weights: SAEWeights):
        self._subtract_b_dec = weights.subtract_b_dec
        self._params = self._named(weights.map(lambda array: mx.array(np.ascontiguousarray(array))))
        self._params["W_enc"] = mx.array(np.ascontiguousarray(weights.W_enc.T))
        self._adam = optim.Adam(0.0, betas=[0.9, 0.999], eps=1e-8, bias_correction=True)
        self._adam.init(self._params)
        mx.eval(self._params)

    @property
    def weights(self) -> SAEWeights:
        return self._as_weights(self._params)

    def update(self, gradients: SAEWeights, lr: float) -> None:
        grads = self._named(gradients)
        rows, g = self._params["W_dec"], grads["W_dec"]
        grads["W_dec"] = g - (g * rows).sum(axis=-1, keepdims=True) * rows  # growth is undone below anyway
        self._adam.learning_rate = lr
        params = self._adam.apply_gradients(grads, self._params)
        rows = params["W_dec"]
        params["W_dec"] = rows / mx.maximum(mx.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
        if "threshold" in params:
            params["threshold"] = mx.maximum(params["threshold"], 0)
        if "gate_scale" in params:
            params["gate_scale"] = mx.maximum(params["gate_scale"], 1e-3)
        self._params = params
        mx.eval(params, self._adam.state)

    def state(self) -> dict[str, np.ndarray]:
        state = {f"param.{name}": np.array(value) for name, value in self._params.items()}
        for name in self._params:
            moments = self._adam.state[name]
            state |= {f"m.{name}": np.array(moments["m"]), f"v.{name}": np.array(moments["v"])}
        return {**state, "step": np.array(self._adam.state["step"])}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        names = list(self._params)
        self._params = {name: mx.array(state[f"param.{name}"]) for name in names}
        for name in names:
            moments: Any = self._adam.state[name]
            moments |= {"m": mx.array(state[f"m.{name}"]), "v": mx.array(state[f"v.{name}"])}
        self._adam.state["step"] = mx.array(state["step"])

    @staticmethod
    def _named(weights: SAEWeights) -> dict[str, mx.array]:
        return {**weights.arrays(), "W_enc": weights.W_enc.T}

    def _as_weights(self, params: dict[str, mx.array]) -> SAEWeights:
        extra = {name: params[name] for name in params if name not in NAMES}
        return SAEWeights(
            params["W_enc"].T, params["b_enc"], params["W_dec"], params["b_dec"], self._subtract_b_dec, extra
        )


_LAUNCHED = ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
"""What `mlx.launch` and `mpirun` set."""


class MLXGroup:
    """`Group` for MLX."""

    def __init__(self) -> None:
        launched = any(name in os.environ for name in _LAUNCHED)
        self._group = mx.distributed.init(strict=True) if launched else None
        self.rank = self._group.rank() if self._group else 0
        self.size = self._group.size() if self._group else 1

    def sum(self, arrays: Sequence[mx.array]) -> list[mx.array]:
        if self._group is None or self.size == 1:
            return list(arrays)
        summed = []
        for array in arrays:  # one after the other: every process must ask in the same order
            summed.append(mx.distributed.all_sum(mx.contiguous(array), group=self._group))
            mx.eval(summed[-1])
        return summed


@cache
def group() -> MLXGroup:
    """The group of this process; alone where it was not launched as one of several."""
    return MLXGroup()
