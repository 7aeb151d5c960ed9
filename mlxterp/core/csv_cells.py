"""Cells of CSV files that no spreadsheet takes for a formula and no terminal for a command.

What is written with `csv_of` comes back, character for character, through `text_of_cell`. Names and texts
(`concepts/`) and an index's examples are written so, and tables of names are read so.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]|⟨(?=[0-9A-F]{2,4}⟩)")
_ESCAPE = re.compile("⟨([01][0-9A-F]|[789][0-9A-F]|27E8)⟩")
_FORMULA = re.compile(
    "'*(?:[\t\n]|[\\s\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]*[-=+@＝＋－＠﹦﹢﹣﹫⁼⁺⁻₌₊₋])"
)
"""What a program may compute when a cell begins so: signs in any width, also behind what cannot be seen."""


def csv_of(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as lines of a CSV file. Text is made harmless by `cell_of_text`; numbers stay numbers."""
    out = io.StringIO(newline="")
    csv.writer(out).writerows([cell_of_text(x) if isinstance(x, str) else x for x in row] for row in rows)
    return out.getvalue()


def cell_of_text(text: str) -> str:
    """The text with ⟨1B⟩ for a control character, and ' before what would begin a formula.

    Line feeds and tabs stay, but for the first character.
    """
    shown = _CONTROL.sub(lambda found: f"⟨{ord(found[0]):02X}⟩", text)
    return f"'{shown}" if _FORMULA.match(shown) else shown


def text_of_cell(cell: str) -> str:
    """Undoes `cell_of_text`; what that would not have written stays as it is."""
    if cell.startswith("'") and _FORMULA.match(cell, 1):
        cell = cell[1:]
    return _ESCAPE.sub(_character, cell)


def _character(found: re.Match[str]) -> str:
    code = int(found[1], 16)
    return chr(code) if _CONTROL.match(chr(code)) or code == ord("⟨") else found[0]
