"""What a judge is asked about an explanation, and what counts as right.

Each scorer turns the windows of one draw into items: questions that are answered together, and the truth.

* detection, fuzzing, intruder, and surprisal and embedding as scores: Paulo et al., "Automatically Interpreting
  Millions of Features in Large Language Models" (2024);
* simulation: Bills et al., "Language models can explain neurons in language models" (2023);
* neighbour precision asks of windows where features with near decoder rows are active: an explanation that holds for
  them too is too wide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..index.examples import FeatureExample
from . import measures
from .examples import Sample
from .judges import PROBABILITIES, Question
from .measures import Figure

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
Answers = Sequence[np.ndarray]
"""Of each item: a number for each of its questions; of a simulation one for each token."""
Measure = Callable[[Sequence[Item], Answers], Figure]


@dataclass(frozen=True, eq=False, slots=True)
class Scorer:
    """One way to score an explanation.

    Attributes:
        ask: What is asked.
        figure: The score of answers.
        chance: What a judge gets that always says the same.
        answers: What it asks a judge for; see `judges`.
        by_window: Whether one window's answer is right or wrong by itself (else it is compared with others).
        explains: Whether the explanation is shown.
        inactive: Whether items of both kinds are wanted, active and inactive.
    """

    ask: Ask
    figure: Measure
    chance: float
    answers: str = PROBABILITIES
    by_window: bool = False
    explains: bool = True
    inactive: bool = True


def detection(explanation: str, samples: Sequence[Sample], draw: np.random.Generator) -> list[Item]:
    """Does the feature fire in this window? Nothing is marked."""
    return _each("detection", explanation, samples, draw)


def simulation(explanation: str, samples: Sequence[Sample], draw: np.random.Generator) -> list[Item]:
    """How strongly does it fire on each token?"""
    return _each("simulation", explanation, samples, draw)


def surprisal(explanation: str, samples: Sequence[Sample], draw: np.random.Generator) -> list[Item]:
    """Is the window easier to foretell after the explanation?"""
    return _each("surprisal", explanation, samples, draw)


def embedding(explanation: str, samples: Sequence[Sample], draw: np.random.Generator) -> list[Item]:
    """Is the window's embedding near that of the explanation?"""
    return _each("embedding", explanation, samples, draw)


def neighbour_precision(explanation: str, samples: Sequence[Sample], draw: np.random.Generator) -> list[Item]:
    """Does it fire in this window? Inactive windows are those where a feature with a near decoder row is active."""
    chosen = [sample for sample in samples if sample.active or sample.kind == "neighbour"]
    return _each("detection", explanation, chosen, draw)


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


def active_of(items: Sequence[Item]) -> np.ndarray:
    """bool, (items,)."""
    return np.array([item.sample.active for item in items], dtype=bool)


def _balanced(items: Sequence[Item], answers: Answers) -> Figure:
    credits = np.array([credit(item, answer) for item, answer in zip(items, answers, strict=True)])
    return measures.balanced_figure(credits, active_of(items))


def _auroc(items: Sequence[Item], answers: Answers) -> Figure:
    return measures.auroc_figure(np.array([answer[0] for answer in answers]), active_of(items))


def _precision(items: Sequence[Item], answers: Answers) -> Figure:
    yes = measures.says_yes(np.array([answer[0] for answer in answers]))
    return measures.precision_figure(yes, active_of(items))


def _correlation(items: Sequence[Item], answers: Answers) -> Figure:
    true = [np.abs(item.sample.example.activations).astype(np.float64) for item in items]
    return measures.correlation_figure(list(answers), true)


def _each(task: str, explanation: str, samples: Sequence[Sample], draw: np.random.Generator) -> list[Item]:
    """An item for each window."""
    del draw  # nothing is drawn
    return [
        Item((Question(task, explanation, sample.example),), sample, int(sample.active)) for sample in samples
    ]


def _without(group: list[FeatureExample], i: int) -> tuple[FeatureExample, ...]:
    return (*group[:i], *group[i + 1 :])


SCORERS: dict[str, Scorer] = {
    "detection": Scorer(detection, _balanced, 0.5, by_window=True),
    "fuzzing": Scorer(fuzzing, _balanced, 0.5, by_window=True),
    "intruder": Scorer(intruder, _balanced, 1 / _WINDOWS, by_window=True, explains=False, inactive=False),
    "simulation": Scorer(simulation, _correlation, 0.0, answers="strengths"),
    "surprisal": Scorer(surprisal, _auroc, 0.5, answers="gains"),
    "embedding": Scorer(embedding, _auroc, 0.5, answers="cosines"),
    "neighbour_precision": Scorer(neighbour_precision, _precision, 0.5),
}
CHANCE = {task: scorer.chance for task, scorer in SCORERS.items()}
"""What a judge gets that always says the same."""
