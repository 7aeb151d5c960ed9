"""What native arrays can do more while a trace is open.

`array.save()` keeps a value, and changing an array that a trace handed out is an edit of its component:
`….output = x`, `….output[:, -1] = x`, `….output *= 2`, `….output[:, -1] += v`. The last two are recorded
as operations, not as values, so they stay true when an earlier component is edited afterwards. Neither
library lets one array object carry such behaviour: the array class gets it, and loses it with the last trace.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..backends import backend_of
from ..backends.base import Backend
from ..backends.host.conversion import is_native, to_native
from ..core.integers import as_integer, scalar
from ..core.sites import Array, Component
from ..core.tokens import TokenBatch
from ..errors import EditError, InputError, MlxterpError, warn

_IN_PLACE: dict[str, Callable[[Any, Any], Any]] = {
    "__iadd__": operator.add,
    "__isub__": operator.sub,
    "__imul__": operator.mul,
    "__itruediv__": operator.truediv,
    "__ipow__": operator.pow,
    "__imatmul__": operator.matmul,
    "__ifloordiv__": operator.floordiv,
    "__imod__": operator.mod,
}

Operation = tuple[Callable[[Any, Any], Any], Any]


class Listener(Protocol):
    """Who is told what happens to arrays."""

    def indexed(self, array: Array, key: Any) -> None: ...
    def item_taken(self, array: Array, key: Any, item: Array) -> None: ...
    def frozen(self, value: Any) -> Any: ...
    def changed(self, array: Array, operation: Operation) -> None: ...
    def noticed(self, array: Any) -> bool: ...
    def own_key(self, array: Array, key: Any) -> Any: ...
    def own_value(self, array: Array, value: Any) -> Any: ...
    def item_written(self, array: Array, key: Any, value: Any, noticed: bool) -> None: ...
    def save(self, array: Array, name: str | None = None) -> Array: ...
    def assign(self, array: Array, value: Any) -> None: ...


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
        return getattr(self.array, "_version", 0) == self.version

    def take(self) -> tuple[Operation, ...]:
        """Hands over the operations so far, which count as done from now on."""
        done = tuple(self.operations)
        self.operations.clear()
        return done


def frozen(value: Any, backend: Backend) -> Any:
    """A value or index of the user's, safe from what they do with it later."""
    if isinstance(value, backend.array_type):
        return backend.alias(value)
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, (list, tuple)):
        return type(value)(frozen(x, backend) for x in value)
    return value


def own_key(key: Any, like: Array, backend: Backend) -> Any:
    """An index as the library takes it: whole numbers and arrays of them may be of NumPy or of another library."""
    if isinstance(key, tuple):
        return tuple(own_key(part, like, backend) for part in key)
    if isinstance(key, slice):
        parts = (key.start, key.stop, key.step)
        return slice(*(part if (found := as_integer(part)) is None else found for part in parts))
    if isinstance(key, backend.array_type) or key is None or key is ... or isinstance(key, bool):
        return key
    if (found := as_integer(key)) is not None:
        return found
    if isinstance(key, (list, np.ndarray)) or is_native(key):
        array = np.asarray(backend_of(key).get(key) if is_native(key) else key)
        if array.dtype.kind in "iub" and array.size:
            return backend.put_beside(array, like)
    return key


def own_value(value: Any, like: Array, backend: Backend) -> Any:
    """A value that is written into an activation, as the library takes it.

    Raises:
        EditError: It is no number and no array of numbers.
    """
    value = scalar(value) if not isinstance(value, backend.array_type) else value
    if isinstance(value, (backend.array_type, int, float)):
        return value
    return to_native(value, like, "What is written into an activation", EditError)


def applied(operations: Sequence[Operation], value: Array, backend: Backend) -> Array:
    """In-place operations, made on another value."""
    for function, operand in operations:
        value = backend.cast(function(value, operand), value)
    return value


