"""`PlacedRows`: decoder rows as points, with what is known of each, and how they are shown.

`DecoderMap` is one; clusters and files are made from it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.controls import Controlled
from ..core.frames import data_frame
from ..viz.escaping import one_line
from ..viz.lines import Table
from ..viz.page import Links
from ..viz.point_map import Colouring, Points, panel, point_map_page
from ..viz.point_plot import scatter
from ..viz.spans import bold, wants_color
from ..viz.view import View
from .decoder_rows import Distinct
from .layouts import CALLED, Method

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NEARNESS = "mean cosine of the nearest"
_HEADS = ("width", "rows on the map", "dead", "cosine of the nearest, median")


@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class PlacedRows(View):
    """Decoder rows as points of a map, with what is known of each: what a `DecoderMap` is made of.

    Attributes:
        coordinates: float32, (n, 2).
        width: int64, (n,): of each point's SAE.
        feature_id: int64, (n,).
        nearness: float64, (n,): mean cosine with the row's nearest: where the dictionary is dense.
        labels: Of each point; "" where it has none.
        tokens: The tokens that each row promotes most; () where no model was given.
        scores: {name: float64, (n,)}; NaN where a point has none.
        kept: Share of a row's nearest that are among its nearest on the map.
        dead: Rows of zeros, which are not on the map, by width.
        copies: Points that stand with another of the same direction.
        method: "umap", "tsne" or "pca".
        n_neighbors: Nearest rows of each.
        min_dist: Of UMAP.
        seed: Of method and control.
        component: Path of the component that the SAEs read; None where it is not known.
        fingerprints: Of the SAEs, by width.
        distinct: The rows; None for a map that was loaded without its SAEs.
    """

    coordinates: np.ndarray
    width: np.ndarray
    feature_id: np.ndarray
    nearness: np.ndarray
    labels: tuple[str, ...]
    tokens: tuple[tuple[str, ...], ...]
    scores: Mapping[str, np.ndarray]
    kept: Controlled
    dead: Mapping[int, int]
    copies: int
    method: Method
    n_neighbors: int
    min_dist: float
    seed: int
    component: str | None
    fingerprints: Mapping[int, str]
    distinct: Distinct | None

    def __len__(self) -> int:
        return len(self.coordinates)

    @property
    def widths(self) -> list[int]:
        """Of the SAEs, ascending."""
        return sorted(self.fingerprints)

    # -- in other forms -----------------------------------------------------------------------

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each point: width, feature_id, x, y, label, tokens, nearness, and each score.

        Raises:
            BackendError: pandas is not installed.
        """
        columns = {
            "width": self.width, "feature_id": self.feature_id, "x": self.coordinates[:, 0],
            "y": self.coordinates[:, 1], "label": list(self.labels), "nearness": self.nearness,
        }  # fmt: skip
        if self.tokens:
            columns["tokens"] = list(self.tokens)
        return data_frame({**columns, **self.scores})

    # -- shown --------------------------------------------------------------------------------

    def colourings(self) -> tuple[Colouring, ...]:
        """What points can be coloured by; the first is shown where nothing is chosen."""
        codes = np.searchsorted(self.widths, self.width)
        width = Colouring("width", codes, tuple(map(str, self.widths)), ordered=True)
        scores = [Colouring(name, values) for name, values in self.scores.items()]
        scores.append(Colouring(_NEARNESS, self.nearness))
        return (width, *scores) if len(self.widths) > 1 else (*scores, width)

    def points(self) -> Points:
        """What the page shows."""
        return Points(
            self._title(), tuple(self.lines), self.coordinates, self.width, self.feature_id, self.labels, self.tokens,
            self.colourings(),
        )  # fmt: skip

    @property
    def lines(self) -> list[str]:
        """What is said of the map, in sentences."""
        dist = f", min_dist {self.min_dist:g}" if self.method == "umap" else ""
        left = ", ".join(f"{n} of width {width}" for width, n in self.dead.items() if n)
        found = [
            f"{len(self)} decoder rows by {CALLED[self.method]}, {self.n_neighbors} neighbours{dist}, seed {self.seed}",
            f"share of a row's {self.n_neighbors} nearest that are its nearest on the map: {self.kept}",
        ]
        if left:
            found.append(f"dead rows left out: {left}")
        if self.copies:
            found.append(f"{self.copies} rows are copies of others and stand with them")
        return found

    def _rows(self) -> list[list[str]]:
        found = []
        for width in self.widths:
            near = self.nearness[self.width == width]
            said = f"{np.median(near):.3f}" if len(near) else ""
            found.append([str(width), str(len(near)), str(self.dead[width]), said])
        return found

    def to_str(self, color: bool | None = None) -> str:
        """For the terminal: how the map was made, what it keeps, and a row for each width.

        Args:
            color: None sets the title in bold where the output is a terminal and NO_COLOR is not set.
        """
        title = bold(one_line(self._title()), wants_color(color))
        return "\n".join([title, *self.lines, "", *Table(_HEADS, self._rows()).lines()])

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)} rows of widths {self.widths} by {CALLED[self.method]}>"

    def _title(self) -> str:
        return f"Map of features{f' at {self.component}' if self.component else ''}"

    def _page(self) -> str:
        return point_map_page(self.points())

    def fragment(self, level: int = 3, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet and scripts, for a page: a picture of the map, and what is said of it."""
        return panel(self.points(), Table(_HEADS, self._rows()).html(), level, element_id)

    def plot(self, color: str = "width", path: str | os.PathLike | None = None, show: bool = False) -> Figure:
        """The points, coloured; those of narrower SAEs are larger.

        Args:
            color: "width", "mean cosine of the nearest", or the name of a score.
            path: Also write it there (.png, .svg, .pdf).

        Raises:
            InputError: There is no such colouring.
            BackendError: matplotlib is not installed.
        """
        return scatter(self.points(), color, path, show)
