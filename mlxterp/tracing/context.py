"""The traces that the current code runs inside of, and what they are told about the arrays they gave out."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

from ..anatomy.anatomy import Anatomy
from ..core.sites import Array, Component, SiteEdit
from ..errors import TraceError
from .arrays import Operation, frozen, own_key, own_value, without_masks
from .ledger import HandedOut, Ledger


class OpenTrace(Protocol):
    """A trace whose block is open."""

    anatomy: Anatomy
    _ledger: Ledger

    @property
    def _declared(self) -> Sequence[SiteEdit]: ...
    def read(self, name: str | Component) -> Any: ...
    def assign(self, name: str | Component, value: Any) -> None: ...
    def save(self, value: Any, name: str | None = None) -> Any: ...
    def take(self, edits: Sequence[SiteEdit]) -> None: ...


OPEN: ContextVar[tuple[OpenTrace, ...]] = ContextVar("mlxterp_open_traces", default=())
"""From the outermost to the innermost."""


def innermost_trace(anatomy: Anatomy) -> OpenTrace:
    """The trace of this model that the current code runs inside of.

    Raises:
        TraceError: There is none.
    """
    for trace in reversed(OPEN.get()):
        if trace.anatomy.origin is anatomy.origin:
            return trace
    raise _OutsideTrace(
        "Values of components exist only inside a trace: use `with model.trace(inputs) as t:` and read"
        " or assign them there. After it, t.activations[path] answers."
    )


class _OutsideTrace(TraceError, AttributeError):
    """To tab completion a value that cannot be had is no attribute."""


class _Found(NamedTuple):
    """An array that an open trace handed out."""

    trace: OpenTrace
    ledger: Ledger
    given: HandedOut


class OpenTraces:
    """The `Listener` that tells the open traces of this context what happens to the arrays they handed out."""

    @staticmethod
    def _find(array: Array) -> _Found | None:
        for trace in reversed(OPEN.get()):
            ledger = trace._ledger
            if (given := ledger.find(array)) is not None:
                return _Found(trace, ledger, given)
        return None

    def indexed(self, array: Array, key: Any) -> None:
        if (found := self._find(array)) is not None:
            found.ledger.check_index(found.given, key)

    def assign(self, array: Array, value: Any) -> None:
        found = self._find(array)
        if found is None or found.given.parent is not None:
            raise TraceError(
                "Only the value of a component can be assigned to, as model.layers[3].mlp.output = x."
            )
        found.trace.assign(found.given.component, value)

    def item_taken(self, array: Array, key: Any, item: Array) -> None:
        if (found := self._find(array)) is not None:
            found.ledger.note_item(found.given, key, item)

    def frozen(self, value: Any) -> Any:
        traces = OPEN.get()
        return frozen(value, traces[-1]._ledger.backend) if traces else value

    def own_key(self, array: Array, key: Any) -> Any:
        found = self._find(array)
        if found is None:
            return key
        key = own_key(key, array, found.ledger.backend)
        found.ledger.check_index(found.given, key)
        return without_masks(key, array, found.ledger.backend)

    def own_value(self, array: Array, value: Any) -> Any:
        found = self._find(array)
        return value if found is None else own_value(value, array, found.ledger.backend)

    def changed(self, array: Array, operation: Operation) -> None:
        if (found := self._find(array)) is not None:
            found.ledger.note_operation(found.given, operation)

    def noticed(self, array: Any) -> bool:
        """Whether all changes in place of a value about to be written were noticed."""
        found = self._find(array)
        return found is not None and found.given.untouched()

    def item_written(self, array: Array, key: Any, value: Any, noticed: bool) -> None:
        if (found := self._find(array)) is not None:
            found.ledger.write_item(found.given, key, value, noticed)

    def save(self, array: Array, name: str | None = None) -> Array:
        traces = OPEN.get()
        if not traces:
            raise TraceError(".save() keeps an array beyond a trace, and no trace is open here.")
        found = self._find(array)
        return (found.trace if found else traces[-1]).save(array, name)
