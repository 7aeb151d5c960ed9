"""How the entropy of the next token changes with the length of a direction, by one backward pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..backends import backend_of
from ..core.sites import Array, Component, Run, Where
from ..core.tokens import TokenBatch
from ..interventions import Intervention
from ..tracing.gradients import gradients
from .prompts import Prompt
from .replacement import Row, placing


def slopes_of(
    anatomy: Anatomy, component: Component, prompts: Sequence[Prompt], vectors: np.ndarray, unit: np.ndarray
) -> np.ndarray:
    """float64, (scales,): d entropy / d length of the direction, nats, mean over prompts.

    Args:
        vectors: float32, (scales, d_model), as they stand at the placeholders.
        unit: float64, (d_model,): the direction, of length 1.

    Raises:
        GradientError: A gradient is not finite.
    """
    return np.mean([_slopes(anatomy, component, prompt, vectors, unit) for prompt in prompts], axis=0)


def _slopes(
    anatomy: Anatomy, component: Component, prompt: Prompt, vectors: np.ndarray, unit: np.ndarray
) -> np.ndarray:
    rows = [Row(prompt.ids, prompt.positions, vector[None]) for vector in vectors]
    change, empty = placing(rows), Run(None, {}, {}, Where(np.arange(1), None))

    def placed(x: Array, where: Where) -> Array:
        return change(x, where, empty)

    batch = TokenBatch.from_rows([row.ids for row in rows])
    found = gradients(
        anatomy, batch, _entropy, component.name, {component.name: Intervention(placed, name="placed")}
    )
    grads = anatomy.model.backend.get(found[component.name]).astype(np.float64)
    return (grads[:, list(prompt.positions)] @ unit).sum(axis=1)


def _entropy(logits: Array) -> Array:
    """The sum over texts of the entropy of what comes next."""
    last = logits[:, -1]
    last = backend_of(last).widen(last)
    logp = last - last.logsumexp(-1, True)
    return -(logp.exp() * logp).sum()
