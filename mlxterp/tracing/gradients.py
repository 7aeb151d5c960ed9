"""Gradients of a number computed from the logits, with respect to activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..backends.base import Backend
from ..backends.host.item_access import checked_items
from ..core.sites import Array, Change, Component, SiteEdit, unique_sites
from ..core.tokens import TokenBatch
from ..errors import GradientError, InputError
from .constants import recalling, remembering
from .declared import Interventions, declared_edits
from .objectives import LogitDifference


def gradients(
    anatomy: Anatomy,
    batch: TokenBatch,
    objective: Callable[[Array], Array],
    at: Sequence[str] | str,
    interventions: Interventions | None = None,
) -> dict[str, Any]:
    """d objective / d activation by path; a list where the component is called several times.

    Each component gets an added array of zeros; the gradient with respect to it is the answer, so
    one backward pass serves all. Features that edits read are constants.

    Raises:
        GradientError: A gradient is not finite.
    """
    if not callable(objective):
        raise InputError(
            f"The objective is {type(objective).__name__}; expected a function of the logits, such as"
            " mlxterp.logit_difference(' Paris', ' London')."
        )
    names = [at] if isinstance(at, str) else list(at)
    if not names:
        raise InputError("at= names the components whose gradients are wanted; it is empty.")
    model, backend = anatomy.model, anatomy.model.backend
    wide = in_float32(objective, backend)
    if isinstance(objective, LogitDifference):
        wide = objective.bind(batch, model.tokenizer)
    components = {name: anatomy.component(name) for name in names}
    declared = declared_edits(anatomy, interventions)
    with remembering() as memory:
        run = model.run(batch, unique_sites(components.values()), declared)
    values = {name: _calls(component.read(run)) for name, component in components.items()}
    deltas = {
        name: [backend.put(np.zeros(tuple(x.shape), np.float32), x) for x in calls]
        for name, calls in values.items()
    }

    def edits(deltas: Mapping[str, Sequence[Array]]) -> list[SiteEdit]:
        added = [e for name, component in components.items() for e in _adding(component, deltas[name], run)]
        return [*declared, *added]

    backend.evaluate(memory.values)
    with recalling(memory):
        _, grads = model.gradients(batch, wide, edits, deltas)
    return {name: _checked(name, grads[name], backend.get) for name in names}


def in_float32(function: Callable[[Array], Any], backend: Backend) -> Callable[[Array], Any]:
    """A function of logits that is given them in float32, so that its sums do not round to 16 bits.

    An index outside them raises.
    """

    def wide(logits: Array) -> Any:
        with checked_items(backend, "an array in a function of the logits"):
            return function(backend.widen(logits))

    return wide


def _calls(value: Any) -> list[Array]:
    return value if isinstance(value, list) else [value]


def _adding(component: Component, deltas: Sequence[Array], run: Any) -> list[SiteEdit]:
    edits: list[SiteEdit] = []
    passes = max(len(run.values[site]) for site in component.sites)
    for i, delta in enumerate(deltas):
        number = component.call
        if len(deltas) > 1:
            number = i
        elif number is None and passes > 1:
            number = passes - 1
        edits += component.edits(_plus(delta), number)
    return edits


def _plus(delta: Array) -> Change:
    return lambda x, _where, _run: x + delta


def _checked(name: str, grads: list[Array], get: Callable[[Array], np.ndarray]) -> Any:
    for grad in grads:
        bad = int((~np.isfinite(get(grad))).sum())
        if bad:
            raise GradientError(
                f"The gradient at {name} has {bad} values that are not finite. Some architectures'"
                " backward passes overflow (rwkv7 is known to, except at its last layer); try a later"
                " component, float32 weights, or a smaller objective."
            )
    return grads if len(grads) > 1 else grads[0]
