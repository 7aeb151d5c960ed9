"""Hooking the modules of a PyTorch model, by their class (see `backends.host.swap`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..host.swap import ClassSwap
from .intercept import Tracer
from .modes import uncompiled

_SWAP: ClassSwap[Tracer] = ClassSwap("mlxterp_torch_tracer")
current_tracer, own_class, unobserved = _SWAP.tracer, _SWAP.own_class, _SWAP.unobserved


@contextmanager
def hooked(tracer: Tracer) -> Iterator[None]:
    """Within this block `tracer` sees the calls of its modules that this thread makes."""
    with _SWAP.hooked(tracer, tracer.modules), uncompiled(tracer.tree):
        yield
