"""Array operations in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..base import Backend


class TorchBackend:
    """`Backend` for `torch.Tensor`."""

    name = "torch"
    array_type = torch.Tensor

    def put(self, x: np.ndarray, like: torch.Tensor | None = None) -> torch.Tensor:
        tensor = torch.tensor(x)  # a copy: NumPy's memory is not shared
        return tensor if like is None else tensor.to(dtype=like.dtype, device=like.device)

    def get(self, x: torch.Tensor) -> np.ndarray:
        x = x.detach()
        if x.is_floating_point() and x.dtype not in (torch.float16, torch.float32, torch.float64):
            x = x.float()  # NumPy has no bfloat16 or float8
        return np.array(x.cpu().numpy())

    def alias(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()  # torch writes in place into shared memory, so only a copy is independent

    def compact(self, x: torch.Tensor) -> torch.Tensor:
        whole = x.untyped_storage().nbytes() == x.numel() * x.element_size()
        return x if whole and x.is_contiguous() else x.clone(memory_format=torch.contiguous_format)

    def evaluate(self, arrays: Sequence[torch.Tensor]) -> None:
        """Nothing to do: torch computes at once."""

    def is_floating(self, x: torch.Tensor) -> bool:
        return x.is_floating_point()

    def where(self, condition: np.ndarray, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.tensor(condition, device=x.device), x, y)

    def clip(self, x: torch.Tensor, low: float | None, high: float | None) -> torch.Tensor:
        return x if low is None and high is None else torch.clamp(x, low, high)


BACKEND: Backend = TorchBackend()
