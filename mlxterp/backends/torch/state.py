"""What a PyTorch model computes with, as digests (see `backends.host.state`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from ..host.state import StateDigest, StateHash, Unreadable, WeightsDigest, WeightsHash
from .swap import own_class
from .tree import ModuleTree


def state_digest(model: nn.Module) -> StateDigest | None:
    """Digests every tensor, setting and hook of every module; None where one cannot be read."""
    found = StateHash(_array, lambda value: isinstance(value, nn.Module))
    try:
        for path, node in ModuleTree(model).by_path.items():
            found.add_class(path, own_class(node.module), nn.Module)
            found.attributes(path, {k: v for k, v in vars(node.module).items() if k != "_modules"})
    except (Unreadable, RuntimeError):  # RuntimeError: what cannot be copied, or changes meanwhile
        return None
    return found.finish()


def weights_digest(model: nn.Module) -> WeightsDigest | None:
    """Digests the parameters and buffers of the model's state; None where one cannot be read."""
    found = WeightsHash("torch")
    try:
        for name, value in sorted(model.state_dict(keep_vars=True).items()):
            read = _array(value)
            if read is not None:
                found.add(name, tuple(value.shape), *read)
    except (Unreadable, RuntimeError):
        return None
    return found.finish()


def _array(value: Any) -> tuple[str, np.ndarray] | None:
    if isinstance(value, torch.ScriptObject):
        raise Unreadable(f"{type(value).__name__} holds what only torch can read")
    if not isinstance(value, torch.Tensor):
        return None
    plain = type(value) in (torch.Tensor, nn.Parameter, nn.Buffer)
    if not plain or value.device.type == "meta" or value.layout != torch.strided or value.is_quantized:
        raise Unreadable(f"{type(value).__name__} on {value.device}")
    data = value.detach().cpu().contiguous()
    return f"{value.dtype} {value.device}", data.reshape(-1).view(torch.uint8).numpy()
