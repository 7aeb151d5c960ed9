"""What an MLX model computes with, as digests (see `backends.host.state`)."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..host.state import StateDigest, StateHash, Unreadable, WeightsDigest, WeightsHash
from .swap import own_class
from .tree import ModuleTree


def state_digest(model: nn.Module) -> StateDigest | None:
    """Digests every array and setting of every module; None where one cannot be read."""
    found = StateHash(_array, lambda value: isinstance(value, nn.Module))
    try:
        for path, node in ModuleTree(model).by_path.items():
            found.add_class(path, own_class(node.module), nn.Module)
            for key, value in node.module.items():
                if _holds_values(value):
                    found.add(f"{path}.{key}", value)
            found.attributes(path, vars(node.module))
    except (Unreadable, RuntimeError):  # a dict that another thread changes meanwhile
        return None
    return found.finish()


def weights_digest(model: nn.Module) -> WeightsDigest | None:
    """Digests what `model.parameters()` holds."""
    found = WeightsHash("mlx")
    flat: Any = tree_flatten(model.parameters())
    for name, value in sorted(flat, key=lambda item: item[0]):
        read = _array(value)
        if read is not None:
            found.add(name, value.shape, *read)
    return found.finish()


def _holds_values(value: Any) -> bool:
    """Whether something other than modules is in it: those are in the tree."""
    if isinstance(value, nn.Module):
        return False
    if isinstance(value, (list, tuple, dict)):
        items = value.values() if isinstance(value, dict) else value
        return any(_holds_values(item) for item in items) or not value
    return True


def _array(value: Any) -> tuple[str, np.ndarray] | None:
    if not isinstance(value, mx.array):
        return None
    kind = str(value.dtype)
    return kind, np.asarray(value.view(mx.uint16) if value.dtype == mx.bfloat16 else value)
