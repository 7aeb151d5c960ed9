"""`Plan`: which examples of a feature are shown to who explains it, and which to who scores the explanation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..concepts.explanations import Explanation
from ..core import checks
from ..errors import InputError

POSITIVES = ("top", "quantile", "random", "weighted")
"""Windows where the feature is active: the strongest; evenly from the tenths of all ranks; any; by strength."""
NEGATIVES = ("random", "same_token", "neighbour", "coactive")
"""Windows where it is not: any; around a token it fires on elsewhere; where a feature with a near decoder row, or one
that often fires beside it, is active."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How many windows of each kind are drawn for a feature. A text serves explaining or scoring, never both.

    Attributes:
        explaining: Windows to explain from, by kind: of "top" (the strongest), "quantile" (evenly from the ten tenths
            of all ranks), "random" and "weighted" (as likely as they are strong, the top ones left out).
        positives: Windows to score on, of the same kinds.
        negatives: Windows to score on where the feature is not active, each looked up: "random", "same_token" (the
            token it fires on elsewhere), "neighbour" (a feature with a near decoder row is active) and "coactive" (one
            that often fires on the same tokens is).
        contrast: Windows for who explains where the feature is not active, of the same kinds, of texts to explain from.
        before: Tokens shown before the strongest one.
        after: Tokens shown after it.
        draws: Independent draws of the windows to score on.
        least: A feature with fewer windows to explain from, or fewer positives or negatives in a draw, is left out,
            with the reason.
        seed: Of all draws, in [0, 2**64).
        neighbours: Features with the nearest decoder rows, and that fire together most, whose windows are taken.

    Raises:
        InputError: An unknown kind, or a number that is no count.

    Examples:
        >>> from mlxterp import autointerp
        >>> autointerp.Plan(negatives={"random": 10}, draws=3).draws
        3
    """

    explaining: Mapping[str, int] = field(default_factory=lambda: {"top": 10, "quantile": 10}, hash=False)
    positives: Mapping[str, int] = field(default_factory=lambda: {"quantile": 10}, hash=False)
    negatives: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(NEGATIVES, 5), hash=False)
    contrast: Mapping[str, int] = field(default_factory=lambda: {"random": 3, "same_token": 3}, hash=False)
    before: int = 10
    after: int = 10
    draws: int = 2
    least: int = 4
    seed: int = 0
    neighbours: int = 10

    def __post_init__(self) -> None:
        for name, kinds in (("explaining", POSITIVES), ("positives", POSITIVES), ("negatives", NEGATIVES)):
            object.__setattr__(self, name, _counts(getattr(self, name), name, kinds))
        contrast = _counts(self.contrast, "contrast", NEGATIVES) if self.contrast else {}
        object.__setattr__(self, "contrast", contrast)
        for name, least in (("before", 0), ("after", 0), ("neighbours", 1), ("draws", 1), ("least", 1)):
            object.__setattr__(self, name, checks.count(getattr(self, name), name, least))
        object.__setattr__(self, "seed", checks.seed(self.seed))


def plan_of(explanation: Explanation) -> Plan:
    """The plan that an explanation was made by, as its provenance says; `Plan()` where it says none."""
    said = explanation.provenance.get("plan")
    try:
        return Plan(**said) if isinstance(said, Mapping) else Plan()
    except (TypeError, InputError):
        return Plan()


def _counts(given: Any, name: str, kinds: tuple[str, ...]) -> dict[str, int]:
    """Windows by kind, those of which there are none left out.

    Raises:
        InputError: It is no dictionary of counts, or has no window at all.
    """
    if not isinstance(given, Mapping):
        raise InputError(f"{name}= is a dictionary of counts by kind ({', '.join(kinds)}), got {given!r}.")
    found = {
        checks.choice(kind, f"A kind of {name}", kinds): checks.count(n, kind, 0) for kind, n in given.items()
    }
    if not any(found.values()):
        raise InputError(f"{name}= asks for no windows; give a count for one of: {', '.join(kinds)}.")
    return {kind: n for kind, n in found.items() if n}
