"""Points of a map with matplotlib, coloured by one of their colourings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from ..core import checks
from .plotting import finished, new_figure
from .point_map import Points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMED = 12
"""Groups that a legend names at most."""


def scatter(points: Points, color: str, path: str | os.PathLike | None, show: bool) -> Figure:
    """The points by one of their colourings; those of narrower SAEs are larger, noise is grey.

    Raises:
        InputError: There is no such colouring.
        BackendError: matplotlib is not installed.
    """
    known = {one.name: one for one in points.colourings}
    chosen = known[checks.choice(color, "color", known)]
    figure = new_figure(9.0, 7.0, show)
    axes = figure.subplots()
    x, y = points.coordinates.T
    sizes = points.sizes() ** 2
    if chosen.groups is None:
        grey = np.isnan(chosen.values)
        axes.scatter(x[grey], y[grey], s=sizes[grey], color="0.8", linewidths=0, rasterized=True)
        drawn = axes.scatter(
            x[~grey], y[~grey], s=sizes[~grey], c=chosen.values[~grey], linewidths=0, rasterized=True
        )
        figure.colorbar(drawn, ax=axes, label=chosen.name, fraction=0.04)
    else:
        for code in [-1, *range(len(chosen.groups))]:
            own = chosen.values == code
            if not own.any():
                continue
            name = "noise" if code < 0 else chosen.groups[code]
            axes.scatter(
                x[own], y[own], s=sizes[own], color=chosen.color(code), linewidths=0, rasterized=True,
                label=name if len(chosen.groups) <= _NAMED else None,
            )  # fmt: skip
        if len(chosen.groups) <= _NAMED:
            axes.legend(title=chosen.name, fontsize=8, markerscale=2)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", "datalim")
    axes.set_title(points.title)
    return finished(figure, path, show)
