"""Tables of names as people's programs write them: CSV and JSON, read with the line of each row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.csv_cells import text_of_cell
from ..errors import InputError
from ..whole import strict_json

NEURON, NAME = "neuron_idx", "concept_name"
CONFIDENCES = ("confidence", "score")
"""Either name will do; Mi-Crow's own tables have the second."""

Rows = list[tuple[str, dict[str, Any]]]
"""Where each row comes from ("line 3"), and its cells by column."""


def read_csv(path: Path) -> Rows:
    """Rows of a table whose first line names the columns, in any case; blank lines are left out.

    Raises:
        InputError: No such file, not UTF-8, other columns, another number of cells, cells that are no numbers.
    """
    lines = _lines(_text(path))
    header_at, header = next(lines, (0, []))
    columns = _columns(header_at, header)
    rows: Rows = []
    for line, cells in lines:
        if len(cells) != len(columns):
            raise InputError(
                f"line {line}: {len(cells)} cells under {len(columns)} columns. Text that holds a comma stands in"
                ' quotes: 42,"dogs, cats",0.9'
            )
        row: dict[str, Any] = dict(zip(columns, cells, strict=True))
        row[NEURON] = row[NEURON].strip()
        row[NAME] = text_of_cell(row[NAME])
        for column in CONFIDENCES:
            if column in row:
                row[column] = _number(line, row[column])
        rows.append((f"line {line}", row))
    return rows


def read_json(path: Path) -> Rows | Mapping[str, Any]:
    """{feature: its names} as it stands in the file, or its flat rows.

    Raises:
        InputError: No such file, not UTF-8, no JSON, or something else.
    """
    try:
        found = strict_json(_text(path))
    except ValueError as error:
        raise InputError(f"it is no JSON of concepts: {error}") from error
    if isinstance(found, Mapping):
        return found
    if not isinstance(found, list):
        raise InputError(f"expected {{feature: names}} or a list of rows, got {str(found)[:40]!r}.")
    return [(f"row {i}, counted from 0", row) for i, row in enumerate(found)]


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"it cannot be read: {error}") from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"byte {error.start} is not UTF-8. Save the file as UTF-8 (in a spreadsheet: 'CSV UTF-8')."
        ) from None
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise InputError("the file is empty.")
    return text


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Rows with the line where each begins; a cell in quotes may span lines."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"line {line}: this is no row of a CSV file: {error}.") from error


def _columns(line: int, header: list[str]) -> list[str]:
    """The names of the columns, checked."""
    columns = [cell.strip().lower() for cell in header]
    separators = {";": "semicolons", "\t": "tabs"}
    if len(columns) == 1 and (found := [name for mark, name in separators.items() if mark in header[0]]):
        raise InputError(
            f"line {line}: the columns are separated by {found[0]}. Save the table with commas (and numbers as 0.9,"
            " with a point)."
        )
    expected = f"expected {NEURON},{NAME},confidence"
    if unknown := [column for column in columns if column not in (NEURON, NAME, *CONFIDENCES)]:
        hint = (
            "" if unknown[0] else " A column without a name is often pandas' index: to_csv(…, index=False)."
        )
        shown = header[columns.index(unknown[0])].strip()
        raise InputError(f"line {line}: unknown column {shown!r}; {expected}.{hint}")
    if missing := [column for column in (NEURON, NAME) if column not in columns]:
        raise InputError(f"line {line}: there is no column {missing[0]}; {expected}.")
    if len(set(columns)) < len(columns):
        raise InputError(f"line {line}: a column comes twice; {expected}.")
    return columns


def _number(line: int, cell: str) -> float:
    """A number in a cell; an empty cell is a confidence not stated, which is 1."""
    if not cell.strip():
        return 1.0
    try:
        if "_" not in cell:  # Python reads 1_0 as 10
            return float(cell)
    except ValueError:
        pass
    hint = " Write it with a point." if cell.count(",") == 1 else ""
    raise InputError(f"line {line}: the confidence is {cell!r}; expected a number in [0, 1].{hint}")
