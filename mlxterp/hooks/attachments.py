"""`Attachments`: what acts on every pass of one model until it is taken away.

Attached SAEs and hooks belong to the model, in every thread; open `steer` blocks belong to the code inside them.
Attached things act first, in the order they were attached, then blocks from the outermost on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, Self

from ..anatomy.anatomy import Anatomy
from ..edits.compile import site_edits
from ..edits.edits import Edit
from ..errors import TraceError
from ..tracing.context import OPEN
from .hooked_model import Effect, Watch


class Attached(Protocol):
    """Something that acts on every pass of a model."""

    def effects(self) -> Sequence[Effect]:
        """What it changes and what watches, as it is set now."""
        ...

    def detach(self) -> None:
        """Ends it; again is harmless."""
        ...


class Handle:
    """What attaching returns; as `with` it detaches itself at the end of the block."""

    _attachments: Attachments
    component: str

    @property
    def attached(self) -> bool:
        """Whether it is attached to the model."""
        return self in self._attachments.attached

    def effects(self) -> Sequence[Effect]:
        """See `Attached`."""
        return ()

    def detach(self) -> None:
        """Ends it; again is harmless."""
        self._attachments.detach(self)

    def _check(self) -> None:
        """Raises TraceError where it was detached."""
        if not self.attached:
            raise TraceError(
                f"This handle of {self.component} was detached. Attach again, and use the handle that this returns."
            )

    def __enter__(self) -> Self:
        self._check()
        return self

    def __exit__(self, *error: object) -> None:
        self.detach()


_STEERING: ContextVar[tuple[SteerBlock, ...]] = ContextVar("mlxterp_steering", default=())
_WATCHING_ONLY: ContextVar[tuple[Attachments, ...]] = ContextVar("mlxterp_watching_only", default=())


class Attachments:
    """Made by `ModelSession`, one for each model."""

    def __init__(self) -> None:
        self._attached: list[Attached] = []

    def attach(self, thing: Attached) -> None:
        """Lets it act from now on."""
        self._attached.append(thing)

    def detach(self, thing: Attached) -> None:
        """Ends that; nothing happens where it does not act."""
        self._attached = [other for other in self._attached if other is not thing]

    @property
    def attached(self) -> tuple[Attached, ...]:
        """What is attached, in order."""
        return tuple(self._attached)

    def effects(self) -> list[Effect]:
        """Everything that acts on a pass of the current code, in order."""
        found: list[Effect] = [effect for thing in self._attached for effect in thing.effects()]
        if self in _WATCHING_ONLY.get():
            found = [effect for effect in found if isinstance(effect, Watch)]
        for block in _STEERING.get():
            if block._attachments is self:
                found += block.edits
        return found

    def steering(self, edits: Sequence[Edit], anatomy: Anatomy) -> SteerBlock:
        """Within `with` of what this returns, the edits act."""
        return SteerBlock(self, edits, anatomy)

    @contextmanager
    def watching_only(self) -> Iterator[None]:
        """Within this block attached things change nothing, and those that watch go on."""
        token = _WATCHING_ONLY.set((*_WATCHING_ONLY.get(), self))
        try:
            yield
        finally:
            _WATCHING_ONLY.reset(token)


class SteerBlock:
    """What `model.steer` returns, for `with`; it can be entered again, also by several threads at a time."""

    def __init__(self, attachments: Attachments, edits: Sequence[Edit], anatomy: Anatomy):
        self._attachments, self.edits, self._anatomy = attachments, tuple(edits), anatomy

    def __enter__(self) -> SteerBlock:
        _STEERING.set((*_STEERING.get(), self))
        for trace in OPEN.get():
            if trace.anatomy.origin is self._anatomy.origin:
                trace.take(site_edits(self._anatomy, self.edits))
        return self

    def __exit__(self, *error: object) -> None:
        inside_out = list(reversed(_STEERING.get()))
        if self in inside_out:  # not where a generator is closed by another thread
            inside_out.remove(self)
        _STEERING.set(tuple(reversed(inside_out)))

    def __repr__(self) -> str:
        return f"<steering by {', '.join(repr(edit) for edit in self.edits) or 'nothing'}>"
