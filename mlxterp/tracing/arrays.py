"""What native arrays can do more while a trace is open.

`array.save()` keeps a value, and changing an array that a trace handed out is an edit of its component:
`….output = x`, `….output[:, -1] = x`, `….output *= 2`, `….output[:, -1] += v`. The last two are recorded
as operations, not as values, so they stay true when an earlier component is edited afterwards. Neither
library lets one array object carry such behaviour: the array class gets it, and loses it with the last trace.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from ..backends import backend_of
from ..backends.base import Backend
from ..backends.host.conversion import is_native, to_native, to_numpy
from ..backends.host.item_access import Take, Write, close_look, open_look, read_index
from ..core.integers import as_integer, is_number, scalar
from ..core.sites import Array
from ..errors import EditError, MlxterpError

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
    if isinstance(key, (list, range, np.ndarray)) or is_native(key):
        array = np.asarray(backend_of(key).get(key) if is_native(key) else key)
        if not array.size and isinstance(key, (list, range)):
            array = array.astype(np.int32)  # an empty list has no kind of its own
        if array.dtype.kind in "iub":
            return backend.put_beside(array, like)
    return key


def without_masks(key: Any, like: Array, backend: Backend) -> Any:
    """An index whose masks of one axis are the places where they hold: MLX reads by those only."""
    if isinstance(key, tuple):
        return tuple(without_masks(part, like, backend) for part in key)
    array = np.asarray(key) if isinstance(key, list) else read_index(key)
    if array is None or array.dtype.kind != "b" or array.ndim != 1:
        return key
    return backend.put_beside(np.flatnonzero(array), like)


def own_value(value: Any, like: Array, backend: Backend) -> Any:
    """A value that is written into an activation, as the library takes it.

    Raises:
        EditError: It is no number and no array of numbers.
    """
    value = scalar(value) if not isinstance(value, backend.array_type) else value
    if isinstance(value, (backend.array_type, int, float)):
        return value
    return to_native(value, like, "What is written into an activation", EditError)


def own_whole(value: Any, current: Array, name: str, backend: Backend) -> Array:
    """A value that takes the place of a component's: as the library takes it, of the same shape and dtype.

    Raises:
        EditError: Another shape, or not floating-point numbers.
    """
    given = scalar(value) if not isinstance(value, backend.array_type) else value
    if is_number(given):
        value = np.full(current.shape, given, np.float32)
    kind = str(getattr(value, "dtype", type(value).__name__))
    if isinstance(value, backend.array_type):
        ok = backend.is_floating(value)
    else:
        ok = (
            "int" not in kind
            and "bool" not in kind
            and not isinstance(value, (str, bytes))
            and value is not None
        )
        value = to_numpy(value, f"What is assigned to {name}", EditError) if ok else value
    if not ok:
        raise EditError(
            f"Cannot assign {kind} to {name}; expected floating-point numbers of shape"
            f" {tuple(current.shape)}, as an array or in lists."
        )
    if tuple(value.shape) != tuple(current.shape):
        raise EditError(
            f"Cannot assign shape {tuple(value.shape)} to {name}, whose shape is"
            f" {tuple(current.shape)}. To change part of it, or to broadcast, index: ….output[:] = value."
        )
    native = value if isinstance(value, backend.array_type) else backend.put(value, current)
    return backend.cast(backend.alias(native), current)


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


class _Listening:
    """Tells a listener of items that are read and written."""

    def __init__(self, listener: Listener):
        self._listener = listener

    def take(self, array: Array, key: Any, take: Take) -> Array:
        key = self._listener.own_key(array, key)
        item = take(array, key)
        self._listener.item_taken(array, key, item)
        return item

    def write(self, array: Array, key: Any, value: Any, write: Write) -> None:
        listener = self._listener
        key, value = listener.own_key(array, key), listener.own_value(array, value)
        noticed = listener.noticed(value)  # before: a part of `array` counts its changes with it
        with _named(array, value):
            write(array, key, value)
        listener.item_written(array, key, value, noticed)

    def point(self, array: Array, key: Any) -> None:
        self._listener.indexed(array, key)


_looks: dict[type, _Listening] = {}


def _install(cls: Any, listener: Listener) -> None:
    _own[cls] = {name: vars(cls).get(name, _missing) for name in _IN_PLACE}
    _looks[cls] = _Listening(listener)
    open_look(cls, _looks[cls])
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
    close_look(cls, _looks.pop(cls))
    for name, own in _own.pop(cls).items():
        if own is _missing:
            if name in vars(cls):
                delattr(cls, name)
        else:
            setattr(cls, name, own)
