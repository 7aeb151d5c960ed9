"""Controls that need nothing but the index: explanations of other features, and windows whose tokens were exchanged.

A unit of a control is one explanation on one draw of windows. A score is held against means of as many units as it has
features; with fewer than twenty units there is no control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..concepts.explanations import Explanation, Score
from ..core.controls import DRAWS, Controlled, group_means
from ..index.examples import FeatureExample
from .examples import Drawn, Sample
from .judges import Question
from .scorers import SCORERS, Item

CONTROLS: dict[str, str] = {
    "explanations": "explanations of other features",
    "tokens": "tokens exchanged among the windows",
}
"""What `controls=` takes, and what each is."""
TEXTS = "texts of other features"
"""What scores on texts that were written are held against."""
_SAMPLE = 40
"""Explanations among which exchanges are drawn."""


@dataclass(frozen=True, eq=False, slots=True)
class Unit:
    """One explanation on one draw of windows.

    Attributes:
        explanation: Of the feature.
        text: What is said of it: the explanation's, or another one's.
        number: Of the draw.
        seed: By which tokens are exchanged; None where they stay.
    """

    explanation: Explanation
    text: str
    number: int
    seed: int | None = None


def units(
    kind: str, scored: Sequence[Explanation], drawn: Mapping[int, Drawn], seed: int
) -> tuple[list[Unit], str]:
    """The units of a control, or why there are none.

    Args:
        kind: A key of `CONTROLS`.
        scored: Explanations of features that have windows.
    """
    draw = np.random.default_rng([seed, list(CONTROLS).index(kind)])
    if kind == "tokens":
        order = [int(i) for _ in range(-(-DRAWS // len(scored))) for i in draw.permutation(len(scored))]
        found = []
        for number, i in enumerate(order[:DRAWS]):
            draws = len(drawn[scored[i].feature_id].draws)
            found.append(Unit(scored[i], scored[i].text, int(draw.integers(draws)), number))
        return found, ""
    some = [scored[int(i)] for i in sorted(draw.permutation(len(scored))[:_SAMPLE])]
    pairs = [
        Unit(one, other.text, number)
        for one in some
        for other in some
        if other.feature_id != one.feature_id and other.text != one.text
        for number in range(len(drawn[one.feature_id].draws))
    ]
    if len(pairs) < DRAWS:
        return [], (
            f"{DRAWS} are wanted, and {len(scored)} explanations give {len(pairs)} exchanges; score more features"
            " together"
        )
    return [pairs[int(i)] for i in sorted(draw.permutation(len(pairs))[:DRAWS])], ""


def exchanged(items: Sequence[Item], samples: Sequence[Sample], seed: Sequence[int]) -> list[Item]:
    """The same questions about windows whose tokens have changed places, with their activations, among all windows.

    What is right stays: which window was an active one no longer has to do with its tokens.
    """
    examples = [sample.example for sample in samples]
    tokens = [token for one in examples for token in one.tokens]
    values = np.concatenate([one.activations for one in examples])
    order = np.random.default_rng(list(seed)).permutation(len(tokens))
    new: dict[int, FeatureExample] = {}
    start = 0
    for one in examples:
        mine = order[start : start + len(one.tokens)]
        start += len(one.tokens)
        new[id(one)] = replace(one, tokens=tuple(tokens[i] for i in mine), activations=values[mine])

    def moved(question: Question) -> Question:
        others = tuple(new[id(other)] for other in question.others)
        return replace(question, example=new[id(question.example)], others=others)

    return [replace(item, questions=tuple(moved(question) for question in item.questions)) for item in items]


def applies(kind: str, task: str) -> bool:
    """Whether a control changes what a scorer asks."""
    return kind != "explanations" or SCORERS[task].explains


def held_against(mean: Score, values: Sequence[float], kind: str, seed: int) -> Controlled | None:
    """A mean over features beside means of as many units; None where too few units could be judged."""
    known = np.array([value for value in values if np.isfinite(value)])
    if len(known) < DRAWS:
        return None
    groups = group_means(known, mean.n or 1, seed=seed)
    return Controlled(mean.value, mean.interval, groups, kind, seed)
