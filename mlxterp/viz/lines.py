"""`LinesView`: a picture that is a head, some sentences and some tables, as HTML and for the terminal.

Most results of geometry are: figures beside their controls, then rows of features. Every text is escaped here.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size

from .escaping import escaped, one_line
from .page import Links
from .spans import bold, wants_color
from .view import View

_NUMBER = re.compile(r"[-+−]?[\d.,]+(e[-+]?\d+)?%?")


class Table(NamedTuple):
    """A table of short texts.

    Attributes:
        heads: Of the columns.
        rows: As many cells in each.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    def html(self) -> str:
        """With a head; "" without rows."""
        if not self.rows:
            return ""
        head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in self.heads)
        body = "".join(
            "<tr>" + "".join(f"<td>{escaped(text)}</td>" for text in row) + "</tr>" for row in self.rows
        )
        return f'<table class="mxt-t"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'

    def lines(self) -> list[str]:
        """Each column as wide as its longest text, numbers to the right, two spaces between; nothing without rows."""
        if not self.rows:
            return []
        cells = [[one_line(text) for text in row] for row in (self.heads, *self.rows)]
        columns = [_column(list(column)) for column in zip(*cells, strict=True)]
        return ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]


class LinesView(View):
    """A picture of sentences and tables. A class gives `_lines` and, where it has some, `_tables`."""

    __slots__ = ()

    @property
    @abstractmethod
    def _lines(self) -> Sequence[str]:
        """The head, then the sentences below it."""

    @property
    def _tables(self) -> Sequence[Table]:
        """What stands below them; tables without rows are left out."""
        return ()

    def to_str(self, color: bool | None = None) -> str:
        """For the terminal: the head, the figures beside their controls, and the tables.

        Args:
            color: None sets the head in bold where the output is a terminal and NO_COLOR is not set.
        """
        head, *rest = self._lines
        tables = [line for table in self._tables if table.rows for line in ("", *table.lines())]
        return "\n".join([bold(head, wants_color(color)), *rest, *tables])

    def fragment(self, level: int = 3, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet, for a page.

        Args:
            level: Of its heading.
            element_id: Id of that heading; "" gives it none.
        """
        anchor, (head, *rest) = f' id="{element_id}"' if element_id else "", self._lines
        told = "".join(f"<p>{escaped(line)}</p>" for line in rest)
        heading = f'<h{level} class="mxt-h2"{anchor}>{escaped(head)}</h{level}>'
        return heading + told + "".join(table.html() for table in self._tables)

    def _title(self) -> str:
        return self._lines[0]


def _column(cells: list[str]) -> list[str]:
    """A column's texts, the first its head, all of one width."""
    width, numbers = max(map(cell_len, cells)), all(_NUMBER.fullmatch(text) for text in cells[1:] if text)
    if numbers:
        return [" " * (width - cell_len(text)) + text for text in cells]
    return [set_cell_size(text, width) for text in cells]
