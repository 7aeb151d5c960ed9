"""Hooking the modules of an MLX model, by their class (see `backends.host.swap`)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

from ..host.swap import ClassSwap
from .intercept import Tracer
from .tree import ModuleTree

_SWAP: ClassSwap[Tracer] = ClassSwap("mlxterp_tracer")
current_tracer, own_class, unobserved = _SWAP.tracer, _SWAP.own_class, _SWAP.unobserved


@contextmanager
def hooked(tracer: Tracer) -> Iterator[None]:
    """Within this block `tracer` sees the calls of its modules that this thread makes."""
    with _SWAP.hooked(tracer, tracer.modules), uncompiled(tracer.tree):
        yield


@contextmanager
def uncompiled(tree: ModuleTree) -> Iterator[None]:
    """Runs compiled functions that belong to modules as plain Python, so that their modules are seen.

    `mx.disable_compile` is process-wide and can change the rounding of fused elementwise code, so
    it is used only for models that hold such a function.
    """
    if not tree.has_compiled:
        yield
        return
    with eager():
        yield


_lock = threading.RLock()
_eager_users = 0


@contextmanager
def eager() -> Iterator[None]:
    """Within this block compiled functions run as plain Python, in all threads; the last to leave ends that."""
    global _eager_users
    with _lock:
        if _eager_users == 0:
            mx.disable_compile()
        _eager_users += 1
    try:
        yield
    finally:
        with _lock:
            _eager_users -= 1
            if _eager_users == 0:
                mx.enable_compile()
