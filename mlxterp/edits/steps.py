"""What edits do to an activation while the model runs.

A `Step` changes a component's activation. `FeatureStep` holds all edits of one SAE there, which act in order on
one encoding; `DirectionStep` holds one edit along a vector. Only the change is computed, in float32, and added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from ..backends import backend_of
from ..backends.fits import check_fits
from ..core.sites import Array
from ..errors import EditError, SAEError
from ..sae import SAE
from ..sae.call import SAECall
from ..tracing.constants import constant
from ..variants import BatchTopK
from .conditions import FeatureReadout
from .fold import Phase, phases_of
from .protocols import Change, DirectionChange, FeatureChange
from .rows import Moment, Rows, length

Adds = Callable[[Array, str], Array]
"""(activation (batch, positions, width), its component's name) -> vector (width,), like the activation"""


class Step(Protocol):
    """One change of a component's activation."""

    @property
    def by_token(self) -> bool:
        """Whether each token is changed by itself, whichever others are given with it."""
        ...

    @property
    def adds(self) -> Adds | None:
        """What gives the vector (width,) that is added to every token; None where the step does anything else."""
        ...

    def __call__(self, x: Array, moment: Moment) -> Array: ...


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

    def __init__(self, edits: Sequence[Change]):
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
        self, sae: SAE, edits: Sequence[FeatureChange], source: str | None = None, whole: bool = False
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
        self._constant = None if vector is None or self._keeping else Constant(vector)
        self._range = Range(self._edits)

    @property
    def adds(self) -> Adds | None:
        """See `Step`."""
        return None if self._constant is None else self._added

    def _added(self, x: Array, component: str) -> Array:
        assert self._constant is not None
        self._range.check(x)
        self._check(int(x.shape[2]), component)
        return self._constant.like(x)

    @property
    def by_token(self) -> bool:
        """See `Step`."""
        conditions = [edit.when.readout for edit in self._edits if edit.when is not None]
        read = [readout.sae for readout in conditions if isinstance(readout, FeatureReadout)]
        return all(_by_token(sae) for sae in ([self.sae, *read] if self._encodes else read))

    def __call__(self, x: Array, moment: Moment) -> Array:
        if not self._edits and not self._whole:
            return x
        if self.adds is not None and x.ndim == 3:
            return x + self.adds(x, moment.component)
        self._range.check(x)
        rows = Rows(x, moment)
        self._check(int(rows.own.shape[1]), moment.component)
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

    def _check(self, width: int, component: str) -> None:
        if width != self.sae.d_out:
            raise SAEError(
                f"{component} is {width} wide, the decoder rows of this SAE {self.sae.d_out}."
                f" It was trained on {self.sae.component or 'a component that its metadata does not name'}."
            )


class DirectionStep:
    """One edit along a vector."""

    def __init__(self, edit: DirectionChange):
        self._edit = edit
        plain = edit.kind == "add" and edit.positions in (None, "all") and edit.when is None
        self._constant = (
            Constant(edit.vector * np.float32(edit.number)) if plain and not edit.preserve_norm else None
        )
        self._range = Range([edit])

    @property
    def adds(self) -> Adds | None:
        """See `Step`."""
        return None if self._constant is None or self._edit.is_nothing else self._added

    def _added(self, x: Array, component: str) -> Array:
        assert self._constant is not None
        self._check(int(x.shape[2]), component)
        self._range.check(x)
        return self._constant.like(x)

    def _check(self, width: int, component: str) -> None:
        vector = self._edit.vector
        if width != len(vector):
            raise EditError(
                f"{component} is {width} wide, the vector {len(vector)}. Choose the component that it was made for:"
                " at=…"
            )

    @property
    def by_token(self) -> bool:
        """See `Step`."""
        when = self._edit.when
        return when is None or not isinstance(when.readout, FeatureReadout) or _by_token(when.readout.sae)

    def __call__(self, x: Array, moment: Moment) -> Array:
        edit = self._edit
        if edit.is_nothing:
            return x
        if self.adds is not None and x.ndim == 3:
            return x + self.adds(x, moment.component)
        rows = Rows(x, moment)
        self._check(int(rows.own.shape[1]), moment.component)
        self._range.check(x)
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
        if edit.kind == "swap":
            change = along * (rows.put(edit.other_unit) - unit) * edit.number
            longest = rows.lengths * (1.0 if edit.cap is None else edit.cap)
            return change * rows.backend.clip(
                longest / rows.backend.clip(length(change), 1e-30, None), None, 1.0
            )
        assert edit.threshold is not None
        less = rows.backend.cast(along < edit.threshold, rows.wide)
        return less * rows.put(edit.vector * np.float32(edit.number))


def _by_token(sae: SAE) -> bool:
    return not isinstance(sae.activation, BatchTopK)


def source_of(sae: SAE) -> str | None:
    """The component that is encoded, where it is another than the one that is changed."""
    return sae.component if sae.is_transcoder else None
