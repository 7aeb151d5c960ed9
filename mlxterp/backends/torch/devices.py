"""Where PyTorch computes."""

from __future__ import annotations

import torch

from ...errors import BackendError


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
