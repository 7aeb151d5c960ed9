"""A grid of coloured cells, layers by positions or heads: as HTML and for the terminal.

`LogitLens` and `PatchingResult` show themselves with it. Every text is escaped here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from .escaping import attribute, escaped, token_html, token_line
from .palette import class_of

_STYLE = (
    "<style>.mlxterp-view .mxt-grid{overflow-x:auto;margin:.6em 0}"
    ".mlxterp-view .mxt-grid table.mxt-t{width:auto}"
    ".mlxterp-view .mxt-grid table.mxt-t tr>th,.mlxterp-view .mxt-grid table.mxt-t tr>td"
    "{padding:.1em .3em;white-space:pre;overflow-wrap:normal;text-align:center}"
    ".mlxterp-view .mxt-grid th code{white-space:pre;display:block;width:max-content;margin:.1em auto}"
    "body.mlxterp-page>.mlxterp-view:has(>.mxt-panel:only-child>.mxt-grid)"
    "{max-width:max-content;min-width:min(66em,100%)}"
    ".mlxterp-view>.mxt-panel:only-child:has(>.mxt-grid){max-width:none}</style>"
)
_WIDTH = 100
"""Columns of a terminal's line; a single column of the grid may be wider."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What one place of the grid shows."""

    text: str
    step: int = 0
    """Colour: 0 for none, else 1 to 8 with the sign (`palette.steps_of`)."""
    tip: str = ""
    """Shown when the pointer rests on it."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Rows of cells under a header; the first row is shown last, as layers are stacked."""

    corner: str
    """What the rows are."""
    columns: Sequence[tuple[str, str]]
    """(number, token or "") of each column."""
    rows: Sequence[tuple[str, Sequence[Cell]]]
    """(name, its cells)."""

    def html(self) -> str:
        """A table in a box that scrolls where it is too wide."""
        head = "".join(f'<th scope="col">{escaped(n)}{_token(t)}</th>' for n, t in self.columns)
        body = "".join(
            f'<tr><th scope="row">{escaped(name)}</th>{"".join(map(_cell, cells))}</tr>'
            for name, cells in reversed(self.rows)
        )
        return (
            f'{_STYLE}<div class="mxt-grid"><table class="mxt-t"><thead><tr><th scope="col">'
            f"{escaped(self.corner)}</th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def lines(self) -> list[str]:
        """The grid in lines: as many columns of it side by side as fit into 100. No cell is cut."""
        heads = [f"{n} {token_line(t.strip(' ') or t)}".rstrip(" ") for n, t in self.columns]
        cells = [[token_line(c.text) for c in row] for _, row in self.rows]
        widths = [
            max(cell_len(t) for t in (head, *(row[j] for row in cells))) for j, head in enumerate(heads)
        ]
        names = [name for name, _ in self.rows]
        first = max(cell_len(name) for name in (self.corner, *names))
        found: list[str] = []
        for start, stop in _blocks(widths, _WIDTH - first):
            part = range(start, stop)
            found += [""] if found else []
            found.append(_line(self.corner, first, [(heads[j], widths[j]) for j in part]))
            for name, row in zip(reversed(names), reversed(cells), strict=True):
                found.append(_line(name, first, [(row[j], widths[j]) for j in part]))
        return found


def _blocks(widths: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Runs of columns, each as wide as fits; one that begins with a wider column fills the lines that it takes."""
    found, start, used, limit = [], 0, 0, room
    for j, width in enumerate(widths):
        if j > start and used + width + 2 > limit:
            found.append((start, j))
            start, used = j, 0
        if j == start:
            limit = room * -(-(width + 2) // room)
        used += width + 2
    return [*found, (start, len(widths))] if widths else []


def _line(name: str, first: int, cells: Sequence[tuple[str, int]]) -> str:
    parts = [set_cell_size(name, first), *(set_cell_size(text, width) for text, width in cells)]
    return "  ".join(parts).rstrip()


def _token(text: str) -> str:
    return f' <code dir="auto" lang="">{token_html(text)}</code>' if text else ""


def _cell(cell: Cell) -> str:
    tip = f' title="{attribute(cell.tip)}"' if cell.tip else ""
    if not cell.step:
        return f"<td{tip}>{token_html(cell.text)}</td>"
    return f"<td><mark class={class_of(cell.step)}{tip}>{token_html(cell.text)}</mark></td>"
