"""Features that edits read, as constants of a backward pass.

Choosing the k largest is no smooth function, and a backend may have to compute it outside of its graph. Before
gradients are taken the pass is run once while `remembering`; in the pass that is differentiated, `recalling`, edits
get the same values again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from ..core.sites import Array


@dataclass(eq=False, slots=True)
class Memory:
    """What edits computed from an SAE in one pass, in order."""

    values: list[Array] = field(default_factory=list)
    next: int | None = None
    """Number of the value that is recalled next; None while they are remembered."""


_MEMORY: ContextVar[Memory | None] = ContextVar("mlxterp_steering_constants", default=None)


def constant(compute: Callable[[], Array]) -> Array:
    """What `compute` gives, or gave in the pass that was remembered."""
    memory = _MEMORY.get()
    if memory is None:
        return compute()
    if memory.next is None:
        memory.values.append(compute())
        return memory.values[-1]
    memory.next += 1
    return memory.values[memory.next - 1]


@contextmanager
def remembering() -> Iterator[Memory]:
    """Within this block what edits compute is kept."""
    memory = Memory()
    token = _MEMORY.set(memory)
    try:
        yield memory
    finally:
        _MEMORY.reset(token)


@contextmanager
def recalling(memory: Memory) -> Iterator[None]:
    """Within this block edits get what was kept, from the first on."""
    token = _MEMORY.set(Memory(memory.values, 0))
    try:
        yield
    finally:
        _MEMORY.reset(token)
