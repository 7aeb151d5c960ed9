"""A table of short texts, for the views of geometry: as HTML and for the terminal. Every text is escaped here."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

from ..viz.escaping import escaped, one_line


def table_html(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a head."""
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{escaped(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f'<table class="mxt-t"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def table_lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The same with each column as wide as its longest text, two spaces between."""
    cells = [[one_line(text) for text in row] for row in (heads, *rows)]
    widths = [max(cell_len(row[j]) for row in cells) for j in range(len(heads))]
    return ["  ".join(map(set_cell_size, row, widths)).rstrip() for row in cells]
