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
from ..host.adam import HostAdam


class MLXOptimizer:
    """`Optimizer` for MLX. The encoder lies feature by feature, as gradients of few features touch it."""

    def __init__(self, weights: SAEWeights):
        self._subtract_b_dec = weights.subtract_b_dec
        self._params = self._named(weights.map(lambda array: mx.array(np.ascontiguousarray(array))))
        self._params["W_enc"] = mx.array(np.ascontiguousarray(weights.W_enc.T))
        mx.eval(self._params)
        on_cpu = mx.default_device() == mx.Device(mx.cpu)
        self._adam = _InMemory(self._params) if on_cpu else _OnDevice(self._params)

    @property
    def weights(self) -> SAEWeights:
        return self._as_weights(self._params)

    def update(self, gradients: SAEWeights, lr: float) -> None:
        self._params = self._adam.updated(self._params, self._named(gradients), lr)

    def state(self) -> dict[str, np.ndarray]:
        state = {f"param.{name}": np.array(value) for name, value in self._params.items()}
        return state | {name: np.array(value) for name, value in self._adam.state().items()}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        self._params = {name: mx.array(state[f"param.{name}"]) for name in self._params}
        self._adam.load(state)

    @staticmethod
    def _named(weights: SAEWeights) -> dict[str, mx.array]:
        return {**weights.arrays(), "W_enc": weights.W_enc.T}

    def _as_weights(self, params: dict[str, mx.array]) -> SAEWeights:
        extra = {name: params[name] for name in params if name not in NAMES}
        return SAEWeights(
            params["W_enc"].T, params["b_enc"], params["W_dec"], params["b_dec"], self._subtract_b_dec, extra
        )


_BETAS, _EPS = (0.9, 0.999), 1e-8
_LOWEST = {"threshold": 0.0, "gate_scale": 1e-3}
"""What some parameters never fall below."""


class _OnDevice:
    """Adam in MLX."""

    def __init__(self, params: dict[str, mx.array]):
        self._adam = optim.Adam(0.0, betas=list(_BETAS), eps=_EPS, bias_correction=True)
        self._adam.init(params)
        self._names = list(params)

    def updated(
        self, params: dict[str, mx.array], grads: dict[str, mx.array], lr: float
    ) -> dict[str, mx.array]:
        """The parameters after one step."""
        rows, g = params["W_dec"], grads["W_dec"]
        grads["W_dec"] = g - (g * rows).sum(axis=-1, keepdims=True) * rows  # growth is undone below anyway
        self._adam.learning_rate = lr
        new: dict[str, mx.array] = self._adam.apply_gradients(grads, params)
        rows = new["W_dec"]
        new["W_dec"] = rows / mx.maximum(mx.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
        new |= {name: mx.maximum(new[name], low) for name, low in _LOWEST.items() if name in new}
        mx.eval(new, self._adam.state)
        return new

    def state(self) -> dict[str, Any]:
        """Moments and steps, by name."""
        moments = {f"{m}.{name}": self._adam.state[name][m] for name in self._names for m in ("m", "v")}
        return {**moments, "step": self._adam.state["step"]}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes on from what `state` gave."""
        for name in self._names:
            moments: Any = self._adam.state[name]
            moments |= {m: mx.array(state[f"{m}.{name}"]) for m in ("m", "v")}
        self._adam.state["step"] = mx.array(state["step"])


class _InMemory:
    """Adam in NumPy, in the memory where MLX on a CPU holds the parameters: nobody else keeps those arrays."""

    def __init__(self, params: dict[str, mx.array]):
        self._adam = HostAdam({name: np.asarray(array) for name, array in params.items()}, _BETAS, _EPS)

    def updated(
        self, params: dict[str, mx.array], grads: dict[str, mx.array], lr: float
    ) -> dict[str, mx.array]:
        """The very parameters, after one step."""
        own = {name: np.asarray(array) for name, array in params.items()}
        self._adam.update(own, {name: np.asarray(grads[name]) for name in own}, lr, unit_rows=("W_dec",))
        for name, low in _LOWEST.items():
            if name in own:
                np.maximum(own[name], np.float32(low), out=own[name])
        return params

    def state(self) -> dict[str, Any]:
        """Moments and steps, by name."""
        moments = self._adam.moments.items()
        named = {f"{m}.{name}": array for name, both in moments for m, array in zip("mv", both, strict=True)}
        return {**named, "step": np.array(self._adam.step, dtype=np.uint64)}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes on from what `state` gave."""
        names = list(self._adam.moments)
        self._adam.moments = {name: (state[f"m.{name}"].copy(), state[f"v.{name}"].copy()) for name in names}
        self._adam.step = int(state["step"])


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
