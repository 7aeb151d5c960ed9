"""What is said of a feature: a person's name for it, and explanations by people and models, with their scores.

`Concept` is a name, `Explanation` a sentence; both are kept in `sae.concepts` and in its files (`store`). What makes
explanations, and what shows them, know these values and not each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..core import checks
from ..core.feature_ids import named_feature
from ..core.files import json_facts
from ..errors import InputError

PERSON = "person"
"""The source of what a person said; everything else names an explainer."""


@dataclass(frozen=True, slots=True)
class Concept:
    """A person's name for a feature.

    Attributes:
        name: At least one character that is not white space; kept as it was given.
        confidence: In [0, 1]: how sure the person is.
    """

    name: str
    confidence: float = 1.0


@dataclass(frozen=True, slots=True)
class Score:
    """How good an explanation is by one measure, with what chance gives and how sure the figure is.

    Attributes:
        value: The figure.
        chance: What a judge that knows nothing would get; None where nobody measured it.
        interval: 95 %, lower end first.
        n: Examples that were judged.
        failed: Examples that the judge gave no answer to; the value leaves them out.
        seed: Of the examples' choice.

    Raises:
        InputError: A figure that is not finite, an interval whose ends are exchanged, or counts below 0.
    """

    value: float
    chance: float | None = None
    interval: tuple[float, float] | None = None
    n: int | None = None
    failed: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        _set(self, "value", checks.finite(self.value, "a score"))
        if self.chance is not None:
            _set(self, "chance", checks.finite(self.chance, "a score's chance"))
        if self.interval is not None:
            _set(self, "interval", _interval(self.interval))
        _set(self, "n", checks.count_or_none(self.n, "a score's n", 0))
        _set(self, "failed", checks.count(self.failed, "a score's failed", 0))
        if self.seed is not None:
            _set(self, "seed", checks.seed(self.seed))

    def __str__(self) -> str:
        told = [f"{self.value:.3g}"]
        if self.interval is not None:
            told.append(f"[{self.interval[0]:.3g}, {self.interval[1]:.3g}]")
        told.append(f"chance {'not measured' if self.chance is None else format(self.chance, '.3g')}")
        told += [f"{self.failed} failed"] * bool(self.failed)
        return ", ".join(told)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What someone says that a feature means.

    `sae.concepts.add_explanations` keeps it with the SAE, `sae.save` writes it beside the weights.

    Attributes:
        feature_id: The feature.
        text: A sentence, a few words; kept as it was given.
        source: Who says so: "person", or the name of the explainer.
        confidence: In [0, 1]: how sure the source is; None where it does not say.
        scores: By the name of the measure ("detection"); a number alone is a score of which no more is known.
        provenance: Where it comes from (model, prompt, seed, index): anything that JSON can hold.

    Raises:
        InputError: No feature, an empty text or source, a confidence outside [0, 1], or what JSON cannot hold.

    Examples:
        >>> from mlxterp import Explanation
        >>> from mlxterp.concepts import Score
        >>> told = Explanation(741, "toys that are thrown", "gpt-x").scored(detection=Score(0.82, chance=0.5))
        >>> print(told)
        Feature 741: toys that are thrown (gpt-x); detection 0.82, chance 0.5
    """

    feature_id: int
    text: str
    source: str = PERSON
    confidence: float | None = None
    scores: Mapping[str, Score] = field(default_factory=dict, hash=False)
    provenance: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        feature = named_feature(self.feature_id)
        if feature is None or feature < 0:
            raise InputError(f"{self.feature_id!r} is no feature id; expected an integer of at least 0.")
        _set(self, "feature_id", feature)
        _set(self, "text", checked_text(self.text, "the explanation"))
        _set(self, "source", checked_text(self.source, "the source"))
        if self.confidence is not None:
            _set(self, "confidence", checks.fraction(self.confidence, "the confidence"))
        _set(self, "scores", _scores(self.scores))
        _set(self, "provenance", _plain(self.provenance))

    @property
    def by_person(self) -> bool:
        """Whether a person said it."""
        return self.source == PERSON

    def scored(self, **scores: Score | float) -> Explanation:
        """The same with these scores beside (or in place of) those that it has."""
        return replace(self, scores={**self.scores, **_scores(scores)})

    def __str__(self) -> str:
        sure = "" if self.confidence is None else f", confidence {self.confidence:g}"
        told = "".join(f"; {name} {score}" for name, score in self.scores.items())
        return f"Feature {self.feature_id}: {self.text} ({self.source}{sure}){told}"


Names = dict[int, list[Concept]]
Explanations = dict[int, list[Explanation]]


def checked_text(given: Any, what: str) -> str:
    """A text that is not empty and that UTF-8 can hold.

    Args:
        what: For messages, such as "the name".

    Raises:
        InputError: It is something else.
    """
    if not isinstance(given, str):
        raise InputError(f"{what} is {given!r}; expected text.")
    if not given.strip():
        raise InputError(f"{what} is empty.")
    try:
        given.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{what} {given!r} has half of a character (a lone surrogate).") from None
    return str(given)


def score_of(given: Any) -> Score:
    """A score that was given as one, as a number, or as JSON has it.

    Raises:
        InputError: It is something else.
    """
    if isinstance(given, Score):
        return given
    if not isinstance(given, Mapping):
        return Score(given)
    known = [one.name for one in fields(Score)]
    if (unknown := [key for key in given if key not in known]) or "value" not in given:
        what = f"{unknown[0]!r} is unknown" if unknown else "it has no value"
        raise InputError(f"a score holds {', '.join(known)}; in {given!r} {what}.")
    return Score(**given)


def _scores(given: Any) -> dict[str, Score]:
    if not isinstance(given, Mapping):
        raise InputError(f"scores is {given!r}; expected {{measure: score}}.")
    return {checked_text(name, "a measure's name"): score_of(score) for name, score in given.items()}


def _interval(given: Any) -> tuple[float, float]:
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise InputError(f"a score's interval is {given!r}; expected its two ends.")
    low, high = (checks.finite(end, "an end of a score's interval") for end in given)
    if low > high:
        raise InputError(f"a score's interval is {given!r}; expected the lower end first.")
    return low, high


def _plain(given: Any) -> dict[str, Any]:
    """A copy as JSON will give it back."""
    if not isinstance(given, Mapping):
        raise InputError(f"provenance is {given!r}; expected a dictionary of facts.")
    try:
        return json_facts(given)
    except ValueError as error:
        raise InputError(f"provenance holds what JSON cannot: {error}.") from error


def _set(value: Any, name: str, found: Any) -> None:
    object.__setattr__(value, name, found)
