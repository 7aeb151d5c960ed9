"""The picture of `Scores`: each score by tenths of the ranks, beside chance and the controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.controls import Controlled, bootstrap
from ..viz.plotting import new_figure
from .feature_score import FeatureScore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TENTHS = 10
_WIDTH, _HEIGHT = 4.2, 3.6


def by_tenth(
    found: Sequence[FeatureScore], controls: Mapping[str, Mapping[str, Controlled]], seed: int, show: bool
) -> Figure:
    """A plot for each scorer that has tenths; one that is empty says so."""
    tasks = list(
        dict.fromkeys(task for one in found for task, detail in one.details.items() if detail.by_tenth)
    )
    figure = new_figure(_WIDTH * max(1, len(tasks)), _HEIGHT, show)
    if not tasks:
        figure.suptitle("No score by tenths of the ranks")
        return figure
    named: dict[str, Any] = {}
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
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
    axes.plot(tenths, means, marker="o", label="mean over features")
    axes.fill_between(tenths, low, high, alpha=0.2)
    axes.set_xticks(range(1, _TENTHS + 1))
    axes.set_xlabel("tenth of the ranks (10: the strongest)")
