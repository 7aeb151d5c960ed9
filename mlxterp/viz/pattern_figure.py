"""Attention patterns with matplotlib: one heat map with its tokens, or small ones side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..core import checks
from ..errors import InputError
from .escaping import own_token
from .plotting import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BACKENDS = ("auto", "matplotlib")
_DPI = 100
"""Pixels of an inch, for widths and heights given in pixels."""
_SMALL = 1.9
"""Inches of a small heat map's side."""
_WRITTEN = 48
"""Tokens that are written beside a heat map, at most; more are numbered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionVisualizationConfig:
    """How `attention_heatmap` and `attention_from_trace` draw.

    Attributes:
        colorscale: Name of a colour map of matplotlib.
        mask_upper_tri: Whether cells above the diagonal stay empty, where keys come after the query.
        show_colorbar: Whether a bar of colours stands beside.
        figure_width: In pixels, of a single heat map.
        figure_height: In pixels, of a single heat map.
        heads_per_row: Small heat maps in a row.
        hover_info: Whether the interactive page tells weights under the pointer. It always does.
        backend: "auto" or "matplotlib".
    """

    colorscale: str = "Blues"
    mask_upper_tri: bool = True
    show_colorbar: bool = True
    figure_width: int = 800
    figure_height: int = 600
    heads_per_row: int = 4
    hover_info: bool = True
    backend: str = "auto"

    def __post_init__(self) -> None:
        for name in ("mask_upper_tri", "show_colorbar", "hover_info"):
            checks.flag(getattr(self, name), name)
        for name in ("figure_width", "figure_height"):
            checks.count(getattr(self, name), name, 100)
        checks.count(self.heads_per_row, "heads_per_row")
        check_backend(self.backend)


def check_backend(backend: str) -> None:
    """Refuses pictures of libraries that are not used here.

    Raises:
        InputError: It is neither "auto" nor "matplotlib".
    """
    if backend in ("plotly", "circuitsvis"):
        raise InputError(
            f"backend={backend!r} is not drawn with here. Interactive pages need no library: save_interactive_attention"
            "(patterns, tokens, path), or patterns.to_html(path); figures are matplotlib's (backend='auto')."
        )
    checks.choice(backend, "backend", BACKENDS)


def pattern_figure(
    panels: Sequence[tuple[str, np.ndarray]],
    tokens: Sequence[str],
    config: AttentionVisualizationConfig | None = None,
    *,
    title: str = "",
    show: bool = False,
) -> Figure:
    """Heat maps of patterns (queries, keys) by name: a row for each token that reads, the first at the top.

    Raises:
        BackendError: matplotlib is not installed.
        InputError: There is no such colour map.
    """
    config = config or AttentionVisualizationConfig()
    across = min(config.heads_per_row, len(panels))
    down = -(-len(panels) // across)
    if len(panels) == 1:
        size = config.figure_width / _DPI, config.figure_height / _DPI
    else:
        size = _SMALL * across + 1.2, (_SMALL + 0.3) * down + 1.0
    figure = new_figure(*size, show)
    grid = figure.subplots(down, across, squeeze=False)
    picture = None
    for axes, (name, weights) in zip(grid.flat, panels, strict=False):
        picture = _drawn(axes, name, weights, config)
    for axes in list(grid.flat)[len(panels) :]:
        axes.axis("off")
    _named(grid, tokens, single=len(panels) == 1)
    if title and len(panels) > 1:
        figure.suptitle(title)
    if config.show_colorbar and picture is not None:
        figure.colorbar(picture, ax=grid.ravel().tolist(), label="attention", fraction=0.04)
    return figure


def _drawn(axes: Axes, name: str, weights: np.ndarray, config: AttentionVisualizationConfig):
    shown = np.ma.masked_invalid(weights.astype(np.float64))
    if config.mask_upper_tri and weights.shape[0] == weights.shape[1]:
        shown = np.ma.masked_where(np.triu(np.ones(weights.shape, bool), 1), shown)
    try:
        picture = axes.imshow(shown, cmap=config.colorscale, vmin=0.0, vmax=1.0, interpolation="nearest")
    except ValueError as error:
        raise InputError(
            f"colorscale={config.colorscale!r} is no colour map of matplotlib: {error}"
        ) from error
    axes.set_title(name, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    return picture


def _named(grid: np.ndarray, tokens: Sequence[str], single: bool) -> None:
    """Names the axes: with the tokens where there is room, else with positions."""
    if not single:
        grid[-1, 0].set_xlabel("read", fontsize=8)
        grid[0, 0].set_ylabel("reads", fontsize=8)
        return
    (axes,) = grid.flat
    if len(tokens) <= _WRITTEN:
        names = [own_token(token.strip(" ") or token).replace("$", r"\$") for token in tokens]
        axes.set_xticks(
            range(len(tokens)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8
        )
        axes.set_yticks(range(len(tokens)), names, fontsize=8)
    else:
        places = np.linspace(0, len(tokens) - 1, 9).round().astype(int).tolist()
        axes.set_xticks(places, [str(i) for i in places])
        axes.set_yticks(places, [str(i) for i in places])
    axes.set(xlabel="token that is read (key)", ylabel="token that reads (query)")
