"""What a step sees of an activation while the model runs: its rows, one for each token, and where conditions hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..backends import backend_of
from ..backends.base import Backend
from ..core.positions import position_mask
from ..core.sites import ATTENTION_PORTS, Array, Where
from ..errors import EditError, InputError
from ..sae import SAE
from ..sae.call import SAECall
from ..tracing.constants import constant
from ..variants import BatchTopK
from .checks import SteeringPositions
from .conditions import Condition, DirectionReadout, FeatureReadout

Read = Callable[[str], Array]
"""The activation of another component in the same pass."""


@dataclass(frozen=True, eq=False, slots=True)
class Moment:
    """Where and when a step acts."""

    component: str
    where: Where
    read: Read | None = None


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
        if isinstance(positions, str) and where.prompts is None:
            raise InputError(
                f"positions={positions!r}: an edit used alone takes positions as numbers. 'prompt' and 'generated' are"
                " known to model.steer and to generate."
            )
        chosen = position_mask(positions, where)
        assert chosen is not None
        columns = where.columns
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
