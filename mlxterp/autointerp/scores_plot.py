"""The picture of `Scores`: each score by tenths of the ranks, beside chance and the controls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.controls import bootstrap
from ..viz.plotting import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .scores import Scores

_TENTHS = 10
_WIDTH, _HEIGHT = 4.2, 3.6


def by_tenth(scores: Scores, show: bool) -> Figure:
    """A plot for each scorer that has tenths; one that is empty says so."""
    tasks = [
        task
        for task in scores.tasks
        if any(one.details[task].by_tenth for one in scores if task in one.details)
    ]
    figure = new_figure(_WIDTH * max(1, len(tasks)), _HEIGHT, show)
    if not tasks:
        figure.suptitle("No score by tenths of the ranks")
        return figure
    named: dict[str, Any] = {}
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        _draw(axes, scores, task)
        named.update(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=len(named), fontsize=8)
    return figure


def _draw(axes: Any, scores: Scores, task: str) -> None:
    tenths, means, ends = [], [], []
    for tenth in range(_TENTHS):
        found = [one.details[task].by_tenth.get(tenth) for one in scores if task in one.details]
        values = np.array([value for value in found if value is not None and np.isfinite(value)])
        if len(values):
            tenths.append(tenth + 1)
            means.append(float(values.mean()))
            ends.append(bootstrap(values, seed=scores.seed))
    low, high = np.array(ends).T
    axes.plot(tenths, means, marker="o", label="mean over features")
    axes.fill_between(tenths, low, high, alpha=0.2)
    mean = scores.mean(task)
    if mean is not None and mean.chance is not None:
        axes.axhline(mean.chance, color="black", linewidth=0.8, linestyle=":", label="chance")
    for number, one in enumerate(scores.controls.get(task, {}).values()):
        axes.axhspan(
            *one.control_interval, color=f"C{number + 1}", alpha=0.25, label=f"{one.kind} (all tenths)"
        )
    axes.set_xticks(range(1, _TENTHS + 1))
    axes.set_xlabel("tenth of the ranks (10: the strongest)")
    axes.set_ylabel(task)
