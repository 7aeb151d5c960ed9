"""`FeatureScore` and `Detail`: how one explanation did, and what stands behind each of its scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..concepts.explanations import Explanation, Score


@dataclass(frozen=True, eq=False, slots=True)
class Detail:
    """What stands behind one score.

    Attributes:
        draws: float64, (draws,): the score of each draw by itself.
        as_wrong: The score with failures counted as wrong; the score leaves them out.
        auroc: How often an active window is above an inactive one; NaN for an intruder.
        precision: Of those called active.
        recall: Of the active ones.
        recall_by_tenth: Recall in each tenth of ranks, 9 the strongest, where there are any.
        by_kind: Share right among the windows of each kind; of what compares windows, the score of that kind against
            all of the other sort.
        by_tenth: The score on the active windows of each tenth of ranks, against all inactive ones.
        weighted: The score where an active window counts as much as the feature is strong in it.
        false_positives: Texts of inactive windows that were called active, the surest first, at most five.
        f1: Of precision and recall, in a generation test.
        control: float64, (explanations,): the same figure on the texts that were written for other features; empty
            where nothing was written, or for this one alone.
    """

    draws: np.ndarray
    as_wrong: float
    auroc: float = float("nan")
    precision: float = float("nan")
    recall: float = float("nan")
    recall_by_tenth: Mapping[int, float] = field(default_factory=dict)
    by_kind: Mapping[str, float] = field(default_factory=dict)
    by_tenth: Mapping[int, float] = field(default_factory=dict)
    weighted: float = float("nan")
    false_positives: tuple[str, ...] = ()
    f1: float = float("nan")
    control: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def between_draws(self) -> float:
        """Standard deviation of the draws' scores; NaN of one draw."""
        return float(np.std(self.draws, ddof=1)) if len(self.draws) > 1 else float("nan")


@dataclass(frozen=True, eq=False, slots=True)
class FeatureScore:
    """How one explanation did.

    Attributes:
        explanation: With its scores.
        details: What stands behind each score.
        reason: Why the feature could not be scored; "" where it was.
        firings: Tokens of the index on which the feature is active.
    """

    explanation: Explanation
    details: Mapping[str, Detail] = field(default_factory=dict)
    reason: str = ""
    firings: int = 0

    @property
    def scores(self) -> Mapping[str, Score]:
        """By scorer."""
        return self.explanation.scores if not self.reason else {}
