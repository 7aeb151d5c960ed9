"""Two methods that native arrays have while a trace is open.

`array.save()` keeps a value, and writing into an array that a trace handed out
(`model.layers[5].mlp.output[:, -1] += v`) is an edit of the component. Neither library lets one
array object carry such behaviour, so the array class gets it, and loses it with the last trace.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .backends.base import Backend

_lock = threading.RLock()
_users: dict[type, int] = {}
_missing = object()


@contextmanager
def array_methods(
    backend: Backend,
    on_write: Callable[[Any, Any, Any], None],
    on_save: Callable[..., Any],
) -> Iterator[None]:
    """Within this block arrays have `save`, and item assignment is reported after it is done."""
    cls: Any = backend.array_type
    with _lock:
        if _users.get(cls, 0) == 0:
            _install(cls, on_write, on_save)
        _users[cls] = _users.get(cls, 0) + 1
    try:
        yield
    finally:
        with _lock:
            _users[cls] -= 1
            if _users[cls] == 0:
                _remove(cls)


_own: dict[type, Any] = {}


def _install(cls: Any, on_write: Callable[[Any, Any, Any], None], on_save: Callable[..., Any]) -> None:
    _own[cls] = vars(cls).get("__setitem__", _missing)
    original = cls.__setitem__

    def __setitem__(self: Any, key: Any, value: Any) -> None:
        original(self, key, value)
        on_write(self, key, value)

    cls.__setitem__ = __setitem__
    cls.save = on_save


def _remove(cls: Any) -> None:
    del cls.save
    own = _own.pop(cls)
    if own is _missing:
        del cls.__setitem__
    else:
        cls.__setitem__ = own
