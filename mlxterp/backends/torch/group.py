"""Processes that train one SAE together, by `torch.distributed`."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist


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
