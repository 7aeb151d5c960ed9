"""How arrays are indexed while somebody looks: traces, and the check of what a user's function does.

Neither library lets one array object carry behaviour, so the array class gets it. Each `Look` that is open stands
around the class's own `__getitem__`, `__setitem__` and `at`; the last one that closes puts these back. A look knows
by a context variable whether the code that indexes is its own, so other threads get what they would have got.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import numpy as np

from ...core.array_keys import check_key
from ...core.sites import Array
from .. import backend_of
from ..base import Backend

Take = Callable[[Array, Any], Array]
Write = Callable[[Array, Any, Any], None]


class Look(Protocol):
    """Who stands around the indexing of one library's arrays."""

    def take(self, array: Array, key: Any, take: Take) -> Array:
        """`array[key]`, by `take`."""
        ...

    def write(self, array: Array, key: Any, value: Any, write: Write) -> None:
        """`array[key] = value`, by `write`."""
        ...

    def point(self, array: Array, key: Any) -> None:
        """Before `array.at[key]`, which only MLX has."""
        ...


_lock = threading.RLock()
_own: dict[type, dict[str, Any]] = {}
_open: dict[type, list[tuple[Look, int]]] = {}
"""Looks and how many have opened each, the first innermost."""
_NAMES = ("__getitem__", "__setitem__", "at")
_missing = object()


def open_look(cls: Any, look: Look) -> None:
    """Puts a look around the indexing of a class; once more where it is there already."""
    with _lock:
        known = _open.setdefault(cls, [])
        for i, (other, count) in enumerate(known):
            if other is look:
                known[i] = (look, count + 1)
                return
        if not known:
            _own[cls] = {name: vars(cls).get(name, _missing) for name in _NAMES}
        known.append((look, 1))
        _install(cls)


def close_look(cls: Any, look: Look) -> None:
    """Ends what `open_look` began."""
    with _lock:
        known = _open[cls]
        [(i, count)] = [(i, count) for i, (other, count) in enumerate(known) if other is look]
        if count > 1:
            known[i] = (look, count - 1)
            return
        del known[i]
        _restore(cls)
        if known:
            _install(cls)
        else:
            del _own[cls]


def _install(cls: Any) -> None:
    _restore(cls)
    take, write, at = cls.__getitem__, cls.__setitem__, vars(cls).get("at")
    for look, _ in _open[cls]:
        take, write = _taking(look, take), _writing(look, write)
    cls.__getitem__, cls.__setitem__ = take, write
    if at is not None:
        looks = tuple(look for look, _ in _open[cls])
        cls.at = property(lambda self: _At(self, at.__get__(self), looks))


def _restore(cls: Any) -> None:
    for name, own in _own[cls].items():
        if own is not _missing:
            if vars(cls).get(name) is not own:
                setattr(cls, name, own)
        elif name in vars(cls):
            delattr(cls, name)


def _taking(look: Look, take: Take) -> Take:
    def __getitem__(self: Any, key: Any) -> Any:
        return look.take(self, key, take)

    return __getitem__


def _writing(look: Look, write: Write) -> Write:
    def __setitem__(self: Any, key: Any, value: Any) -> None:
        look.write(self, key, value, write)

    return __setitem__


class _At:
    """MLX's `array.at`, looked at."""

    def __init__(self, array: Array, own: Any, looks: tuple[Look, ...]):
        self._array, self._own, self._looks = array, own, looks

    def __getitem__(self, key: Any) -> Any:
        for look in self._looks:
            look.point(self._array, key)
        return self._own[key]


# -- what a user's function does -------------------------------------------------------------------

_what: ContextVar[str | None] = ContextVar("mlxterp_checked_function", default=None)
"""Whose function runs in this context, for messages."""


class _Checked:
    """Checks every index of a function that was given native arrays."""

    def take(self, array: Array, key: Any, take: Take) -> Array:
        self.point(array, key)
        return take(array, key)

    def write(self, array: Array, key: Any, value: Any, write: Write) -> None:
        self.point(array, key)
        write(array, key, value)

    def point(self, array: Array, key: Any) -> None:
        what = _what.get()
        if what is not None and not isinstance(key, slice) and key is not ...:
            check_key(key, array.shape, what, read_index)


_CHECKED = _Checked()


@contextmanager
def checked_items(backend: Backend, what: str) -> Iterator[None]:
    """Within this block, in this thread, an index outside an array raises InputError instead of reading other memory.

    Args:
        what: Whose arrays they are, for messages ("the activation that the intervention at layers.3.mlp is given").
    """
    open_look(backend.array_type, _CHECKED)
    token = _what.set(what)
    try:
        yield
    finally:
        _what.reset(token)
        close_look(backend.array_type, _CHECKED)


def read_index(part: Any) -> np.ndarray | None:
    """The numbers of an index that is an array of MLX or PyTorch; None for all else, and inside compiled functions."""
    if type(part).__module__.partition(".")[0] not in ("mlx", "torch"):
        return None
    if "float" in str(part.dtype):
        return None
    try:
        return backend_of(part).get(part)
    except Exception:  # a placeholder of a function that is compiled or vectorised has no numbers yet
        return None
