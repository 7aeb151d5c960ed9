"""`Detector`: observes the activations of one component on every pass, and changes nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import numpy as np

from ..backends import backend_of
from ..backends.host.item_access import checked_items
from ..core.sites import Array, Where
from ..edits.rows import as_rows
from ..errors import InputError
from .hook import Hook
from .hooked_model import Effect, Watch
from .statistics import ActivationStatistics, RunningStatistics

Observer = Callable[[Array], Any] | Callable[[Array, Where], Any]


class Detector(Hook):
    """Observes a component in the calls that are given texts or tokens: `model(…)`, `trace`, `loss` and `generate`.

    Give a function, derive a class and override `observe`, or let it keep activations or figures of them. It sees
    what hooks added before it left. A call counts once: a trace is seen as it was first run, without what is
    assigned in its block. What a failed call had shown is not kept.

    Args:
        component: Path of a component; "….input" is what enters a module.
        function: Called with each pass's activation, native and padded, (batch, positions, …). One that takes two
            arguments is also told where: `where.positions`, the absolute position of each column, and
            `where.lengths`, the tokens of each text (None in generation, which shows the prompt in chunks and then
            each new token). Writing into the activation changes a copy.
        keep: Keep the activations of each text; see `activations`.
        statistics: Keep figures of all tokens; see `statistics`.

    Raises:
        InputError: `function` cannot be called with one or two arguments.

    Examples:
        >>> detector = mlxterp.Detector("layers.1.mlp", keep=True, statistics=True)
        >>> with model.add_hook(detector):
        ...     logits = model(["Lily lost her red ball.", "Tom ran."])
        >>> [kept.shape for kept in detector.activations], detector.statistics.count
        ([(7, 192), (4, 192)], 11)
    """

    def __init__(
        self,
        component: str,
        function: Observer | None = None,
        *,
        keep: bool = False,
        statistics: bool = False,
        **further: Any,
    ):
        super().__init__(component, **further)
        self._observer = function
        self._told_where = function is not None and _takes_two(function)
        self._keep, self._figures = bool(keep), bool(statistics)
        self._lock = Lock()
        self.clear()

    def observe(self, activation: Array, where: Where) -> None:
        """Called with each pass; override it to look at something else. See `function` of the class."""
        observer: Any = self._observer
        if observer is not None:
            observer(*((activation, where) if self._told_where else (activation,)))

    # -- what was seen ------------------------------------------------------------------------

    @property
    def activations(self) -> list[np.ndarray]:
        """Kept activations: float32, (positions, width) for each text so far, padding left out, heads side by side.

        A generation is one text: its prompt, then each generated token that the model read.

        Raises:
            InputError: The detector was made without `keep=True`.
        """
        if not self._keep:
            raise InputError(f"This detector keeps nothing. Make it with keep=True: {self._like('keep')}.")
        return list(self._kept)

    @property
    def texts(self) -> list[str | None]:
        """The text of each entry of `activations`; None where the model has no tokenizer.

        Raises:
            InputError: The detector was made without `keep=True`.
        """
        if not self._keep:
            raise InputError(f"This detector keeps nothing. Make it with keep=True: {self._like('keep')}.")
        return list(self._texts)

    @property
    def statistics(self) -> ActivationStatistics:
        """Figures of every token seen so far, padding left out.

        Raises:
            InputError: The detector was made without `statistics=True`, or has seen nothing yet.
        """
        if not self._figures:
            raise InputError(
                f"This detector takes no figures. Make it with statistics=True: {self._like('statistics')}."
            )
        found = self._running.value()
        if found is None:
            raise InputError(
                f"Nothing was seen yet at {self.component}: handle = model.add_hook(detector), then run the model."
            )
        return found

    def clear(self) -> None:
        """Forgets all it has kept."""
        self._kept: list[np.ndarray] = []
        self._texts: list[str | None] = []
        self._running = RunningStatistics()

    # -- how it is run ------------------------------------------------------------------------

    def check(self, component: str) -> None:
        """See `Hook`."""
        super().check(component)
        if (self._keep or self._figures) and component.endswith(".pattern"):
            raise InputError(
                f"{component} is as wide as its text is long, so keep= and statistics= cannot be used there. Give a"
                " function, or read it in a trace."
            )

    def effects(self, component: str) -> list[Effect]:
        """See `Hook`."""
        return [Watch(_Observing(self, component)), *super().effects(component)]

    def _take(self, found: Sequence[np.ndarray], texts: Sequence[str] | None) -> None:
        """Rows of each text of one call."""
        with self._lock:
            if self._figures:
                for rows in found:
                    self._running.add(rows)
            if self._keep:
                self._kept += found
                self._texts += [None] * len(found) if texts is None else texts

    def _like(self, setting: str) -> str:
        return f"Detector({self.component!r}, {setting}=True)"


class _Observing:
    """A detector during one call of the model."""

    def __init__(self, detector: Detector, component: str):
        self.component, self._detector = component, detector
        self._rows = detector._keep or detector._figures
        self._whole: list[np.ndarray] = []
        """Rows of each text that was run whole."""
        self._pieces: list[np.ndarray] = []
        """Rows of a text that is generated, in order."""
        self._read = -1
        """The last position among them."""

    def see(self, x: Array, where: Where) -> None:
        backend = backend_of(x)
        with checked_items(backend, f"an array in the detector at {self.component}"):
            self._detector.observe(backend.alias(x), where)
        if not self._rows:
            return
        by_text = self._by_text(x, where)
        if where.lengths is None:
            new = where.positions > self._read  # a cache's keys are those of all tokens so far
            self._pieces.append(by_text[0][new])
            self._read = int(where.positions[-1])
        else:
            self._whole = by_text  # of a module that is called several times, the last call counts

    def finish(self, texts: Sequence[str] | None, tokens: Sequence[Sequence[int]]) -> None:
        found = [np.concatenate(self._pieces)] if self._pieces else self._whole
        self._whole, self._pieces, self._read = [], [], -1
        if found and (texts is None or texts):
            self._detector._take(found, texts)

    def _by_text(self, x: Array, where: Where) -> list[np.ndarray]:
        columns = len(where.positions)
        rows = np.array(
            backend_of(x).get(as_rows(x, where)), dtype=np.float32
        )  # a copy, of memory that may be reused
        batch = 1 if where.lengths is None else len(where.lengths)
        if len(rows) != batch * columns:
            raise InputError(
                f"{self.component} has shape {tuple(x.shape)} for {batch} texts with {columns} positions, so it has no"
                " activation of each token: keep= and statistics= cannot be used there. Give a function instead."
            )
        width = self._detector._running.width
        if width not in (None, rows.shape[1]):
            raise InputError(
                f"{self.component} is {rows.shape[1]} wide, what this detector has seen before {width}. Use another"
                " detector, or detector.clear()."
            )
        split = rows.reshape(batch, columns, -1)
        if where.lengths is None:
            return list(split)
        return [text[where.positions < n] for text, n in zip(split, where.lengths, strict=True)]


def _takes_two(function: Observer) -> bool:
    """Whether a function asks to be told where.

    Raises:
        InputError: It cannot be called with one or two arguments.
    """
    if not callable(function):
        raise InputError(f"function is {function!r}; expected a function of an activation.")
    try:
        signature = inspect.signature(function)
    except ValueError:  # a builtin without a signature
        return False
    for given in (1, 2):  # one first: a second argument with a default is the function's own
        try:
            signature.bind(*[None] * given)
        except TypeError:
            continue
        return given == 2
    raise InputError(
        f"{function!r} cannot be called with (activation) or (activation, where): its signature is {signature}."
    )
