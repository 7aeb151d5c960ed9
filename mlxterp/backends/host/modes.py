"""Evaluation mode while passes run: dropout would make two reads of one pass contradict each other.

Flags are counted for each module, so passes of several threads, and of models that share modules, can overlap; the
last one to leave gives a module back the mode it had.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

_Module = TypeVar("_Module")


class EvaluationMode(Generic[_Module]):
    """Puts one library's modules into evaluation mode.

    Args:
        in_training: Those of some modules that are in training mode.
        set_training: Sets the mode of this one module.
    """

    def __init__(
        self,
        in_training: Callable[[Iterable[_Module]], Iterable[_Module]],
        set_training: Callable[[_Module, bool], None],
    ):
        self._in_training, self._set_training = in_training, set_training
        self._lock = threading.RLock()
        self._users: dict[int, list] = {}
        """id(module) -> [module, passes that run it], of those that were in training mode."""

    @contextmanager
    def of(self, modules: Iterable[_Module]) -> Iterator[None]:
        """Within this block these modules are in evaluation mode."""
        held = []
        with self._lock:
            modules = list(modules)
            training = {id(module) for module in self._in_training(modules)}
            for module in modules if self._users or training else ():
                entry = self._users.get(id(module))
                if entry is None and id(module) in training:
                    entry = self._users[id(module)] = [module, 0]
                if entry is not None:
                    self._set_training(module, False)
                    entry[1] += 1
                    held.append(entry)
        try:
            yield
        finally:
            with self._lock:
                for entry in held:
                    entry[1] -= 1
                    if entry[1] == 0:
                        del self._users[id(entry[0])]
                        self._set_training(entry[0], True)
