"""Adam on the weights of an SAE in PyTorch, decoder rows kept at unit norm; processes that train together."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.distributed as dist

from ...weights import NAMES, SAEWeights
from .devices import find_device


class TorchOptimizer:
    """`Optimizer` for PyTorch. The encoder lies feature by feature, as gradients of few features touch it."""

    def __init__(self, weights: SAEWeights, device: str | None = None):
        where = find_device(device)
        self._subtract_b_dec = weights.subtract_b_dec
        arrays = {**weights.arrays(), "W_enc": weights.W_enc.T}
        self._params = {
            name: torch.nn.Parameter(torch.tensor(np.ascontiguousarray(array), device=where))
            for name, array in arrays.items()
        }
        self._adam = torch.optim.Adam(
            list(self._params.values()), lr=0.0, betas=(0.9, 0.999), eps=1e-8, fused=where.type != "mps"
        )

    @property
    def weights(self) -> SAEWeights:
        data = {name: param.data for name, param in self._params.items()}
        extra = {name: value for name, value in data.items() if name not in NAMES}
        return SAEWeights(
            data["W_enc"].T, data["b_enc"], data["W_dec"], data["b_dec"], self._subtract_b_dec, extra
        )

    @torch.no_grad()
    def update(self, gradients: SAEWeights, lr: float) -> None:
        grads = {**gradients.arrays(), "W_enc": gradients.W_enc.T}
        rows, g = self._params["W_dec"].data, grads["W_dec"]
        g -= (g * rows).sum(-1, keepdim=True) * rows  # growth is undone below anyway
        for name, param in self._params.items():
            param.grad = grads[name].contiguous()  # fused Adam takes other strides for its own
        for group in self._adam.param_groups:
            group["lr"] = lr
        self._adam.step()
        rows /= rows.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        if "threshold" in self._params:
            self._params["threshold"].data.clamp_(min=0)
        if "gate_scale" in self._params:
            self._params["gate_scale"].data.clamp_(min=1e-3)

    def state(self) -> dict[str, np.ndarray]:
        state: dict[str, np.ndarray] = {}
        for name, param in self._params.items():
            adam = self._adam.state.get(param) or _fresh(param)
            state[f"param.{name}"] = _array(param)
            state |= {f"m.{name}": _array(adam["exp_avg"]), f"v.{name}": _array(adam["exp_avg_sq"])}
            state["step"] = _array(adam["step"])
        return state

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        for name, param in self._params.items():
            param.data.copy_(torch.tensor(state[f"param.{name}"]))
            self._adam.state[param] = {
                "step": torch.tensor(state["step"], dtype=torch.float32, device=param.device),
                "exp_avg": torch.tensor(state[f"m.{name}"], device=param.device),
                "exp_avg_sq": torch.tensor(state[f"v.{name}"], device=param.device),
            }


def _fresh(param: torch.Tensor) -> dict[str, torch.Tensor]:
    """What Adam starts from."""
    zero = torch.zeros_like(param.data)
    return {"step": torch.zeros(()), "exp_avg": zero, "exp_avg_sq": zero}


def _array(tensor: torch.Tensor) -> np.ndarray:
    return np.array(tensor.detach().cpu().numpy())


class TorchGroup:
    """`Group` for PyTorch."""

    def __init__(self) -> None:
        launched = int(os.environ.get("WORLD_SIZE", "1")) > 1  # as torchrun sets it
        if launched and dist.is_available() and not dist.is_initialized():
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.size = dist.get_world_size() if together else 1

    def sum(self, arrays: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if self.size == 1:
            return list(arrays)
        where = "cuda" if dist.get_backend() == "nccl" else "cpu"
        summed = []
        for array in arrays:
            total = array.to(where, copy=True).contiguous()
            dist.all_reduce(total)
            summed.append(total.to(array.device))
        return summed


def group() -> TorchGroup:
    """The group of this process; alone where it was not launched as one of several."""
    return TorchGroup()
