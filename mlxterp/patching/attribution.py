"""Attribution patching: what activation patching would give, to first order, for all places from one gradient.

An activation's effect is estimated as (clean − corrupted) · gradient of the metric at the corrupted run: two
passes forward and one backward for any number of components, layers, positions and heads. It is exact where the
metric depends linearly on the activation, and poor where it bends much, as it does at a residual stream whose
norm changes. Method: Nanda, "Attribution Patching: Activation Patching At Industrial Scale" (2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..core.positions import Positions
from ..core.tokens import TokenBatch
from ..tracing.gradients import gradients
from .metrics import Metric
from .places import Place, captured, clean_places, rounding_of
from .question import Question
from .result import PatchingResult, results


def attribution_patching(
    anatomy: Anatomy,
    clean: TokenBatch,
    corrupted: TokenBatch,
    component: str | Sequence[str] | None = None,
    layers: int | Iterable[int] | None = None,
    metric: Any = "l2",
    *,
    by: str = "layer",
    positions: Positions = None,
) -> dict[str, PatchingResult]:
    """A result for each component; see `InterpretableModel.attribution_patching`."""
    question = Question.of(anatomy, clean, corrupted, component, layers, metric, by, positions)
    model, pair = anatomy.model, question.pair
    measured = Metric(metric, model, pair)
    names = [f"layers.{n}.{c}" for c in question.components for n in question.layers]
    places, logits = clean_places(anatomy, pair, names)
    clean_value = measured.of_clean(logits)
    components, run = captured(anatomy, corrupted, names)
    corrupted_value = measured.later(run.logits)()
    objective, factor = measured.objective(run.logits)
    slopes = gradients(anatomy, corrupted, objective, names)
    get, found = model.backend.get, []
    for place, part, name in zip(places, components, names, strict=True):
        step = get(place.clean).astype(np.float64) - get(part.read(run))
        found.append(_attributed(question, place, step * get(slopes[name]) * factor))
    columns = max(map(len, found))
    raw = np.full((len(names), columns), np.nan)
    for row, values in zip(raw, found, strict=True):
        row[: len(values)] = corrupted_value + values
    shape = (len(question.components), len(question.layers), columns)
    return results(
        anatomy,
        question,
        raw.reshape(shape),
        (clean_value, corrupted_value),
        measured.name,
        "attribution patching",
        eps=rounding_of(anatomy, places),
    )


def _attributed(question: Question, place: Place, products: np.ndarray) -> np.ndarray:
    """Products of step and slope summed by what is asked: (columns,)."""
    products = np.where(place.mask(question.pair.chosen), products, 0)
    if question.by == "layer":
        return products.sum(keepdims=True).reshape(1)
    kept = 1 if question.by == "head" else place.axis
    by_column = products.sum(axis=tuple(a for a in range(products.ndim) if a != kept))
    return by_column if question.by == "head" else by_column[question.pair.chosen[0]]
