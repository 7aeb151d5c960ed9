"""What to call a feature that explanations are kept of: the one that is trusted most, and how it is shown."""

from __future__ import annotations

from collections.abc import Iterable

from .explanations import Explanation, Score

OF_THE_SENTENCE = (
    "detection",
    "generation",
    "fuzzing",
    "simulation",
    "surprisal",
    "embedding",
    "sensitivity",
)
"""Measures that test what an explanation says, those that are trusted most first."""
OF_THE_FEATURE = ("intruder",)
"""Measures that show no explanation to the judge, so that they say nothing of it."""


def judged_by(explanation: Explanation) -> tuple[str, Score] | None:
    """The measure that an explanation is compared by, and its score; None where nothing tested the sentence."""
    known = [one for one in OF_THE_SENTENCE if one in explanation.scores]
    others = [one for one in explanation.scores if one not in (*OF_THE_SENTENCE, *OF_THE_FEATURE)]
    name = next(iter([*known, *others]), None)
    return None if name is None else (name, explanation.scores[name])


def skill(explanation: Explanation) -> float:
    """How far it is from chance (0) to perfect (1), by `judged_by`; its score where chance is not known; 0 unscored."""
    found = judged_by(explanation)
    if found is None:
        return 0.0
    value, chance = found[1].value, found[1].chance
    return value if chance is None or chance >= 1 else (value - chance) / (1 - chance)


def best_of(explanations: Iterable[Explanation]) -> Explanation | None:
    """What a person says, else what scores best; among equals the first. Unscored ones come last."""
    ranked = sorted(
        explanations, key=lambda one: (not one.by_person, judged_by(one) is None, -skill(one))
    )  # stable
    return ranked[0] if ranked else None


def shown(explanation: Explanation) -> str:
    """Its text; what no person said is marked, with its score."""
    if explanation.by_person:
        return explanation.text
    found = judged_by(explanation)
    score = "not scored" if found is None else f"{found[0]} {found[1].value:.2f}"
    return f"{explanation.text} (explanation, {score})"
