"""What edits do to an activation while the model runs.

A `Step` changes a component's activation. `FeatureStep` holds all edits of one SAE there, which act in order on
one encoding; `DirectionStep` holds one edit along a vector. Only the change is computed, in float32, and added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from ..backends import backend_of
from ..backends.base import Backend
from ..backends.host.finite import check_fits
from ..core.positions import position_mask
from ..core.sites import ATTENTION_PORTS, Array, Where
from ..errors import EditError, InputError, SAEError
from ..sae import SAE
from ..sae.call import SAECall
from ..tracing.constants import constant
from ..variants import BatchTopK
from .conditions import Condition, DirectionReadout, FeatureReadout
from .edits import DirectionEdit, Edit, FeatureEdit, SteeringPositions
from .fold import Phase, phases_of

Read = Callable[[str], Array]
"""The activation of another component in the same pass."""


@dataclass(frozen=True, eq=False, slots=True)
class Moment:
    """Where and when a step acts."""

    component: str
    where: Where
    read: Read | None = None


class Step(Protocol):
    """One change of a component's activation."""

    def __call__(self, x: Array, moment: Moment) -> Array: ...


class Rows:
    """An activation as rows, one for each token, and what is known of those."""

    def __init__(self, x: Array, moment: Moment):
        self.x, self.moment = x, moment
        self.backend: Backend = backend_of(x)
        self.own = as_rows(x, moment.where)
        """(n, width), in the activation's dtype."""
        self._read: dict[str, Array] = {}
        self._asked: dict[tuple[int, str | None, int], Array] = {}

    @cached_property
    def wide(self) -> Array:
        """(n, width), float32."""
        return self.backend.cast(self.own, self.put(np.zeros(1)))

    def put(self, array: np.ndarray) -> Array:
        """float32, where the activation lies."""
        return self.backend.put_beside(array.astype(np.float32), self.x)

    @cached_property
    def lengths(self) -> Array:
        """(n, 1)."""
        return length(self.wide)

    def at(self, component: str | None) -> Array:
        """Rows of a component: these, or another's of the same pass.

        Raises:
            EditError: The other is not known here.
        """
        if component is None or component == self.moment.component:
            return self.own
        if component not in self._read:
            if self.moment.read is None:
                raise EditError(
                    f"This edit of {self.moment.component} reads {component}, which an edit used alone cannot. Use"
                    " model.steer(edit) or generate(steer=[edit])."
                )
            heads = component.rpartition(".")[2] in ATTENTION_PORTS
            where = replace(self.moment.where, heads_first=heads)
            self._read[component] = as_rows(self.moment.read(component), where)
        return self._read[component]

    def encoded(self, sae: SAE, component: str | None) -> tuple[SAECall, Callable[[Array], Array]]:
        """An SAE at work on rows of a component, and what brings its rows (m, …) back to these, (n, …).

        BatchTopK without a threshold chooses over all rows of a call, so padding stays out of it.
        """
        rows = self.at(component)
        real = real_rows(self.moment.where) if isinstance(sae.activation, BatchTopK) else None
        if real is None:
            return sae.apply(rows, check=False), lambda array: array
        call = sae.apply(rows[self.backend.put_beside(np.flatnonzero(real), rows)], check=False)
        place = np.maximum(np.cumsum(real) - 1, 0)
        return call, lambda array: array[self.backend.put_beside(place, array)]

    def mask(self, positions: SteeringPositions, when: Condition | None) -> Array | None:
        """float32 (n, 1): 1 on the tokens meant; None means all."""
        mask: Array | None = None
        if positions is not None and positions != "all":
            mask = self._where(positions)
        if when is not None:
            holds = self._holds(when)
            mask = holds if mask is None else mask * holds
        return mask

    def _where(self, positions: SteeringPositions) -> Array:
        where = self.moment.where
        if isinstance(positions, str):
            raise InputError(
                f"positions={positions!r}: an edit used alone takes positions as numbers. 'prompt' and 'generated' are"
                " known to model.steer and to generate."
            )
        chosen = position_mask(positions, where)
        assert chosen is not None
        columns = len(where.positions)
        if self.own.shape[0] % columns or len(chosen) not in (1, self.own.shape[0] // columns):
            raise EditError(
                f"{self.moment.component} has {self.own.shape[0]} rows for {columns} positions, so positions= cannot be"
                " used here."
            )
        whole = np.broadcast_to(chosen, (self.own.shape[0] // columns, columns))
        return self.put(whole.reshape(-1, 1))

    def _holds(self, when: Condition) -> Array:
        readout = when.readout
        if isinstance(readout, FeatureReadout):
            value = self._feature(readout)
        else:
            assert isinstance(readout, DirectionReadout)
            rows = self.at(readout.component)
            value = (self.backend.cast(rows, self.wide) @ self.put(readout.unit))[:, None]
        return self.backend.cast(value > when.threshold if when.above else value < when.threshold, self.wide)

    def _feature(self, readout: FeatureReadout) -> Array:
        """(n, 1): a feature's activation, computed once for all edits that ask for it."""
        key = (id(readout.sae), readout.component, readout.feature)
        if key not in self._asked:
            (call, back), ids = self.encoded(readout.sae, readout.component), np.array([readout.feature])
            self._asked[key] = constant(lambda: back(call.features(ids)))
        return self._asked[key]

    def changed(self, delta: Array, keeping: Array | float = 0.0) -> Array:
        """The activation with (n, width) or (width,) added, in its own shape and dtype.

        Args:
            keeping: 1 where a token's length stays, else 0; for all tokens, or (n, 1).
        """
        new = self.own + delta  # in float32 at least: rounded once
        if not isinstance(keeping, float) or keeping:
            ratio = self.lengths / self.backend.clip(length(new), 1e-30, None)
            new = new * (ratio * keeping + (1.0 - keeping))
        return as_given(self.backend.cast(new, self.own), self.x, self.moment.where)


class Constant:
    """A vector that is added to every token, kept as a native array for each dtype that was asked for."""

    def __init__(self, vector: np.ndarray):
        self._vector = vector.astype(np.float32)
        self._native: dict[tuple[str, str, str], Array] = {}

    def like(self, x: Array) -> Array:
        """(width,), in the dtype and on the device of x."""
        backend = backend_of(x)
        key = (backend.name, str(x.dtype), backend.device(x))
        if key not in self._native:
            self._native[key] = backend.put(self._vector, x)
        return self._native[key]


class Range:
    """Whether an activation's dtype holds what edits add; looked at once for each dtype."""

    def __init__(self, edits: Sequence[Edit]):
        self._edits = tuple(edits)
        self._known: set[str] = set()

    def check(self, x: Array) -> None:
        """Raises InputError where it does not."""
        if str(x.dtype) in self._known:
            return
        for edit in self._edits:
            if edit.pushes is not None:
                check_fits(edit.pushes, x, repr(edit))
        self._known.add(str(x.dtype))


class FeatureStep:
    """All edits of one SAE at one component.

    Args:
        source: Component that is encoded; None is the one edited (a transcoder reads another).
        whole: Whether the reconstruction takes the activation's place.
    """

    def __init__(
        self, sae: SAE, edits: Sequence[FeatureEdit], source: str | None = None, whole: bool = False
    ):
        self.sae, self._source, self._whole = sae, source, whole
        self._edits = [edit for edit in edits if not edit.is_nothing]
        self._ids = np.unique(np.array([edit.feature for edit in self._edits], dtype=np.int64))
        self._rows = sae.W_dec[self._ids]
        self._phases = phases_of(self._edits, self._ids, self._rows)
        self._encodes = whole or any(edit.reads_feature for edit in self._edits)
        self._keeping = [edit for edit in self._edits if edit.preserve_norm]
        one = self._phases[0] if len(self._phases) == 1 and not self._encodes else None
        vector = one.constant(self._rows) if one is not None else None
        self._constant = None if vector is None else Constant(vector)
        self._range = Range(self._edits)

    def __call__(self, x: Array, moment: Moment) -> Array:
        if not self._edits and not self._whole:
            return x
        self._range.check(x)
        if self._constant is not None and not self._keeping and x.ndim == 3:
            self._check(int(x.shape[2]), moment)
            return x + self._constant.like(x)
        rows = Rows(x, moment)
        self._check(int(rows.own.shape[1]), moment)
        found = rows.encoded(self.sae, self._source) if self._encodes else None
        scale = 1.0 if found is None else found[0].decoded_scale
        if found is not None and not isinstance(scale, float):
            scale = rows.backend.clip(found[1](scale), 1e-20, None)  # of a token of zeros it is 0
        before = self._features(found, rows)
        after = before
        for phase in self._phases:
            after = self._after(phase, after, rows, scale)
        delta = ((after - before) @ rows.put(self._rows)) * scale
        if self._whole:
            assert found is not None
            call, back = found
            delta = delta + constant(lambda: back(call.finish(call.reconstruction()))) - rows.wide
        return rows.changed(delta, self._kept(rows))

    def _kept(self, rows: Rows) -> Array | float:
        """1 on tokens where an edit acts that keeps their length, else 0; for all tokens, or (n, 1)."""
        free: Array | float = 1.0
        for edit in self._keeping:
            mask = rows.mask(edit.positions, edit.when)
            if mask is None:
                return 1.0
            free = free * (1.0 - mask)
        return 1.0 - free

    def _features(self, found: tuple[SAECall, Callable[[Array], Array]] | None, rows: Rows) -> Array:
        """Activations (n, features) of the features that are edited; 0 where nothing reads them."""
        if found is None or not len(self._ids):
            return rows.put(np.zeros((int(rows.own.shape[0]), len(self._ids))))
        call, back = found
        return constant(lambda: back(call.features(self._ids)))

    def _after(self, phase: Phase, c: Array, rows: Rows, scale: Array | float) -> Array:
        """Activations (n, features) after one phase."""
        if phase.floor is not None:
            floor = rows.put(np.where(np.isfinite(phase.floor), phase.floor, np.finfo(np.float32).min))
            new = c + rows.backend.clip(floor - c, 0.0, None)
        else:
            new = c * rows.put(phase.factor) + rows.put(phase.plus)
            if phase.rows.any():
                new = new + rows.put(phase.rows) / scale
            if phase.lengths.any():
                new = new + (rows.lengths * rows.put(phase.lengths)) / scale
        mask = rows.mask(phase.positions, phase.when)
        return new if mask is None else c + mask * (new - c)

    def _check(self, width: int, moment: Moment) -> None:
        if width != self.sae.d_out:
            raise SAEError(
                f"{moment.component} is {width} wide, the decoder rows of this SAE {self.sae.d_out}."
                f" It was trained on {self.sae.component or 'a component that its metadata does not name'}."
            )


class DirectionStep:
    """One edit along a vector."""

    def __init__(self, edit: DirectionEdit):
        self._edit = edit
        plain = edit.kind == "add" and edit.positions in (None, "all") and edit.when is None
        self._constant = (
            Constant(edit.vector * np.float32(edit.number)) if plain and not edit.preserve_norm else None
        )
        self._range = Range([edit])

    def __call__(self, x: Array, moment: Moment) -> Array:
        edit = self._edit
        if edit.is_nothing:
            return x
        rows = Rows(x, moment)
        width = int(rows.own.shape[1])
        if width != len(edit.vector):
            raise EditError(
                f"{moment.component} is {width} wide, the vector {len(edit.vector)}. Choose the component"
                " that it was made for: at=…"
            )
        self._range.check(x)
        if self._constant is not None and x.ndim == 3:
            return x + self._constant.like(x)
        mask = rows.mask(edit.positions, edit.when)
        delta = self._delta(rows)
        return rows.changed(delta if mask is None else mask * delta, float(edit.preserve_norm))

    def _delta(self, rows: Rows) -> Array:
        edit = self._edit
        if edit.kind == "add":
            return rows.put(edit.vector * np.float32(edit.number))
        unit = rows.put(edit.unit)
        if edit.kind == "add_norm":
            return rows.lengths * (unit * edit.number)
        along = (rows.wide @ unit)[:, None]
        if edit.kind == "project_out":
            return along * (unit * (edit.number - 1))
        assert edit.threshold is not None
        less = rows.backend.cast(along < edit.threshold, rows.wide)
        return less * rows.put(edit.vector * np.float32(edit.number))


def source_of(sae: SAE) -> str | None:
    """The component that is encoded, where it is another than the one that is changed."""
    return sae.component if sae.is_transcoder else None


def step_of(edit: Edit) -> Step:
    """One edit as a step of its own."""
    if isinstance(edit, FeatureEdit):
        return FeatureStep(edit.sae, [edit], source_of(edit.sae))
    assert isinstance(edit, DirectionEdit)
    return DirectionStep(edit)


def apply_alone(edit: Edit, x: Array, where: Where) -> Array:
    """One edit, on an activation whose columns are the tokens that `where` tells."""
    return step_of(edit)(x, Moment(edit.component or "the activation", where))


def length(rows: Array) -> Array:
    """(n, 1): the Euclidean length of each row (n, width)."""
    return ((rows * rows).sum(-1) ** 0.5)[:, None]


def real_rows(where: Where) -> np.ndarray | None:
    """Booleans (batch x positions,): which rows are tokens and no padding; None means all."""
    if where.lengths is None:
        return None
    real = (where.positions < where.lengths[:, None]).reshape(-1)
    return None if real.all() else real


def as_rows(x: Array, where: Where) -> Array:
    """(n, width) of an activation (…, width); heads of a token stand side by side."""
    if x.ndim == 4:
        x = x.swapaxes(1, 2) if where.heads_first else x
        return x.reshape((x.shape[0] * x.shape[1], x.shape[2] * x.shape[3]))
    return x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))


def as_given(rows: Array, x: Array, where: Where) -> Array:
    """Rows in the shape of the activation x that they came from."""
    if x.ndim == 4 and where.heads_first:
        batch, heads, positions, width = x.shape
        return rows.reshape((batch, positions, heads, width)).swapaxes(1, 2)
    return rows.reshape(tuple(x.shape))
