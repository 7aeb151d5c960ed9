"""Points of two figures against each other, with names: as inline SVG, and with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .escaping import escaped
from .plotting import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIDE, _LEFT, _BELOW = 320, 36, 34
_NAMED, _LEAST = 5, 0.25
"""Points that are named, of the highest in each direction, from this share of the axis on."""


def scatter_svg(x: np.ndarray, y: np.ndarray, names: Sequence[str], labels: Sequence[str]) -> str:
    """A square of points; each tells its name and numbers when the pointer rests on it.

    Args:
        x, y: (points,); the axes run from 0 to 1, or to the largest beyond.
        labels: Of both axes.
    """
    across, up = (max(1.0, float(np.max(values, initial=0.0))) for values in (x, y))
    left = _LEFT + np.clip(x, 0, None) / across * (_SIDE - _LEFT - 8)
    top = _SIDE - _BELOW - np.clip(y, 0, None) / up * (_SIDE - _BELOW - 8)
    dots = "".join(
        f'<rect x="{a - 2:.1f}" y="{b - 2:.1f}" width="4" height="4"><title>{escaped(name)}: {u:.3f}, {v:.3f}</title>'
        "</rect>"
        for a, b, name, u, v in zip(left, top, names, x, y, strict=True)
    )
    marks = "".join(
        f'<text x="{left[i] + 5:.1f}" y="{top[i] + 3:.1f}">{escaped(names[i])}</text>' for i in _outer(x, y)
    )
    base = _SIDE - _BELOW
    said = f"{labels[1]} against {labels[0]}, {len(names)} points"
    return (
        f'<figure><svg viewBox="0 0 {_SIDE + 40} {_SIDE}" role="img" aria-label="{escaped(said)}">'
        f'<title>{escaped(said)}</title><line x1="{_LEFT}" y1="{base}" x2="{_SIDE - 8}" y2="{base}"/>'
        f'<line x1="{_LEFT}" y1="8" x2="{_LEFT}" y2="{base}"/>{dots}{marks}'
        f'<text x="{_SIDE - 8}" y="{base + 14}" text-anchor="end">{across:.3g}</text>'
        f'<text x="{_LEFT - 4}" y="14" text-anchor="end">{up:.3g}</text>'
        f'<text x="{_LEFT}" y="{base + 28}">{escaped(labels[0])} →, {escaped(labels[1])} ↑</text></svg></figure>'
    )


def scatter_figure(
    x: np.ndarray, y: np.ndarray, names: Sequence[str], labels: Sequence[str], title: str, show: bool = False
) -> Figure:
    """The same with matplotlib.

    Raises:
        BackendError: matplotlib is not installed.
    """
    figure = new_figure(6.4, 5.2, show)
    axes = figure.subplots()
    axes.scatter(x, y, s=14, linewidths=0)
    middle = (x.min() + x.max()) / 2
    for number, i in enumerate(sorted(_outer(x, y), key=lambda i: x[i])):
        if x[i] <= middle:  # beside its point, else above and to the left, so that it stays within the axes
            axes.annotate(names[i], (x[i], y[i]), xytext=(4, 2), textcoords="offset points", fontsize=8)
        else:
            place = (4, 4 + 9 * (number % 2))
            axes.annotate(
                names[i], (x[i], y[i]), xytext=place, textcoords="offset points", fontsize=8, ha="right"
            )
    axes.set(xlabel=labels[0], ylabel=labels[1], title=title)
    return figure


def _outer(x: np.ndarray, y: np.ndarray) -> list[int]:
    """The highest points in each direction."""
    found: set[int] = set()
    for values in (x, y):
        least = _LEAST * max(1.0, float(np.max(values, initial=0.0)))
        found |= {i for i in np.argsort(-values, kind="stable")[:_NAMED].tolist() if values[i] >= least}
    return sorted(found)
