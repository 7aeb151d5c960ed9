"""`OnText`: the strongest features of several widths on each token of a text, as a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..viz.escaping import own_token
from ..viz.grid import Cell, Grid
from ..viz.page import Links
from ..viz.palette import steps_of
from ..viz.spans import bold, wants_color
from ..viz.view import View


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class OnText(View):
    """Features of several widths on one text; made by `both_on`. `print` and notebooks show a grid.

    Attributes:
        text: The text.
        tokens: Its tokens, as text.
        component: Path of the component.
        features: {width: for each token its strongest features, (feature id, activation)}.
        labels: {width: {feature id: its name, None without one}}.
    """

    text: str
    tokens: Sequence[str]
    component: str
    features: Mapping[int, Sequence[Sequence[tuple[int, float]]]]
    labels: Mapping[int, Mapping[int, str | None]]

    def at(self, width: int, position: int) -> list[tuple[int, float]]:
        """The strongest features of a width on a token: (feature id, activation).

        Raises:
            InputError: There is no such width or token.
        """
        if width not in self.features or not 0 <= position < len(self.tokens):
            raise InputError(
                f"No width {width!r} at token {position!r}: the widths are {list(self.features)}, and there are"
                f" {len(self.tokens)} tokens."
            )
        return list(self.features[width][position])

    def _grid(self) -> Grid:
        rows = []
        for width, found in sorted(self.features.items(), reverse=True):
            strongest = np.array([row[0][1] if row else 0.0 for row in found])
            steps = steps_of(strongest, float(np.abs(strongest).max(initial=0)))
            cells = []
            for row, step in zip(found, steps, strict=True):
                told = "  ".join(f"{self._named(width, f)} {value:.3g}" for f, value in row)
                cells.append(Cell(str(row[0][0]) if row else "", int(step), f"width {width}: {told}"))
            rows.append((str(width), cells))
        return Grid("width", [(str(i), t or own_token(t)) for i, t in enumerate(self.tokens)], rows)

    def _named(self, width: int, feature: int) -> str:
        name = self.labels[width].get(feature)
        return f"{feature} ({name})" if name else str(feature)

    @property
    def _head(self) -> str:
        return f"Strongest feature of each width at {self.component}"

    def to_str(self, color: bool | None = None) -> str:
        """For the terminal: a row for each width, the strongest feature of each token.

        Args:
            color: None sets the head in bold where the output is a terminal and NO_COLOR is not set.
        """
        return "\n".join([bold(self._head, wants_color(color)), *self._grid().lines()])

    def __repr__(self) -> str:
        return f"OnText({len(self.tokens)} tokens, widths {list(self.features)})"

    def _title(self) -> str:
        return self._head

    def fragment(self, level: int = 3, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet, for a page."""
        anchor = f' id="{element_id}"' if element_id else ""
        return f'<h{level} class="mxt-h2"{anchor}>{self._head}</h{level}>{self._grid().html()}'
