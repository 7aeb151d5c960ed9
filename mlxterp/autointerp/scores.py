"""`Scores`: what came of scoring explanations, each figure with its chance, interval and failures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np

from ..concepts.explanations import Explanation, Score
from ..core.controls import bootstrap
from ..core.frames import data_frame
from ..viz.lines import LinesView, Table


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
        by_kind: Share right among the windows of each kind.
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
    """

    explanation: Explanation
    details: Mapping[str, Detail] = field(default_factory=dict)
    reason: str = ""

    @property
    def scores(self) -> Mapping[str, Score]:
        """By scorer."""
        return self.explanation.scores if not self.reason else {}


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Scores(LinesView, Sequence[FeatureScore]):
    """What `score` found, in the order of the explanations. `print` and notebooks show the table.

    Attributes:
        found: The features.
        judge: Who was asked.
        seed: Of the windows' choice.
        writer: Who wrote texts; "" where none were written.
    """

    found: tuple[FeatureScore, ...]
    judge: str
    seed: int
    writer: str = ""

    @overload
    def __getitem__(self, index: int) -> FeatureScore: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[FeatureScore, ...]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self.found[index]

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[FeatureScore]:
        return iter(self.found)

    @property
    def explanations(self) -> list[Explanation]:
        """All explanations, with their scores."""
        return [one.explanation for one in self.found]

    @property
    def tasks(self) -> list[str]:
        """What was scored."""
        return list(dict.fromkeys(task for one in self.found for task in one.details))

    def mean(self, task: str) -> Score | None:
        """The mean over features, with a 95 % interval over them; None where none was scored."""
        scored = [one for one in self.found if task in one.details]
        if not scored:
            return None
        values = np.array([one.scores[task].value for one in scored])
        failed = sum(one.scores[task].failed for one in scored)
        chances = [one.scores[task].chance or 0.0 for one in scored]
        chance = chances[0] if len(set(chances)) == 1 else float(np.mean(chances))
        interval = bootstrap(values, seed=self.seed)
        return Score(float(values.mean()), chance, interval, len(values), failed, self.seed)

    def to_pandas(self) -> Any:
        """A table: a row for each explanation and score.

        Raises:
            BackendError: pandas is not installed.
        """
        rows = [row for one in self.found for row in _rows(one)]
        names = dict.fromkeys(name for row in rows for name in row)
        return data_frame({name: [row.get(name) for row in rows] for name in names})

    @property
    def _lines(self) -> Sequence[str]:
        left_out = sum(bool(one.reason) for one in self.found)
        wrote = f", texts by {self.writer}" if self.writer else ""
        lines = [f"{len(self.found)} explanations, judged by {self.judge}{wrote}, seed {self.seed}"]
        for task in self.tasks:
            mean = self.mean(task)
            control = [one.details[task].control.mean() for one in self.found if _has_control(one, task)]
            others = f"; texts of other features {np.mean(control):.3g}" if control else ""
            lines.append(f"{task}: mean {mean} over {0 if mean is None else mean.n} features{others}")
        return [*lines, f"{left_out} left out"] if left_out else lines

    @property
    def _tables(self) -> Sequence[Table]:
        rows = []
        for one in self.found:
            about = one.explanation
            told = [_told(task, one) for task in self.tasks]
            rows.append([str(about.feature_id), about.text, *told, one.reason])
        return (Table(["feature", "explanation", *self.tasks, ""], rows),)

    def __repr__(self) -> str:
        return f"<Scores: {self._lines[0]}>"

    def _title(self) -> str:
        return "Scores of explanations"


def _has_control(one: FeatureScore, task: str) -> bool:
    return task in one.details and len(one.details[task].control) > 0


def _told(task: str, one: FeatureScore) -> str:
    if task not in one.details:
        return ""
    detail = one.details[task]
    spread = "" if np.isnan(detail.between_draws) else f", draws differ by {detail.between_draws:.2f}"
    wrong = f", {detail.as_wrong:.3g} with failures as wrong" if one.scores[task].failed else ""
    f1 = "" if np.isnan(detail.f1) else f", F1 {detail.f1:.2f}"
    others = f", texts of other features {detail.control.mean():.2f}" if len(detail.control) else ""
    return f"{one.scores[task]}{wrong}{spread}{f1}{others}"


def _rows(one: FeatureScore) -> Iterator[dict[str, Any]]:
    about = {
        "feature_id": one.explanation.feature_id, "explanation": one.explanation.text,
        "source": one.explanation.source, "reason": one.reason,
    }  # fmt: skip
    if not one.details:
        yield about
    for task, detail in one.details.items():
        score = one.scores[task]
        low, high = score.interval or (float("nan"), float("nan"))
        yield {
            **about, "scorer": task, "score": score.value, "chance": score.chance, "low": low, "high": high,
            "n": score.n, "failed": score.failed, "as_wrong": detail.as_wrong, "auroc": detail.auroc,
            "precision": detail.precision, "recall": detail.recall, "f1": detail.f1,
            "control": detail.control.mean() if len(detail.control) else float("nan"),
            "between_draws": detail.between_draws,
        }  # fmt: skip
