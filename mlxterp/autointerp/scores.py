"""`Scores`: what came of scoring explanations, each figure with its chance, interval and failures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from ..concepts.explanations import Explanation, Score
from ..core import checks
from ..core.controls import DRAWS, Controlled, bootstrap, group_means
from ..core.frames import data_frame
from ..errors import InputError
from ..viz.lines import LinesView, Table
from ..viz.plotting import Plotted
from . import scores_file, scores_plot
from .feature_score import FeatureScore

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Scores(LinesView, Plotted, Sequence[FeatureScore]):
    """What `score` found, in the order of the explanations. `print` and notebooks show the table.

    `plot` draws each score by tenths of the ranks, mean and 95 % over features, with chance and the controls beside;
    and those on texts that were written.

    Attributes:
        found: The features.
        judge: Who was asked.
        seed: Of the windows' choice.
        controls: By scorer and kind: the mean beside means of a control's units (an explanation on a draw of windows).
        without: Controls that are not there, and why.
        provenance: Where the scores come from: plan, seed, index and SAE, judge, prompts (their digest, and one
            question of each scorer as it was asked), version.
        cost: Questions that were answered, tokens that judge and writer read and wrote, seconds, and when it was done.
        writer: Who wrote texts; "" where none were written.
    """

    found: tuple[FeatureScore, ...]
    judge: str
    seed: int
    controls: Mapping[str, Mapping[str, Controlled]] = field(default_factory=dict)
    without: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
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

    def mean(self, task: str, by: str = "features") -> Score | None:
        """The mean over features, with a 95 % interval over them; None where none was scored.

        Args:
            by: "features" counts each as much; "firings" as much as it has tokens where it is active.
        """
        by = checks.choice(by, "by", ("features", "firings"))
        scored = self._scored(task)
        if not scored:
            return None
        values = np.array([one.scores[task].value for one in scored])
        weights = np.array([float(one.firings if by == "firings" else 1) for one in scored])
        weights = weights if weights.any() else np.ones(len(scored))
        pairs = np.stack([values, weights], axis=1)
        failed = sum(one.scores[task].failed for one in scored)
        chances = [one.scores[task].chance for one in scored]
        chance = chances[0] if len(set(chances)) == 1 else _mean_chance(chances, weights)
        return Score(
            _weighted(pairs),
            chance,
            bootstrap(pairs, _weighted, seed=self.seed),
            len(values),
            failed,
            self.seed,
        )

    def ranked(self, task: str) -> list[FeatureScore]:
        """The features that were scored, the best first.

        Raises:
            InputError: There is one draw of windows alone, which would rank by chance.
        """
        scored = self._scored(task)
        if any(len(one.details[task].draws) < 2 for one in scored):
            raise InputError(
                "These scores are of one draw of windows, whose order would be chance: score with Plan(draws=2)."
            )
        return sorted(scored, key=lambda one: -one.scores[task].value)

    def beside(self, **controls: Scores) -> Scores:
        """The same, held also against scores of other features, such as those of a `control_index`.

        Args:
            controls: Scores of at least twenty features each, by what they are called; of the same scorers, or some.

        Raises:
            InputError: A control has fewer features that were scored, or none of the scorers.

        Examples:
            control = autointerp.control_index(index, "covariance")
            by_chance = control.score(control.explain(features))
            print(index.score(index.explain(features)).beside(covariance=by_chance))
        """
        added = {task: dict(known) for task, known in self.controls.items()}
        for name, other in controls.items():
            shared = [task for task in self.tasks if task in other.tasks]
            if not shared:
                raise InputError(
                    f"{name}= is scored by {', '.join(other.tasks) or 'nothing'}, this by {', '.join(self.tasks)}."
                )
            for task in shared:
                added.setdefault(task, {})[name] = self._against(task, name, other)
        return replace(self, controls=added)

    def _against(self, task: str, name: str, other: Scores) -> Controlled:
        """A mean beside means of as many of a control's features."""
        units = np.array([one.scores[task].value for one in other._scored(task)])
        if len(units) < DRAWS:
            raise InputError(
                f"{name}= has {len(units)} features scored by {task}; {DRAWS} are the fewest of a control."
            )
        mean = self.mean(task)
        assert mean is not None
        groups = group_means(units, mean.n or 1, seed=self.seed)
        return Controlled(mean.value, mean.interval, groups, name.replace("_", " "), self.seed)

    def save(self, path: str | os.PathLike) -> Path:
        """Writes the scores as one JSON file, whole or not at all; returns its path.

        Two runs with one seed write the same bytes but for "cost", which holds the times.

        Raises:
            WriteError: Nothing can be written there.
        """
        return scores_file.write(path, {field.name: getattr(self, field.name) for field in fields(self)})

    @staticmethod
    def load(path: str | os.PathLike) -> Scores:
        """The scores in a file that `save` wrote.

        Raises:
            InputError: There is none, it is damaged, or of a later version.
        """
        return Scores(**scores_file.read(path))

    def to_pandas(self) -> Any:
        """A table: a row for each explanation and score.

        Raises:
            BackendError: pandas is not installed.
        """
        rows = [row for one in self.found for row in _rows(one)]
        names = dict.fromkeys(name for row in rows for name in row)
        return data_frame({name: [row.get(name) for row in rows] for name in names})

    def _scored(self, task: str) -> list[FeatureScore]:
        return [one for one in self.found if task in one.details]

    @property
    def _lines(self) -> Sequence[str]:
        left_out = sum(bool(one.reason) for one in self.found)
        wrote = f", texts by {self.writer}" if self.writer else ""
        lines = [f"{len(self.found)} explanations, judged by {self.judge}{wrote}, seed {self.seed}"]
        for task in self.tasks:
            lines += [_summary(task, self), *(_beside(one) for one in self.controls.get(task, {}).values())]
        lines += [f"No control by {kind}: {reason}." for kind, reason in self.without.items()]
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

    def _drawn(self, show: bool) -> Figure:
        return scores_plot.by_tenth(self.found, self.controls, self.seed, show)


def _weighted(pairs: np.ndarray) -> float:
    """Mean of values by their weights, (n, 2)."""
    total = pairs[:, 1].sum()
    return float(pairs[:, 0] @ pairs[:, 1] / total) if total else float("nan")


def _mean_chance(chances: Sequence[float | None], weights: np.ndarray) -> float:
    """Of features that each have their own: the mean, by the same weights."""
    return _weighted(np.stack([np.array([0.0 if one is None else one for one in chances]), weights], axis=1))


def _summary(task: str, scores: Scores) -> str:
    mean, weighted = scores.mean(task), scores.mean(task, "firings")
    n = 0 if mean is None else mean.n
    beside = "" if weighted is None else f"; weighted by firings {weighted.value:.3g}"
    strong = [one.details[task].weighted for one in scores if task in one.details]
    known = [value for value in strong if np.isfinite(value)]
    beside += f", by strength {np.mean(known):.3g}" if known else ""
    written = [one.details[task].control.mean() for one in scores if _has_control(one, task)]
    beside += f"; texts of other features {np.mean(written):.3g}" if written else ""
    return f"{task}: mean {mean} over {n} features{beside}"


def _has_control(one: FeatureScore, task: str) -> bool:
    return task in one.details and len(one.details[task].control) > 0


def _beside(one: Controlled) -> str:
    low, high = one.control_interval
    verdict = "the score is above it" if one.stands_out else "no finding: the control shows it too"
    return f"  control, {one.kind}: {one.control_mean:.3g} [{low:.3g}, {high:.3g}]; {verdict}"


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
            "weighted": detail.weighted, "firings": one.firings,
        }  # fmt: skip
