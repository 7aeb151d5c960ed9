"""The components that are patched, with the clean run's values lined up with the corrupted texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..core.positions import position_axis
from ..core.sites import Array, Component, Run, SiteEdit, Where, unique_sites
from ..core.tokens import TokenBatch
from ..errors import ComponentError, EditError
from .pair import Pair


@dataclass(frozen=True, eq=False, slots=True)
class Place:
    """One component of one layer."""

    name: str
    component: Component
    clean: Array
    """Native: the clean value at the corrupted texts' positions (texts, …)."""
    axis: int
    """Which axis of the value runs over positions."""
    heads: int | None
    """How many heads, on axis 1; None for a value that is not per head."""
    call: int | None
    """Which call of a module that is passed several times; None means each."""

    def mask(self, chosen: np.ndarray, heads: Sequence[int | None] | None = None) -> np.ndarray:
        """Booleans that broadcast to a batch of values.

        Args:
            chosen: (rows, positions): the tokens meant in each row.
            heads: The head meant in each row; None for all.
        """
        form = [1] * len(self.clean.shape)
        form[0], form[self.axis] = chosen.shape
        mask = chosen.reshape(form)
        if heads is None or self.heads is None:
            return mask
        column = np.array([[h is None or h == i for i in range(self.heads)] for h in heads])
        return mask & column.reshape([len(heads), self.heads, *[1] * (len(form) - 2)])

    def edits(self, mask: np.ndarray, where: Callable[..., Array]) -> Sequence[SiteEdit]:
        """Edits that put the clean values where `mask` holds, in a batch that repeats the texts."""
        shape = tuple(self.clean.shape)
        places = mask.reshape(-1, shape[0], *mask.shape[1:])

        def change(x: Array, _where: Where, _run: Run) -> Array:
            if tuple(x.shape[1:]) != shape[1:]:
                raise EditError(
                    f"{self.name} has shape {tuple(x.shape[1:])} for a text in the corrupted run and {shape[1:]} in"
                    " the clean one, so one cannot stand for the other."
                )
            return where(places, self.clean, x.reshape(-1, *shape)).reshape(x.shape)

        return self.component.edits(change, self.call)


def clean_places(anatomy: Anatomy, pair: Pair, names: Sequence[str]) -> tuple[list[Place], Array]:
    """Each component with its clean values, and the clean logits, from one pass.

    Raises:
        ComponentError: A component that is unknown, is called several times in a pass, or whose value does
            not run over texts and positions.
    """
    components, run = captured(anatomy, pair.clean, names)
    places = [_place(anatomy, pair, c, n, run) for c, n in zip(components, names, strict=True)]
    anatomy.model.backend.evaluate([*(place.clean for place in places), run.logits])
    return places, run.logits


def rounding_of(anatomy: Anatomy, places: Sequence[Place]) -> float:
    """Relative rounding of the coarsest dtype that the values of the places have."""
    backend, least = anatomy.model.backend, float(np.finfo(np.float32).eps)  # metrics are summed in float32
    return max(least, *(backend.rounding(place.clean) for place in places))


def captured(anatomy: Anatomy, batch: TokenBatch, names: Sequence[str]) -> tuple[list[Component], Run]:
    """Components by name, and a pass that recorded them."""
    components = [anatomy.component(name) for name in names]
    return components, anatomy.model.run(batch, unique_sites(components))


def _place(anatomy: Anatomy, pair: Pair, component: Component, name: str, run: Run) -> Place:
    value = component.read(run)
    if isinstance(value, list):
        raise ComponentError(
            f"{name} is called {len(value)} times in one pass, so it has no single value to patch. Name one call,"
            f" such as component='{name.split('.', 2)[-1]}#0'."
        )
    per_head = anatomy.names.resolve(name).kind == "head"
    where = Where(np.arange(pair.clean.ids.shape[1]), pair.clean.lengths, heads_first=per_head)
    try:
        axis = position_axis(value.shape, where)
    except EditError as error:
        raise ComponentError(f"{name} cannot be patched: {error}") from error
    if axis == 0 or value.shape[0] != pair.size:
        raise ComponentError(
            f"{name} has shape {tuple(value.shape)}, not (texts, positions, …), so it cannot be patched."
        )
    if pair.source is not None:
        backend = anatomy.model.backend
        value = backend.put(pair.lined_up(backend.get(value), axis), value)
    passes = max(len(run.values[site]) for site in component.sites)
    call = passes - 1 if component.call is None and passes > 1 else component.call
    return Place(name, component, value, axis, value.shape[1] if per_head else None, call)
