"""What a judge is asked about an explanation, and what counts as right: detection, fuzzing, intruder.

Each scorer turns the windows of one draw into items: questions that are answered together, and the truth. Paulo et
al., "Automatically Interpreting Millions of Features in Large Language Models" (2024), have detection and fuzzing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..index.examples import FeatureExample
from . import measures
from .examples import Sample
from .judges import Question

_SHOWN = 0.3
"""Of a window's largest activation: tokens above it are marked."""
_WINDOWS = 5
"""Of an intruder's group."""


@dataclass(frozen=True, eq=False, slots=True)
class Item:
    """Something that is right or wrong.

    Attributes:
        questions: What is asked; one, or for an intruder one for each window of the group.
        sample: The window; the intruder.
        right: Whether yes is right; for an intruder, which question is the intruder's.
    """

    questions: tuple[Question, ...]
    sample: Sample
    right: int


Ask = Callable[[str, Sequence[Sample], np.random.Generator], list[Item]]
"""(explanation, the windows of a draw, a random generator) → items."""


def detection(explanation: str, samples: Sequence[Sample], draw: np.random.Generator) -> list[Item]:
    """Does the feature fire in this window? Nothing is marked."""
    del draw  # nothing is drawn
    return [
        Item((Question("detection", explanation, sample.example),), sample, int(sample.active))
        for sample in samples
    ]


def fuzzing(explanation: str, samples: Sequence[Sample], draw: np.random.Generator) -> list[Item]:
    """Are these the tokens that it fires on? Wrong are random tokens, as many, of windows where it is not active."""
    right = [marked_tokens(sample.example) for sample in samples if sample.active]
    size = max(1, round(float(np.mean([marks.sum() for marks in right])))) if right else 1
    items = []
    for sample in samples:
        n = len(sample.example.tokens)
        marks = np.zeros(n, dtype=bool)
        if sample.active:
            marks = marked_tokens(sample.example)
        else:
            marks[draw.permutation(n)[: min(size, n)]] = True
        items.append(
            Item((Question("fuzzing", explanation, sample.example, marks),), sample, int(sample.active))
        )
    return items


def intruder(explanation: str, samples: Sequence[Sample], draw: np.random.Generator) -> list[Item]:
    """Which of five windows is one where the feature is not active? Asks about the feature alone."""
    del explanation  # none is shown
    active = [sample for sample in samples if sample.active]
    if len(active) < _WINDOWS - 1:
        return []
    items = []
    for sample in samples:
        if sample.active:
            continue
        members = [active[int(i)].example for i in draw.permutation(len(active))[: _WINDOWS - 1]]
        place = int(draw.integers(_WINDOWS))
        group = [*members[:place], sample.example, *members[place:]]
        questions = tuple(
            Question("intruder", "", one, others=_without(group, i)) for i, one in enumerate(group)
        )
        items.append(Item(questions, sample, place))
    return items


SCORERS: dict[str, Ask] = {"detection": detection, "fuzzing": fuzzing, "intruder": intruder}
CHANCE = {"detection": 0.5, "fuzzing": 0.5, "intruder": 1 / _WINDOWS}
"""What a judge gets that always says the same."""


CLASSES = {"detection": 2, "fuzzing": 2, "intruder": 1}
"""Of items: active and inactive ones, whose shares right are averaged, or one."""


def marked_tokens(example: FeatureExample) -> np.ndarray:
    """bool, (tokens,): those on which the feature is at least 0.3 as strong as on the strongest."""
    strengths = np.abs(example.activations)
    return strengths >= max(_SHOWN * float(strengths.max()), np.finfo(np.float32).tiny)


def credit(item: Item, answer: np.ndarray) -> float:
    """1 where the answer is right, 0 where it is wrong, between where it is a tie; NaN where the judge failed."""
    if len(item.questions) > 1:
        return measures.chosen(answer, item.right)
    yes = float(measures.says_yes(answer)[0])
    return yes if item.right else 1 - yes


def _without(group: list[FeatureExample], i: int) -> tuple[FeatureExample, ...]:
    return (*group[:i], *group[i + 1 :])
