"""What becomes of the libraries in a forked child: their threads stay behind, and a call would wait for them for ever.

MLX cannot run there, so its wing refuses at once and says what to do; PyTorch can with one thread, which it is given.
Nothing here imports either.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

from ...errors import BackendError

_REMEDY = (
    "This process was forked from one in which MLX had run, and MLX cannot run here: its threads did not come along."
    " Start processes afresh and open models, SAEs and indexes in each of them: multiprocessing.get_context('spawn'),"
    " DataLoader(…, multiprocessing_context='spawn'), ProcessPoolExecutor(mp_context=…); Ray's workers are fresh."
)
_lost: set[str] = set()


def check_process(name: str) -> None:
    """Raises BackendError where the backend of that name cannot run because of a fork."""
    if name in _lost:
        raise BackendError(_REMEDY)


def refuse_in_children(name: str, *classes: type) -> None:
    """After a fork the methods of these classes raise BackendError."""

    def forked() -> None:
        _lost.add(name)
        for cls in classes:
            for attribute, value in list(vars(cls).items()):
                is_method = inspect.isfunction(value) or isinstance(value, staticmethod)
                if is_method and (attribute == "__init__" or not attribute.startswith("_")):
                    setattr(cls, attribute, _refused)

    in_children(forked)


def in_children(function: Callable[[], Any]) -> None:
    """Calls a function in every forked child from now on; nothing where there is no fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)


def _refused(*_args: Any, **_options: Any) -> Any:
    raise BackendError(_REMEDY)
