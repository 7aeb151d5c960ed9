"""While a call runs, what the libraries below say of themselves does not reach the user's screen.

Their logged warnings (a text longer than a tokenizer's limit, settings that will go), Python warnings of what is
deprecated, and bars while weights are loaded: nothing that a user of mlxterp could act on. Errors pass, and so does
all where a library was told to say more than warnings. Levels, handlers and filters of the user stay; what is put
beside them is taken away again when the last call ends.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

_LIBRARIES = ("transformers", "huggingface_hub", "datasets", "mlx_lm", "tokenizers")
_BELOW = (*_LIBRARIES, "torch", "mlx", "safetensors", "accelerate", "pyarrow", "fsspec", "mlxterp")
_BARS = {"transformers.utils.logging": "_tqdm_active"}
_HUB_BARS = "huggingface_hub.utils.tqdm"
_PATIENCE = 2.0
"""Seconds before a bar of the hub appears: files that the cache holds need less, a download more."""


class _Dropping(logging.Filter):
    """Drops what the libraries log below an error."""

    def filter(self, record: logging.LogRecord) -> bool:
        library = record.name.partition(".")[0]
        if library not in _LIBRARIES or record.levelno >= logging.ERROR:
            return True
        return logging.getLogger(library).getEffectiveLevel() < logging.WARNING


def _ignoring(category: type[Warning], modules: tuple[str, ...]) -> tuple[Any, ...]:
    """A filter as `warnings` keeps it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=category, module=rf"({'|'.join(modules)})(\.|$)")
        return warnings.filters[0]


class Quiet:
    """A context that any number of threads may be in; entering it costs some microseconds."""

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._dropping = _Dropping()
        self._handlers: list[logging.Handler] = []
        deprecations = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
        self._ignored = [
            *(_ignoring(kind, _BELOW) for kind in deprecations), _ignoring(UserWarning, _LIBRARIES),
        ]  # fmt: skip

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            self._handlers = [*logging.getLogger().handlers]
            for library in _LIBRARIES:
                self._handlers += logging.getLogger(library).handlers
            if logging.lastResort is not None:
                self._handlers.append(logging.lastResort)
            for handler in self._handlers:
                handler.addFilter(self._dropping)
            # Not by `warnings.filterwarnings`: that would let every warning given once be given again.
            warnings.filters[:0] = self._ignored  # pyright: ignore[reportAttributeAccessIssue, reportIndexIssue]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._users -= 1
            if self._users:
                return
            for handler in self._handlers:
                handler.removeFilter(self._dropping)
            self._handlers = []
            for ignored in self._ignored:
                if ignored in warnings.filters:
                    warnings.filters.remove(ignored)  # pyright: ignore[reportAttributeAccessIssue]


quiet = Quiet()
"""`with quiet:` around what calls the libraries below."""


class _LateBars:
    """A context in which bars of the hub appear late, as tqdm's `delay` does; threads may share it."""

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._kind: Any = None
        self._before: Any = None

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            self._kind = getattr(sys.modules.get(_HUB_BARS), "tqdm", None) if self._users == 1 else self._kind
            if self._users > 1 or self._kind is None:
                return
            before = self._before = self._kind.__init__

            def late(bar: Any, *args: Any, **settings: Any) -> None:
                before(bar, *args, **{"delay": _PATIENCE} | settings)

            self._kind.__init__ = late

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users and self._kind is not None:
                self._kind.__init__ = self._before
                self._kind = self._before = None


_late_bars = _LateBars()


@contextmanager
def quiet_loading() -> Iterator[None]:
    """As `quiet`, without the bars that transformers and datasets show while they read files.

    Bars of the hub appear after two seconds: of downloads, not of what the cache holds.
    """
    datasets = sys.modules.get("datasets")
    hide_bars = getattr(datasets, "disable_progress_bars", None)
    shown = hide_bars is not None and not datasets.are_progress_bars_disabled()  # pyright: ignore
    before = {
        name: getattr(sys.modules[name], flag)
        for name, flag in _BARS.items()
        if name in sys.modules and hasattr(sys.modules[name], flag)
    }
    try:
        for name in before:
            setattr(sys.modules[name], _BARS[name], False)
        if shown:
            hide_bars()  # pyright: ignore[reportOptionalCall]
        with quiet, _late_bars:
            yield
    finally:
        for name, flag in before.items():
            setattr(sys.modules[name], _BARS[name], flag)
        if shown:
            datasets.enable_progress_bars()  # pyright: ignore
