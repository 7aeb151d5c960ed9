"""Attributes of a library that are replaced while somebody needs it, by functions that let other threads through.

Each wing has one `Patches`. Several users may replace the same attribute at the same time, and leave in any order: the
chain of replacements is built anew each time, so nobody restores what another still needs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Make = Callable[[Callable[..., Any]], Callable[..., Any]]
"""The function that was there → the one that takes its place."""


@dataclass(frozen=True, slots=True)
class Patch:
    """One attribute and what takes its place.

    Attributes:
        holder: A module or a class.
        name: Of its attribute.
        make: Makes the replacement. The same object is the same replacement: it is put in once, however many ask.
    """

    holder: Any
    name: str
    make: Make


@dataclass(slots=True)
class _Replaced:
    holder: Any
    name: str
    original: Callable[..., Any]
    users: dict[Make, int] = field(default_factory=dict)
    """Replacement → how many need it, in the order in which they came."""

    def put(self) -> None:
        found = self.original
        for make in self.users:
            found = make(found)
        setattr(self.holder, self.name, found)


class Patches:
    """The replaced attributes of one library."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._replaced: dict[tuple[int, str], _Replaced] = {}

    def original(self, holder: Any, name: str) -> Callable[..., Any]:
        """The library's own function, also while it is replaced."""
        found = self._replaced.get((id(holder), name))
        return getattr(holder, name) if found is None else found.original

    @contextmanager
    def replaced(self, patches: Sequence[Patch]) -> Iterator[None]:
        """Within this block the attributes are replaced."""
        with self._lock:
            for patch in patches:
                self._take(patch)
        try:
            yield
        finally:
            with self._lock:
                for patch in reversed(patches):
                    self._leave(patch)

    def _take(self, patch: Patch) -> None:
        key = id(patch.holder), patch.name
        entry = self._replaced.get(key)
        if entry is None:
            entry = _Replaced(patch.holder, patch.name, getattr(patch.holder, patch.name))
            self._replaced[key] = entry
        entry.users[patch.make] = entry.users.get(patch.make, 0) + 1
        if entry.users[patch.make] == 1:
            entry.put()

    def _leave(self, patch: Patch) -> None:
        entry = self._replaced[id(patch.holder), patch.name]
        entry.users[patch.make] -= 1
        if entry.users[patch.make] == 0:
            del entry.users[patch.make]
            entry.put()
        if not entry.users:
            del self._replaced[id(patch.holder), patch.name]
