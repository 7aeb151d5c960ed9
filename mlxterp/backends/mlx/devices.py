"""Where MLX computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx


def best_device() -> str:
    """The default device: "metal", "cuda" or "cpu"."""
    if mx.default_device().type != mx.DeviceType.gpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


@contextmanager
def on_cpu() -> Iterator[None]:
    """The CPU is the default device within the block."""
    before = mx.default_device()
    mx.set_default_device(mx.Device(mx.cpu))
    try:
        yield
    finally:
        mx.set_default_device(before)