def same_key(a: Any, b: Any) -> bool:
    """Whether two index expressions are plainly the same (one that holds arrays never is)."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same_key, a, b))
    simple = (int, slice, type(None), type(...))
    return isinstance(a, simple) and isinstance(b, simple) and a == b


def check_index(key: Any, shape: Sequence[int], batch: TokenBatch, given: HandedOut) -> None:
    """Refuses integers outside an axis (MLX itself does not), and warns where one falls on padding.

    Raises:
        InputError: A position, head or text that is not there.
    """
    keys = key if isinstance(key, tuple) else (key,)
    if any(k is None or k is ... for k in keys) or len(keys) > len(shape):
        return
    for axis, (index, size) in enumerate(zip(keys, shape, strict=False)):
        if type(index) is not int:
            continue
        if not -size <= index < size:
            raise InputError(
                f"Index {index} is outside axis {axis} of {given.component.name}, which has {size} entries"
                f" (0 to {size - 1}, or -{size} to -1 from the end)."
            )
        on_positions = axis == (2 if len(shape) == 4 else 1) and size == batch.ids.shape[1]
        if on_positions and given.parent is None and (index % size >= batch.lengths).any():
            warn(
                f"Position {index} of {given.component.name} is padding for the shorter of these texts, whose"
                f" lengths are {batch.lengths.tolist()}. t.last indexes each text's last token;"
                " interventions take positions=-1 for each text's own end."
            )


_lock = threading.RLock()
_users: dict[type, int] = {}
_own: dict[type, dict[str, Any]] = {}
_missing = object()


@contextmanager
def array_methods(backend: Backend, listener: Listener) -> Iterator[None]:
    """Within this block arrays have `save`, and changes in place are reported after they are made."""
    cls: Any = backend.array_type
    with _lock:
        if _users.get(cls, 0) == 0:
            _install(cls, listener)
        _users[cls] = _users.get(cls, 0) + 1
    try:
        yield
    finally:
        with _lock:
            _users[cls] -= 1
            if _users[cls] == 0:
                _remove(cls)


def _install(cls: Any, listener: Listener) -> None:
    names = ("__getitem__", "__setitem__", *_IN_PLACE)
    _own[cls] = {name: vars(cls).get(name, _missing) for name in names}
    take, write = cls.__getitem__, cls.__setitem__

    def __getitem__(self: Any, key: Any) -> Any:
        key = listener.own_key(self, key)
        listener.indexed(self, key)
        item = take(self, key)
        listener.item_taken(self, key, item)
        return item

    def __setitem__(self: Any, key: Any, value: Any) -> None:
        key, value = listener.own_key(self, key), listener.own_value(self, value)
        listener.indexed(self, key)
        noticed = listener.noticed(value)  # before: a part of `self` counts its changes with it
        with _named(self, value):
            write(self, key, value)
        listener.item_written(self, key, value, noticed)

    cls.__getitem__, cls.__setitem__ = __getitem__, __setitem__
    for name, function in _IN_PLACE.items():
        if hasattr(cls, name):
            setattr(cls, name, _reporting(getattr(cls, name), function, listener))
    cls.save = lambda self, name=None: listener.save(self, name)
    # `.resid_post` is the value itself; `.resid_post.output`, by analogy with modules, is the same
    cls.output = property(lambda self: self, listener.assign)


def _reporting(original: Callable, function: Callable, listener: Listener) -> Callable:
    def in_place(self: Any, other: Any) -> Any:
        other = listener.own_value(self, other)
        operand = listener.frozen(other)  # before: it may be the array itself
        with _named(self, other):
            result = original(self, other)
        if result is self:
            listener.changed(self, (function, operand))
        return result

    return in_place


@contextmanager
def _named(array: Array, value: Any) -> Iterator[None]:
    """What a library says of a value that does not fit, said as ours.

    Raises:
        EditError: Its shape does not fit.
    """
    try:
        yield
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        if isinstance(error, MlxterpError):
            raise
        shape = tuple(getattr(value, "shape", ()))
        raise EditError(
            f"A value of shape {shape} does not fit into a part of an activation of shape {tuple(array.shape)}: {error}"
        ) from error


def _remove(cls: Any) -> None:
    del cls.save, cls.output
    for name, own in _own.pop(cls).items():
        if own is _missing:
            if name in vars(cls):
                delattr(cls, name)
        else:
            setattr(cls, name, own)
