"""Where PyTorch computes."""

from __future__ import annotations

import torch

from ...errors import BackendError
from ..host.memory import free_bytes


def best_device() -> str:
    """CUDA where there is one, else an Apple GPU, else the CPU."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def find_device(name: str | None) -> torch.device:
    """The device of that name, `best_device()` for None; BackendError where it cannot be used."""
    try:
        device = torch.device(name or best_device())
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise BackendError(
            f"PyTorch cannot use the device {name!r} here: {error}. device=None takes {best_device()!r}."
        ) from error
    return device


def free_on(device: torch.device | None) -> int:
    """Bytes that are free on a device."""
    if device is not None and device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_bytes()
