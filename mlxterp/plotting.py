"""Pictures with matplotlib, which is optional: a figure, a heatmap of labelled cells, bars.

`LogitLens.plot` and `PatchingResult.plot` draw with it. Figures are made without pyplot, whose figures are
global, unless they are to be shown in a window.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import BackendError, InputError
from .whole import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LARGEST = 40.0
"""Inches of a figure's side, at most."""


def new_figure(width: float, height: float, show: bool = False) -> Figure:
    """An empty figure of so many inches.

    Args:
        show: It will be shown in a window, so pyplot makes it.

    Raises:
        BackendError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError('Plots need matplotlib: pip install "mlxterp[plot]".') from error
    size = (min(width, _LARGEST), min(height, _LARGEST))
    if not show:
        return _shown_by_itself(Figure)(figsize=size, layout="constrained")
    from matplotlib import pyplot

    return pyplot.figure(figsize=size, layout="constrained")


@cache
def _shown_by_itself(kind: type[Figure]) -> type[Figure]:
    """The class of figures that notebooks show: of matplotlib's own they show only those that pyplot knows."""

    class NotebookFigure(kind):
        def _repr_png_(self) -> bytes:
            picture = io.BytesIO()
            self.savefig(picture, format="png")
            return picture.getvalue()

    return NotebookFigure


def finished(figure: Figure, path: str | os.PathLike | None, show: bool = False) -> Figure:
    """The figure, written to `path` (.png, .svg, .pdf, …) unless that is None, and shown if asked for."""
    if path is not None:
        write_figure(figure, path)
    if show:
        from matplotlib import pyplot

        pyplot.show()
    return figure


def write_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a figure in the format of the path's ending (none is .png), whole or not at all.

    Raises:
        InputError: matplotlib has no such format.
        WriteError: Nothing can be written there; what was there is unchanged.
    """
    if hasattr(path, "write"):  # an open file, which matplotlib takes too
        figure.savefig(path)
        return
    target = Path(path).expanduser()
    target = target if target.suffix else target.with_name(f"{target.name}.png")
    kinds = figure.canvas.get_supported_filetypes()
    if (kind := target.suffix[1:].lower()) not in kinds:
        raise InputError(f"{target.name!r} is of no form that matplotlib writes: {', '.join(sorted(kinds))}.")
    with written_whole(target) as draft:
        figure.savefig(draft, format=kind)


def heatmap(
    axes: Axes,
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    limits: tuple[float, float],
    label: str,
    texts: Sequence[Sequence[str]] | None = None,
) -> None:
    """Cells coloured by `values` (rows, columns), the first row at the bottom; NaN stays empty.

    Args:
        limits: What gets the first and the last colour. Where the first is negative, 0 is white.
        label: What the colours mean.
        texts: What to write into each cell.
    """
    signed = limits[0] < 0
    picture = axes.imshow(
        values, cmap="RdBu_r" if signed else "Blues", vmin=limits[0], vmax=limits[1],
        aspect="auto", origin="lower", interpolation="nearest",
    )  # fmt: skip
    axes.set_xticks(range(len(columns)), [_plain(c) for c in columns], rotation=60, ha="right")
    axes.set_yticks(range(len(rows)), [_plain(r) for r in rows])
    for i, row in enumerate(texts or ()):
        for j, text in enumerate(row):
            share = abs(values[i, j]) / max(abs(limits[0]), abs(limits[1]))
            colour = "white" if share > 0.6 else "black"
            axes.text(j, i, _plain(text), ha="center", va="center", fontsize=7, color=colour)
    figure: Any = axes.figure
    figure.colorbar(picture, ax=axes, label=label)


def bars(axes: Axes, values: np.ndarray, names: Sequence[str], label: str) -> None:
    """One bar for each value."""
    axes.bar(range(len(names)), values)
    axes.set_xticks(range(len(names)), [_plain(n) for n in names])
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel(label)


def plain_log_ticks(axis: Any) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 of each power of ten, as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _plain(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")
