"""Hooking the modules of a PyTorch model, by their class.

While a pass is hooked, each hooked module's `__class__` is a cached dynamic subclass whose
`__call__` reports to the `Tracer` of the current context (a ContextVar: other threads are not
seen and not touched). The module stays the same object of a class that passes every isinstance
check, and gets its own class back afterwards. A swap is counted, so passes nest and overlap.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import nn

from .intercept import Tracer
from .modes import uncompiled

_active: ContextVar[Tracer | None] = ContextVar("mlxterp_torch_tracer", default=None)
_lock = threading.RLock()
_swapped: dict[int, list[Any]] = {}  # id(module) -> [module, its own class, passes that hook it]
_traced_classes: dict[type, type] = {}


def current_tracer() -> Tracer | None:
    """The tracer of the pass that runs in this context."""
    return _active.get()


@contextmanager
def hooked(tracer: Tracer) -> Iterator[None]:
    """Within this block `tracer` sees the calls of its modules that this thread makes."""
    _swap_in(tracer.modules)
    token = _active.set(tracer)
    try:
        with uncompiled(tracer.tree):
            yield
    finally:
        _active.reset(token)
        _swap_out(tracer.modules)


def own_class(module: nn.Module) -> type:
    """The module's class, also while it is swapped."""
    entry = _swapped.get(id(module))
    return type(module) if entry is None else entry[1]


@contextmanager
def unobserved() -> Iterator[None]:
    """Within this block no tracer sees anything: a plain pass may be run from inside an edit."""
    token = _active.set(None)
    try:
        yield
    finally:
        _active.reset(token)


# -- swapping classes -------------------------------------------------------------------------


def _traced_class(cls: type) -> type:
    traced = _traced_classes.get(cls)
    if traced is None:

        def __call__(self, *args, **kwargs):
            tracer = _active.get()
            original = cls.__call__  # looked up each time: it may have been replaced since
            if tracer is None:
                return original(self, *args, **kwargs)
            return tracer.call(self, original, args, kwargs)

        names = {"__call__": __call__, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
        traced = _traced_classes[cls] = type(cls.__name__, (cls,), names)
    return traced


def _swap_in(modules: Sequence[nn.Module]) -> None:
    with _lock:
        for i, module in enumerate(modules):
            entry = _swapped.get(id(module))
            if entry is not None:
                entry[2] += 1
                continue
            own = type(module)
            try:
                object.__setattr__(module, "__class__", _traced_class(own))
            except TypeError:  # a class that cannot be derived from
                _swap_out(modules[:i])
                raise
            _swapped[id(module)] = [module, own, 1]


def _swap_out(modules: Sequence[nn.Module]) -> None:
    with _lock:
        for module in modules:
            entry = _swapped[id(module)]
            entry[2] -= 1
            if entry[2] == 0:
                object.__setattr__(module, "__class__", entry[1])
                del _swapped[id(module)]
