"""Activation patching: the corrupted text runs with activations of the clean run put in, one place at a time.

Many places are patched in one pass: each row of a batch is the corrupted text with another place patched.
Method: Vig et al. (2020), Meng et al. (2022); which way to measure, Zhang and Nanda (2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..core import checks
from ..core.positions import Positions
from ..core.progress import hidden
from ..core.sites import Array
from ..core.tokens import TokenBatch
from .metrics import Metric
from .places import Place, clean_places, rounding_of
from .question import Question
from .result import PatchingResult, results

_TOKENS = 4096
_LOGITS = 1 << 25
"""Tokens and logits of one pass, at most."""


@dataclass(frozen=True, eq=False, slots=True)
class _Patch:
    """One run of the corrupted texts: what is put in, and where the number it gives belongs."""

    place: Place
    chosen: np.ndarray
    """bool, (texts, positions)."""
    head: int | None
    index: tuple[int, int, int]
    """Component, layer and column of the result."""


def activation_patching(
    anatomy: Anatomy,
    clean: TokenBatch,
    corrupted: TokenBatch,
    component: str | Sequence[str] | None = None,
    layers: int | Iterable[int] | None = None,
    metric: Any = "l2",
    *,
    by: str = "layer",
    positions: Positions = None,
    batch_size: int | None = None,
    verbose: bool = False,
) -> dict[str, PatchingResult]:
    """A result for each component; see `InterpretableModel.activation_patching`."""
    question = Question.of(anatomy, clean, corrupted, component, layers, metric, by, positions)
    model, pair = anatomy.model, question.pair
    measured = Metric(metric, model, pair)
    names = [f"layers.{n}.{c}" for c in question.components for n in question.layers]
    places, logits = clean_places(anatomy, pair, names)
    clean_value = measured.of_clean(logits)
    corrupted_value = measured.later(model.run(corrupted).logits)()
    patches = list(_patches(question, places))
    columns = 1 + max(patch.index[2] for patch in patches)
    raw = np.full((len(question.components), len(question.layers), columns), np.nan)
    size = per_pass(model.vocab_size, pair.longest * pair.size, batch_size)
    from tqdm.auto import tqdm

    with tqdm(total=len(patches), desc="patching", disable=hidden(verbose)) as bar:
        for start in range(0, len(patches), size):
            part = patches[start : start + size]
            logits = _run(anatomy, question, part)
            rows = [logits[i * pair.size : (i + 1) * pair.size] for i in range(len(part))]
            found = [measured.later(row) for row in rows]
            for patch, value in zip(part, found, strict=True):
                raw[patch.index] = value()
            bar.update(len(part))
    return results(
        anatomy, question, raw, (clean_value, corrupted_value), measured.name, "activation patching",
        eps=rounding_of(anatomy, places),
    )  # fmt: skip


def _patches(question: Question, places: Sequence[Place]) -> Iterator[_Patch]:
    chosen = question.pair.chosen
    for number, place in enumerate(places):
        index = divmod(number, len(question.layers))
        if question.by == "layer":
            yield _Patch(place, chosen, None, (*index, 0))
        elif question.by == "head":
            for head in range(place.heads or 0):
                yield _Patch(place, chosen, head, (*index, head))
        else:
            for column, position in enumerate(np.flatnonzero(chosen[0])):
                only = np.zeros_like(chosen)
                only[:, position] = True
                yield _Patch(place, only, None, (*index, column))


def per_pass(vocab_size: int, tokens: int, batch_size: int | None) -> int:
    """How many patches run together."""
    if batch_size is None:
        return max(1, min(_TOKENS // tokens, _LOGITS // (tokens * vocab_size)))
    return checks.count(batch_size, "batch_size", hint="It is the number of patches in one pass.")


def _run(anatomy: Anatomy, question: Question, patches: Sequence[_Patch]) -> Array:
    """Logits (patches × texts, positions, vocabulary)."""
    model, pair = anatomy.model, question.pair
    batch = TokenBatch(
        np.tile(pair.corrupted.ids, (len(patches), 1)), np.tile(pair.corrupted.lengths, len(patches))
    )
    heads = [patch.head for patch in patches for _ in range(pair.size)]
    edits = []
    for place in dict.fromkeys(patch.place for patch in patches):
        chosen = np.concatenate([p.chosen if p.place is place else np.zeros_like(p.chosen) for p in patches])
        edits += place.edits(place.mask(chosen, heads), model.backend.where)
    return model.run(batch, edits=edits).logits
