"""`Ledger`: what one trace gave out, and the edits that were made of it.

A `Trace` keeps one. Of each array that the user holds it knows which component's value it is, whether it still is, and
what was done to it in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..backends.base import Backend
from ..backends.host.item_access import read_index
from ..core.array_keys import check_key
from ..core.sites import Array, Change, Component, Run, SiteEdit, Where
from ..core.tokens import TokenBatch
from ..errors import warn
from .arrays import Operation, frozen, own_whole


@dataclass(eq=False, slots=True)
class HandedOut:
    """An array that a trace gave to the user, or an item of one."""

    array: Array
    component: Component
    key: Any = None
    parent: HandedOut | None = None
    edits: int = 0
    """How many edits the trace had when the array held the component's value."""
    operations: list[Operation] = field(default_factory=list)
    """In-place operations made on it since."""
    version: int = 0
    """What torch counts for changes in place, after the last one that was noticed; 0 in MLX."""

    def untouched(self) -> bool:
        """Whether all changes in place were noticed."""
        return _version(self.array) == self.version

    def take_operations(self) -> tuple[Operation, ...]:
        """The operations so far, which are forgotten here."""
        done = tuple(self.operations)
        self.operations.clear()
        return done


class Ledger:
    """Arrays that a trace handed out, and its edits in the order in which they were made."""

    def __init__(self, backend: Backend, batch: TokenBatch, edits: Sequence[SiteEdit] = ()):
        self.backend = backend
        self.edits: list[SiteEdit] = list(edits)
        self._batch = batch
        self._given: dict[int, HandedOut] = {}

    def hand_out(self, array: Array, component: Component) -> Array:
        """The array as another object, which is from now on known as the component's value."""
        alias = self.backend.alias(array)
        self._given[id(alias)] = HandedOut(alias, component, edits=len(self.edits), version=_version(alias))
        return alias

    def find(self, array: Any) -> HandedOut | None:
        """What is known of an array; None where this trace did not give it."""
        return self._given.get(id(array))

    def check_index(self, given: HandedOut, key: Any) -> None:
        """Refuses an index outside an axis, and warns where one falls on padding.

        Raises:
            InputError: A position, head or text that is not there.
        """
        _check_index(key, self._batch, given)

    def note_item(self, given: HandedOut, key: Any, item: Array) -> None:
        """Notes an item of a component's value, or an item of such an item."""
        if item is not given.array:
            self._given[id(item)] = HandedOut(item, given.component, key, given, version=_version(item))

    def note_operation(self, given: HandedOut, operation: Operation) -> None:
        """Notes an operation that was made in place."""
        given.operations.append(operation)
        given.version = _version(given.array)

    def assign(self, component: Component, value: Any, current: Array) -> None:
        """Records that `value` takes the place of the component's `current` value.

        Raises:
            EditError: Another shape, or not floating-point numbers.
        """
        given = self.find(value)
        if given is None or given.component.name != component.name or not self._is_live(given):
            new = own_whole(value, current, component.name, self.backend)
            self.record(component, lambda _x, _where, _run: new)
            return
        operations = given.take_operations()
        if operations:  # `….output *= 2`: an operation, not a value
            self.record(component, lambda x, _where, _run: _applied(operations, x, self.backend))
        given.edits = len(self.edits)

    def _is_live(self, given: HandedOut) -> bool:
        """Whether an array is still the component's value, but for the operations that were noticed on it."""
        return given.parent is None and given.edits == len(self.edits) and given.untouched()

    def write_item(self, given: HandedOut, key: Any, value: Any, noticed: bool) -> None:
        """Records `component[key] = value`; the rest of the component's value stays live.

        Args:
            noticed: Whether all changes in place of `value` were noticed.
        """
        given.version = _version(given.array)
        if given.parent is not None:
            warn(
                f"Writing into a part of {given.component.name} that was indexed before changes only"
                " that part, not the model. Use one index: ….output[0, -1] = value."
            )
            return
        backend, item = self.backend, self.find(value)
        current = given.edits == len(self.edits) and not given.operations
        live = current and item is not None and item.parent is given and noticed and _same_key(item.key, key)
        operations = item.take_operations() if live and item is not None else ()
        key, stored = frozen(key, backend), None if operations else frozen(value, backend)

        def change(x: Array, _where: Where, _run: Run) -> Array:
            copy = backend.alias(x)
            copy[key] = _applied(operations, copy[key], backend) if operations else stored
            return copy

        self.record(given.component, change)
        if current:  # what was written is now the component's value
            given.edits = len(self.edits)

    def record(self, component: Component, change: Change) -> None:
        """Adds an edit of a component's value."""
        self.edits += component.edits(change, component.call)

    def unseen(self) -> Iterator[Component]:
        """Components whose values were changed in place by a method that nobody noticed."""
        return (
            given.component
            for given in self._given.values()
            if given.parent is None and not given.untouched()
        )

    def clear(self) -> None:
        """Forgets the arrays; the edits stay."""
        self._given.clear()


def _version(array: Array) -> int:
    return getattr(array, "_version", 0)


def _applied(operations: Sequence[Operation], value: Array, backend: Backend) -> Array:
    """In-place operations, made on another value."""
    for function, operand in operations:
        value = backend.cast(function(value, operand), value)
    return value


def _same_key(a: Any, b: Any) -> bool:
    """Whether two index expressions are plainly the same (one that holds arrays never is)."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same_key, a, b))
    simple = (int, slice, type(None), type(...))
    return isinstance(a, simple) and isinstance(b, simple) and a == b


def _check_index(key: Any, batch: TokenBatch, given: HandedOut) -> None:
    """See `Ledger.check_index`; MLX itself does not check."""
    shape, part = tuple(given.array.shape), given.parent is not None
    what = f"a part of {given.component.name}" if part else given.component.name
    check_key(key, shape, what, read_index)
    keys = key if isinstance(key, tuple) else (key,)
    if part or any(k is None or k is ... for k in keys):
        return
    axis = 2 if len(shape) == 4 else 1
    if len(keys) > axis and type(keys[axis]) is int and shape[axis] == batch.ids.shape[1]:
        index = keys[axis]
        if (index % shape[axis] >= batch.lengths).any():
            warn(
                f"Position {index} of {given.component.name} is padding for the shorter of these texts, whose"
                f" lengths are {batch.lengths.tolist()}. t.last indexes each text's last token;"
                " interventions take positions=-1 for each text's own end."
            )
