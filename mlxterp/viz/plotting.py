"""Pictures with matplotlib, which is optional: a figure, a heatmap of labelled cells, bars.

Every `.plot` draws with it. Figures are made without pyplot, whose figures are
global, unless they are to be shown in a window.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len

from ..core.files import atomic_write
from ..core.places import beside, path_of
from ..errors import BackendError, InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LARGEST = 40.0
"""Inches of a figure's side, at most."""
_LETTER, _SMALL_LETTER, _TITLE_LETTER = 0.08, 0.065, 0.1
"""Inches of a letter under a heatmap, in its cells, and in its title."""
_NARROWEST, _LEAST, _ROW = 0.26, 2.0, 0.3
"""Inches of a heatmap's column and of all columns, at least, and of a row."""
_BESIDE, _ABOVE_AND_BELOW, _BAR = 1.9, 1.0, 0.15
"""Inches of what is beside a heatmap's cells, above and below them, and of its bar of colours."""
_SHORT, _TURNED = 3, 60
"""Names under a heatmap up to so many letters are written level, others turned by so many degrees."""


class Plotted(ABC):
    """A result that draws itself; its docstring says what is seen. A class gives `_drawn`."""

    __slots__ = ()

    def plot(self, path: str | os.PathLike | None = None, show: bool = False) -> Figure:
        """A picture of it, with matplotlib; what it shows stands where the class is described.

        Args:
            path: Also write it there (.png, .svg, .pdf, …).
            show: Open a window. (A notebook shows the figure by itself.)

        Raises:
            BackendError: matplotlib is not installed.
        """
        return finished(self._drawn(show), path, show)

    @abstractmethod
    def _drawn(self, show: bool) -> Figure:
        """The figure, of `new_figure`."""


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
        raise BackendError(
            'Plots need matplotlib: pip install "mlxterp[plot]", or pip install matplotlib.'
        ) from error
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
            with _any_letters():
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
        with _any_letters():
            figure.savefig(path)
        return
    target = path_of(path)
    target = target if target.suffix else beside(target, ".png")
    kinds = figure.canvas.get_supported_filetypes()
    if (kind := target.suffix[1:].lower()) not in kinds:
        raise InputError(f"{target.name!r} is of no form that matplotlib writes: {', '.join(sorted(kinds))}.")
    with atomic_write(target) as draft, _any_letters():
        figure.savefig(draft, format=kind)


def heatmap(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    limits: tuple[float, float],
    label: str,
    title: str = "",
    texts: Sequence[Sequence[str]] | None = None,
    show: bool = False,
) -> Figure:
    """A figure of cells coloured by `values` (rows, columns), the first row at the bottom; NaN stays empty.

    Each column is as wide as its longest text.

    Args:
        limits: What gets the first and the last colour. Where the first is negative, 0 is white.
        label: What the colours mean.
        texts: What to write into each cell.
        show: It will be shown in a window.

    Raises:
        BackendError: matplotlib is not installed.
    """
    inside = [[_plain(text) for text in row] for row in texts or ()]
    under = [_plain(column) for column in columns]
    flat = all(cell_len(column) <= _SHORT for column in under)
    wanted = [_column_width([row[j] for row in inside], name, flat) for j, name in enumerate(under)]
    hanging = 0.0 if flat else _LETTER * max(map(cell_len, under)) * math.sin(math.radians(_TURNED))
    width = max(max(sum(wanted), _LEAST) + _BESIDE, _TITLE_LETTER * (cell_len(title) + 2))
    figure = new_figure(width, _ROW * len(rows) + hanging + _ABOVE_AND_BELOW, show)
    share = min(1.0, _LARGEST / width)  # of the letters' size, where the page ends before the columns do
    axes, signed = figure.subplots(), limits[0] < 0
    edges = np.concatenate([[0.0], np.cumsum(wanted)])
    picture = axes.pcolormesh(
        edges, np.arange(len(rows) + 1) - 0.5, np.ma.masked_invalid(values),
        cmap="RdBu_r" if signed else "Blues", vmin=limits[0], vmax=limits[1],
    )  # fmt: skip
    middles = (edges[:-1] + edges[1:]) / 2
    turned: dict[str, Any] = {} if flat else {"rotation": _TURNED, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(middles, under, fontsize=9 * share, **turned)
    axes.set_yticks(range(len(rows)), [_plain(r) for r in rows])
    for i, row in enumerate(inside):
        for j, text in enumerate(row):
            strong = abs(values[i, j]) / max(abs(limits[0]), abs(limits[1])) > 0.6
            axes.text(
                middles[j], i, text, ha="center", va="center", fontsize=7 * share,
                color="white" if strong else "black",
            )  # fmt: skip
    if title:
        figure.suptitle(_plain(title), fontsize=12)
    whole = figure.get_figwidth()
    figure.colorbar(picture, ax=axes, label=label, fraction=_BAR / whole, pad=_BAR / whole, aspect=15)
    return figure


def _column_width(inside: Sequence[str], name: str, flat: bool) -> float:
    """Inches of a column."""
    letters = max(map(cell_len, inside), default=0)
    return max(_NARROWEST, _SMALL_LETTER * letters + 0.12, _LETTER * cell_len(name) + 0.12 if flat else 0.0)


@contextmanager
def _any_letters() -> Iterator[None]:
    """Without matplotlib's warnings of letters that its font lacks: a box stands for them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        yield


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
