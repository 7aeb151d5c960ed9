"""`PatchingResult`: how much of the way from the corrupted to the clean run each place makes.

`activation_patching` and `attribution_patching` leave it behind.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..core.by_layer import layer_key
from ..data.text import pieces_of
from ..errors import warn
from ..viz.escaping import escaped, one_line, own_token, token_line
from ..viz.grid import Cell, Grid
from ..viz.page import Links
from ..viz.palette import steps_of
from ..viz.plotting import bars, finished, heatmap, new_figure
from ..viz.spans import bold, wants_color
from ..viz.view import View
from .question import Question

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SAME = 1e-6
"""A clean and a corrupted value closer than this share of their size are called equal: that is rounding."""

_ROUNDING = 16
"""Roundings that a repeated run may differ by."""
_TOLD = 0.005
"""Noise that could be seen in a table is told."""
_SEEN = 16
"""The full colour is for an effect so many times the noise, at least."""


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class PatchingResult(View, Mapping[int, Any]):
    """The metric with each place of one component patched.

    A notebook shows it by itself; `print` shows it in the terminal. As a mapping it gives what the existing mlxterp
    does: layer → per cent of the way back, or an array of them by position or head.

    Attributes:
        component: Name below a layer.
        layers: Numbers of the layers, in the order given.
        by: "layer", "position" or "head".
        columns: Positions of the corrupted text, or heads; empty by layer.
        raw: float64, (layers,), or (layers, columns): the metric of the patched run (by attribution: its estimate).
            NaN where a layer has fewer heads than another.
        clean: The metric of the clean run.
        corrupted: The metric of the corrupted run.
        metric: What was measured, in words.
        method: "activation patching" or "attribution patching".
        tokens: Text of the token at each position: the corrupted one, or "clean → corrupted" where they differ.
        eps: Rounding of one number in the model's dtype, relative.
    """

    component: str
    layers: tuple[int, ...]
    by: str
    columns: tuple[int, ...]
    raw: np.ndarray
    clean: float
    corrupted: float
    metric: str
    method: str
    tokens: tuple[str, ...] = ()
    eps: float = float(np.finfo(np.float32).eps)

    @property
    def effects(self) -> np.ndarray:
        """float64, of `raw`'s shape: 0 is the corrupted run, 1 the clean one; NaN where both give the same metric."""
        if not differ(self.clean, self.corrupted):
            return np.full(self.raw.shape, np.nan)
        return (self.raw - self.corrupted) / (self.clean - self.corrupted)

    @property
    def table(self) -> list[dict[str, Any]]:
        """A row for each place, with "layer", "position" (and "token") or "head", "effect" and "raw".

        `pandas.DataFrame(result.table)` takes it.
        """
        rows = []
        effects = self.effects
        for index in np.ndindex(self.raw.shape):
            row: dict[str, Any] = {"layer": self.layers[index[0]]}
            if self.columns:
                row[self.by] = self.columns[index[1]]
            if self.tokens:
                row["token"] = self.tokens[index[1]]
            rows.append(row | {"effect": float(effects[index]), "raw": float(self.raw[index])})
        return rows

    def top_components(self, k: int = 5) -> list[tuple[Any, ...]]:
        """The places of largest effect, of either sign: (layer, effect), or (layer, position or head, effect)."""
        rows = [row for row in self.table if np.isfinite(row["effect"])]
        rows.sort(key=lambda row: -abs(row["effect"]))
        middle = [self.by] if self.columns else []
        return [tuple(row[key] for key in ("layer", *middle, "effect")) for row in rows[:k]]

    # -- as a mapping ---------------------------------------------------------------------------

    def __getitem__(self, layer: int) -> Any:
        found = 100 * self.effects[self.layers.index(layer_key(layer, self.layers))]
        return float(found) if found.ndim == 0 else found

    def __iter__(self) -> Iterator[int]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    # -- to look at -----------------------------------------------------------------------------

    def fragment(self, level: int = 3, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet, for a page; its heading is of this `level`."""
        anchor = f' id="{element_id}"' if element_id else ""
        return (
            f'<section class="mxt-panel"{anchor} aria-label="Patching">'
            f'<h{level} class="mxt-title">{escaped(self._title())}</h{level}>{self._grid().html()}'
            f'<div class="mxt-foot">{escaped(self._facts())}</div></section>'
        )

    def plot(self, path: str | os.PathLike | None = None, show: bool = False) -> Figure:
        """Bars by layer, or a heatmap of layers by positions or heads.

        Args:
            path: Where to save it (.png, .svg, .pdf, …).
            show: Open a window. (A notebook shows the figure by itself.)

        Raises:
            BackendError: matplotlib is not installed.
        """
        effects, layers = self.effects, [str(n) for n in self.layers]
        if not self.columns:
            figure = new_figure(5 + 0.25 * len(layers), 3.6, show)
            axes = figure.subplots()
            bars(axes, effects, layers, "effect")
            axes.set(xlabel="layer", title=self._title())
            return finished(figure, path, show)
        scale = self._scale()
        names = [f"{n} {token_line(t.strip(' ') or t)}".strip() for n, t in self._headed()]
        figure = heatmap(
            np.where(np.abs(effects) <= self.noise, 0.0, effects), layers, names,
            limits=(-scale, scale), label="effect", title=self._title(), show=show,
        )  # fmt: skip
        figure.axes[0].set(xlabel=self.by, ylabel="layer")
        return finished(figure, path, show)

    def to_str(self, color: bool | None = None) -> str:
        """For the terminal: a row for each layer, the last on top.

        Args:
            color: None sets the title in bold where the output is a terminal and NO_COLOR is not set.
        """
        return "\n".join([bold(self._title(), wants_color(color)), *self._grid().lines(), self._facts()])

    def __repr__(self) -> str:
        return f"PatchingResult({self.component} by {self.by}: effects {self.raw.shape}, {self.method})"

    def _title(self) -> str:
        name = self.method[0].upper() + self.method[1:]
        return f"{name} of {one_line(self.component)}, by {self.by}"

    def _facts(self) -> str:
        rounding = f"; below {self.noise:.2g} an effect is rounding" if self.noise > _TOLD else ""
        return (
            f"0 is the corrupted run ({self.corrupted:.4g}), 1 the clean one ({self.clean:.4g});"
            f" metric: {one_line(self.metric)}{rounding}"
        )

    def _headed(self) -> list[tuple[str, str]]:
        tokens = [token or own_token(token) for token in self.tokens] or [""] * len(self.columns)
        return [(str(n), token) for n, token in zip(self.columns, tokens, strict=True)]

    @property
    def noise(self) -> float:
        """Effects below this are rounding of the metric, as large as it is, in the model's dtype."""
        if not differ(self.clean, self.corrupted):
            return 0.0
        size = max(abs(self.clean), abs(self.corrupted), float(np.nanmax(np.abs(self.raw), initial=0.0)))
        return _ROUNDING * self.eps * size / abs(self.clean - self.corrupted)

    def _scale(self) -> float:
        """The effect that gets the full colour: the largest, but not so small that rounding would be seen."""
        effects = np.abs(self.effects)
        largest = float(np.max(effects, where=np.isfinite(effects), initial=0.0))
        return max(largest, min(_SEEN * self.noise, 1.0)) or 1.0

    def _grid(self) -> Grid:
        effects = self.effects.reshape(len(self.layers), -1)
        above = np.isfinite(effects) & (np.abs(effects) > self.noise)
        steps = np.where(above, steps_of(np.nan_to_num(effects), self._scale()), 0)
        largest = float(np.max(np.abs(effects), where=above, initial=0.0))
        digits = 2 if largest == 0 else min(max(2, 1 - math.floor(math.log10(largest))), 9)
        steps[np.abs(np.nan_to_num(effects)).round(digits) == 0] = 0  # what is written as 0 has no colour
        raw = self.raw.reshape(effects.shape)
        rows = [
            (
                str(layer),
                [
                    Cell(
                        "" if np.isnan(r) else f"{round(e, digits) + 0.0:+.{digits}f}",
                        int(s),
                        f"layer {layer}: metric {r:.6g}",
                    )
                    for e, s, r in zip(effects[i], steps[i], raw[i], strict=True)
                ],
            )
            for i, layer in enumerate(self.layers)
        ]
        return Grid("layer", self._headed() or [("effect", "")], rows)


def differ(clean: float, corrupted: float) -> bool:
    """Whether two values of a metric differ by more than rounding."""
    return abs(clean - corrupted) > _SAME * max(abs(clean), abs(corrupted))


def results(
    anatomy: Anatomy,
    question: Question,
    raw: np.ndarray,
    ends: tuple[float, float],
    metric: str,
    method: str,
    eps: float,
) -> dict[str, PatchingResult]:
    """A result for each component, from metrics (components, layers, columns) and those of both runs.

    Args:
        eps: Relative rounding of one number in the model's dtype.
    """
    if not differ(*ends):
        warn(
            f"The clean and the corrupted run give the same metric ({ends[0]:.6g}), so there is nothing to restore:"
            " effects are NaN, `raw` holds the metric itself. Choose another metric or other texts."
        )
    found = {}
    for name, rows in zip(question.components, raw, strict=True):
        tokens: tuple[str, ...] = ()
        rows = rows[:, ~np.isnan(rows).all(axis=0)] if question.by == "head" else rows
        columns = tuple(range(rows.shape[1])) if question.by == "head" else ()
        if question.by == "position":
            columns = tuple(np.flatnonzero(question.pair.chosen[0]).tolist())
            tokens = _labels(anatomy, question, columns)
        values = rows[:, 0] if question.by == "layer" else rows
        found[name] = PatchingResult(
            name, question.layers, question.by, columns, values, *ends, metric, method, tokens, eps
        )
    return found


def _labels(anatomy: Anatomy, question: Question, columns: Sequence[int]) -> tuple[str, ...]:
    """Tokens of one pair of texts; empty for several, or without a tokenizer."""
    pair, tokenizer = question.pair, anatomy.model.tokenizer
    if tokenizer is None or pair.size > 1:
        return ()
    before, after = (pieces_of(tokenizer, b.ids[0].tolist()) for b in (pair.clean, pair.corrupted))
    return tuple(
        after[p] if before[p] == after[p] else f"{_shown(before[p])} → {_shown(after[p])}" for p in columns
    )


def _shown(token: str) -> str:
    """A token beside another: leading spaces are marked, and white space."""
    bare = token.lstrip(" ")
    return "·" * (len(token) - len(bare)) + bare if bare else own_token(token)
