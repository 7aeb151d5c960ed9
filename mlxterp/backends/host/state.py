"""What a model computes with, as digests: equal where nothing was changed in between.

Weights can be changed behind the same objects (`w[3] = 0` in MLX, `.data` or memory shared with NumPy in torch), so
neither identity nor a library's version counter proves that they are what they were. Bytes do. Each wing
names its arrays; `features.cache` compares `StateDigest`s within one process, indexes and stores keep a
`WeightsDigest` in their files.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.generic)
_DEPTH = 6
_UNSEEN = {"_training", "training", "_no_grad"}
"""Attributes that change nothing: passes are made in evaluation mode."""


class Unreadable(Exception):
    """A part of the model whose bytes cannot be had."""


@dataclass(frozen=True, slots=True)
class WeightsDigest:
    """Weights as a checkpoint holds them, in three digests, so that it is known what can be compared."""

    backend: str
    layout: str
    """Of names and shapes."""
    dtypes: str
    values: str
    """Of all bytes."""

    def to_json(self) -> dict[str, str]:
        """As a dict."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(kept: Any) -> WeightsDigest | None:
        """From `to_json`; None where nothing was kept."""
        names = [field.name for field in dataclasses.fields(WeightsDigest)]
        if not isinstance(kept, Mapping) or not all(isinstance(kept.get(name), str) for name in names):
            return None
        return WeightsDigest(*(kept[name] for name in names))

    def equals(self, kept: Any) -> bool | None:
        """Whether these are the weights that `kept` (from `to_json`) describes.

        None where bytes cannot tell: they were read by another library or in another dtype, or nothing was kept.
        """
        if not isinstance(kept, Mapping) or kept.get("backend") != self.backend:
            return None
        if kept.get("layout") == self.layout and kept.get("dtypes") != self.dtypes:
            return None
        return all(kept.get(name) == value for name, value in self.to_json().items())


@dataclass(frozen=True, slots=True)
class StateDigest:
    """What a model computed with, within one process; two are equal where nothing was changed in between."""

    value: str
    held: tuple[Any, ...] = dataclasses.field(default=(), compare=False, repr=False)
    """Functions and classes that `value` knows by their ids, which are only good while these live."""


class WeightsHash:
    """Gathers a `WeightsDigest`; arrays come in any order that is always the same."""

    def __init__(self, backend: str):
        self._backend = backend
        self._layout, self._dtypes, self._values = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()

    def add(self, name: str, shape: tuple[int, ...], dtype: str, data: np.ndarray) -> None:
        """One array; `data` are its bytes, in any dtype."""
        self._layout.update(f"{name} {tuple(shape)};".encode())
        self._dtypes.update(f"{name} {dtype};".encode())
        self._values.update(_bytes(data))

    def finish(self) -> WeightsDigest:
        """The digest of what was added."""
        found = (self._layout, self._dtypes, self._values)
        return WeightsDigest(self._backend, *(part.hexdigest() for part in found))


class StateHash:
    """Gathers everything that decides what a pass gives: arrays, and what modules hold besides.

    Args:
        array: The bytes of a native array with its dtype in words, or None for what is no array.
            May raise `Unreadable`.
        skip: Whether a value is described elsewhere (a module, say).
    """

    def __init__(
        self, array: Callable[[Any], tuple[str, np.ndarray] | None], skip: Callable[[Any], bool]
    ) -> None:
        self._digest = hashlib.sha256()
        self._array, self._skip = array, skip
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []  # an id is only good while its object lives
        self._held: list[Any] = []
        self._classes: set[type] = set()

    def add(self, name: str, value: Any) -> None:
        """Anything that a module holds under a name."""
        self._say(f"\n{name}=")
        self._add(value, _DEPTH)

    def add_class(self, name: str, cls: type, base: type) -> None:
        """A module's class, with what it and the classes between it and `base` define."""
        self.add(name, cls)
        if cls not in self._classes:
            self._classes.add(cls)
            for parent in cls.__mro__:
                if parent in (base, *base.__mro__):
                    break
                for key, value in vars(parent).items():
                    if callable(value):
                        self.add(f"{name}.{key}()", value)

    def attributes(self, name: str, values: Mapping[str, Any]) -> None:
        """A module's attributes, without those that change nothing."""
        for key, value in values.items():
            if key not in _UNSEEN:
                self.add(f"{name}.{key}", value)

    def finish(self) -> StateDigest:
        """The digest of what was added."""
        return StateDigest(self._digest.hexdigest(), tuple(self._held))

    def _say(self, words: str) -> None:
        self._digest.update(words.encode("utf-8", "surrogatepass"))

    def _add(self, value: Any, depth: int) -> None:
        if isinstance(value, _PLAIN):
            self._say(f"{type(value).__name__}:{value!r};")
            return
        if self._skip(value):
            self._say("module;")
            return
        if id(value) in self._seen:
            self._say(f"again {self._seen[id(value)]};")
            return
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)
        found = (str(value.dtype), value) if isinstance(value, np.ndarray) else self._array(value)
        if found is not None:
            kind, data = found
            self._say(f"{kind} {tuple(getattr(value, 'shape', ()))}:")
            self._digest.update(_bytes(data))
        elif not (depth and self._add_inside(value, depth - 1)):
            self._held.append(value)
            self._say(f"{type(value).__qualname__} at {id(value)};")

    def _add_inside(self, value: Any, depth: int) -> bool:
        """What a container or an object holds; False where it is neither."""
        if isinstance(value, Mapping):
            self._say(f"{type(value).__name__}{{")
            for key, item in value.items():
                self._add(key, depth)
                self._add(item, depth)
            self._say("}")
        elif isinstance(value, (list, tuple, set, frozenset)):
            self._say(f"{type(value).__name__}[")
            for item in value:
                self._add(item, depth)
            self._say("]")
        elif not callable(value) and hasattr(value, "__dict__"):
            self._say(f"{type(value).__qualname__}(")
            for key, item in vars(value).items():
                self._say(f"{key}=")
                self._add(item, depth)
            self._say(")")
        else:
            return False
        return True


def _bytes(data: np.ndarray) -> memoryview:
    return np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
