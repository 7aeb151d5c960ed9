"""The picture of `Scores`: scores by tenths of the ranks, and those on written texts, beside chance and controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.controls import Controlled, bootstrap
from ..viz.plotting import new_figure
from .feature_score import FeatureScore
from .generation import TESTS
from .shuffling import TEXTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OWN = "mean over features"
_TENTHS = 10
_WIDTH, _HEIGHT = 4.2, 3.6


def by_tenth(
    found: Sequence[FeatureScore], controls: Mapping[str, Mapping[str, Controlled]], seed: int, show: bool
) -> Figure:
    """A plot for each scorer that has tenths, and one for those on written texts; one that is empty says so."""
    tasks = list(
        dict.fromkeys(task for one in found for task, detail in one.details.items() if detail.by_tenth)
    )
    written = [task for task in TESTS if any(task in one.details for one in found)]
    n = len(tasks) + bool(written)
    figure = new_figure(_WIDTH * max(1, n), _HEIGHT, show)
    if not n:
        figure.suptitle("No score by tenths of the ranks")
        return figure
    named: dict[str, Any] = {}
    several = figure.subplots(1, n, squeeze=False)[0]
    if written:
        _points(several[-1], found, written, seed)
        named.update(zip(*several[-1].get_legend_handles_labels()[::-1], strict=True))
    for axes, task in zip(several, tasks, strict=False):
        scored = [one for one in found if task in one.details]
        _line(axes, [one.details[task].by_tenth for one in scored], seed)
        chance = scored[0].scores[task].chance
        if chance is not None:
            axes.axhline(chance, color="black", linewidth=0.8, linestyle=":", label="chance")
        for number, one in enumerate(controls.get(task, {}).values()):
            axes.axhspan(
                *one.control_interval, color=f"C{number + 1}", alpha=0.25, label=f"{one.kind} (all tenths)"
            )
        axes.set_ylabel(task)
        named.update(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=len(named), fontsize=8)
    return figure


def _points(axes: Any, found: Sequence[FeatureScore], tasks: Sequence[str], seed: int) -> None:
    """Mean over features of each score on written texts, with its interval, chance and the texts of other features."""
    for place, task in enumerate(tasks):
        scored = [one for one in found if task in one.details]
        others = [one.details[task].control.mean() for one in scored if len(one.details[task].control)]
        groups = [[one.scores[task].value for one in scored], others]
        for at, color, values in zip((-0.1, 0.1), ("C0", "C1"), groups, strict=True):
            if values:
                _point(axes, place + at, np.array(values), color, _OWN if color == "C0" else TEXTS, seed)
        chance = float(np.mean([one.scores[task].chance or 0.0 for one in scored]))
        axes.hlines(
            chance, place - 0.3, place + 0.3, color="black", linewidth=0.8, linestyle=":", label="chance"
        )
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_xlim(-0.5, len(tasks) - 0.5)
    axes.set_ylabel("texts that were written")


def _point(axes: Any, at: float, values: np.ndarray, color: str, label: str, seed: int) -> None:
    mean, (low, high) = float(values.mean()), bootstrap(values, seed=seed)
    axes.errorbar(
        [at], [mean], [[max(0, mean - low)], [max(0, high - mean)]], marker="o", color=color, label=label
    )


def _line(axes: Any, by_feature: Sequence[Mapping[int, float]], seed: int) -> None:
    """Mean over features of each tenth, with its interval."""
    tenths, means, ends = [], [], []
    for tenth in range(_TENTHS):
        values = np.array([found.get(tenth, np.nan) for found in by_feature])
        values = values[np.isfinite(values)]
        if len(values):
            tenths.append(tenth + 1)
            means.append(float(values.mean()))
            ends.append(bootstrap(values, seed=seed))
    low, high = np.array(ends).reshape(-1, 2).T
    axes.plot(tenths, means, marker="o", label=_OWN)
    axes.fill_between(tenths, low, high, alpha=0.2)
    axes.set_xticks(range(1, _TENTHS + 1))
    axes.set_xlabel("tenth of the ranks (10: the strongest)")
