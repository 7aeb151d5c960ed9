"""Hooking the modules of a model, of either library, by their class.

While a pass is hooked, each hooked module's `__class__` is a cached dynamic subclass whose
`__call__` reports to the tracer of the current context (a ContextVar: other threads are not
seen and not touched). The module stays the same object of a class that passes every isinstance
check, and gets its own class back afterwards. A swap is counted, so passes nest and overlap.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, Protocol, TypeVar


class SeesCalls(Protocol):
    """What modules report to while a pass is hooked."""

    def call(self, module: Any, original: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """The module's output, or what takes its place."""
        ...


T = TypeVar("T", bound=SeesCalls)


class ClassSwap(Generic[T]):
    """Swaps the classes of one library's modules; each wing has one.

    Args:
        name: Of the variable that holds the tracer of the current context.
    """

    def __init__(self, name: str):
        self._active: ContextVar[T | None] = ContextVar(name, default=None)
        self._lock = threading.RLock()
        self._swapped: dict[int, list[Any]] = {}
        """id(module) → [module, its own class, passes that hook it]."""
        self._traced: dict[type, type] = {}

    def tracer(self) -> T | None:
        """The tracer of the pass that runs in this context."""
        return self._active.get()

    def own_class(self, module: Any) -> type:
        """The module's class, also while it is swapped."""
        entry = self._swapped.get(id(module))
        return type(module) if entry is None else entry[1]

    @contextmanager
    def hooked(self, tracer: T, modules: Sequence[Any]) -> Iterator[None]:
        """Within this block `tracer` sees the calls of these modules that this thread makes.

        Raises:
            TypeError: A module's class cannot be derived from; no module is swapped then.
        """
        self._swap_in(modules)
        token = self._active.set(tracer)
        try:
            yield
        finally:
            self._active.reset(token)
            self._swap_out(modules)

    @contextmanager
    def unobserved(self) -> Iterator[None]:
        """Within this block the model runs plainly, also where a function of a hooked pass calls it."""
        token = self._active.set(None)
        try:
            yield
        finally:
            self._active.reset(token)

    def _traced_class(self, cls: type) -> type:
        traced = self._traced.get(cls)
        if traced is None:
            active = self._active

            def __call__(self, *args, **kwargs):
                tracer = active.get()
                original = cls.__call__  # looked up each time: it may have been replaced since
                if tracer is None:
                    return original(self, *args, **kwargs)
                return tracer.call(self, original, args, kwargs)

            names = {"__call__": __call__, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
            traced = self._traced[cls] = type(cls.__name__, (cls,), names)
        return traced

    def _swap_in(self, modules: Sequence[Any]) -> None:
        with self._lock:
            for i, module in enumerate(modules):
                entry = self._swapped.get(id(module))
                if entry is not None:
                    entry[2] += 1
                    continue
                own = type(module)
                try:
                    object.__setattr__(module, "__class__", self._traced_class(own))
                except TypeError:  # a class that cannot be derived from
                    self._swap_out(modules[:i])
                    raise
                self._swapped[id(module)] = [module, own, 1]

    def _swap_out(self, modules: Sequence[Any]) -> None:
        with self._lock:
            for module in modules:
                entry = self._swapped[id(module)]
                entry[2] -= 1
                if entry[2] == 0:
                    object.__setattr__(module, "__class__", entry[1])
                    del self._swapped[id(module)]
