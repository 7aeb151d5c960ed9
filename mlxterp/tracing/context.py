"""The traces that the current code runs inside of, and what they are told about the arrays they gave out."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ..anatomy.anatomy import Anatomy
from ..core.sites import Array
from ..errors import TraceError, warn
from .arrays import HandedOut, Operation, check_index, frozen, own_key, own_value

if TYPE_CHECKING:
    from .trace import Trace

OPEN: ContextVar[tuple[Trace, ...]] = ContextVar("mlxterpOPEN_traces", default=())


def innermost_trace(anatomy: Anatomy) -> Trace:
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


class Listener:
    """Tells the open traces of this context what happens to the arrays they handed out."""

    @staticmethod
    def _find(array: Array) -> tuple[Trace, HandedOut] | None:
        for trace in reversed(OPEN.get()):
            given = trace._given.get(id(array))
            if given is not None:
                return trace, given
        return None

    def indexed(self, array: Array, key: Any) -> None:
        found = self._find(array)
        if found is not None:
            check_index(key, array.shape, found[0]._batch, found[1])

    def assign(self, array: Array, value: Any) -> None:
        found = self._find(array)
        if found is None or found[1].parent is not None:
            raise TraceError(
                "Only the value of a component can be assigned to, as model.layers[3].mlp.output = x."
            )
        found[0].assign(found[1].component, value)

    def item_taken(self, array: Array, key: Any, item: Array) -> None:
        found = self._find(array)
        if found is not None and found[1].parent is None:
            trace, parent = found
            version = getattr(item, "_version", 0)
            trace._given[id(item)] = HandedOut(item, parent.component, key, parent, version=version)

    def frozen(self, value: Any) -> Any:
        traces = OPEN.get()
        return frozen(value, traces[-1]._backend) if traces else value

    def own_key(self, array: Array, key: Any) -> Any:
        found = self._find(array)
        return key if found is None else own_key(key, array, found[0]._backend)

    def own_value(self, array: Array, value: Any) -> Any:
        found = self._find(array)
        return value if found is None else own_value(value, array, found[0]._backend)

    def changed(self, array: Array, operation: Operation) -> None:
        found = self._find(array)
        if found is not None:
            found[1].operations.append(operation)
            found[1].version = getattr(array, "_version", 0)

    def noticed(self, array: Any) -> bool:
        """Whether all changes in place of a value about to be written were noticed."""
        found = self._find(array)
        return found is not None and found[1].untouched()

    def item_written(self, array: Array, key: Any, value: Any, noticed: bool) -> None:
        found = self._find(array)
        if found is None:
            return
        found[1].version = getattr(array, "_version", 0)
        if found[1].parent is None:
            found[0]._write_item(found[1], key, value, noticed)
        else:
            warn(
                f"Writing into a part of {found[1].component.name} that was indexed before changes only"
                " that part, not the model. Use one index: ….output[0, -1] = value."
            )

    def save(self, array: Array, name: str | None = None) -> Array:
        traces = OPEN.get()
        if not traces:
            raise TraceError(".save() keeps an array beyond a trace, and no trace is open here.")
        found = self._find(array)
        return (found[0] if found else traces[-1]).save(array, name)
