"""Names of features: what a person found them to stand for, several for a feature that stands for several things.

`named` makes one table from whatever names come in (dictionaries, rows, data frames, CSV, JSON); each of them is
brought into rows that say where they come from, so that an error can name the line.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import checks
from ..core.csv_cells import text_of_cell
from ..core.files import strict_json
from ..errors import InputError, UnknownFeatureError
from .checks import feature_id

Row = tuple[str, Any, Any, Any]
"""Where it comes from ("line 3"), feature, name, confidence."""
Names = dict[int, list["Concept"]]


@dataclass(frozen=True, slots=True)
class Concept:
    """A person's name for a feature.

    Attributes:
        name: At least one character that is not white space; kept as it was given.
        confidence: In [0, 1]: how sure the person is.
    """

    name: str
    confidence: float = 1.0


def named(concepts: Any, d_hidden: int) -> Names:
    """Names by feature (ascending), in the order given; see `Concepts.load_concepts`."""
    if isinstance(concepts, (str, os.PathLike)):
        return _from_file(Path(concepts).expanduser(), d_hidden)
    if hasattr(concepts, "columns") and hasattr(concepts, "__getitem__"):
        rows = list(_frame_rows(concepts))
        if not rows:
            raise InputError("The table of concepts has no rows.")
        return _table(rows, d_hidden)
    if isinstance(concepts, (Mapping, list, tuple)):
        return _table(_rows_of(concepts, d_hidden), d_hidden)
    raise InputError(
        "Expected {feature: [{'name': …, 'confidence': …}]}, a table with the columns"
        f" {NEURON}, {NAME}, confidence, or the path of a CSV or JSON file; got {type(concepts).__name__}."
    )


def _from_file(path: Path, d_hidden: int) -> Names:
    readers = {".csv": read_csv, ".json": read_json}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path} is neither a .csv nor a .json file.")
    try:
        found = reader(path)
        rows = list(_rows_of(found, d_hidden) if isinstance(found, Mapping) else _flat_rows(found))
        if not rows:
            raise InputError("it holds no concepts.")
        return _table(rows, d_hidden)
    except (InputError, UnknownFeatureError) as error:
        raise type(error)(f"{path}: {error}") from error


def _table(rows: Iterable[Row], d_hidden: int) -> Names:
    """The table of these rows.

    Raises:
        InputError: A row that holds something else, or the same name for a feature twice.
        UnknownFeatureError: A feature outside [0, d_hidden).
    """
    names: Names = {}
    first: dict[tuple[int, str], str] = {}
    for where, neuron, name, confidence in rows:
        try:
            feature, concept = feature_id(neuron, d_hidden), Concept(_name(name), _confidence(confidence))
        except (InputError, UnknownFeatureError) as error:
            raise type(error)(f"{where}: {error}") from error
        before = first.setdefault((feature, concept.name), where)
        if before != where:
            raise InputError(f"{where}: feature {feature} is named {concept.name!r} already ({before}).")
        names.setdefault(feature, []).append(concept)
    return {feature: names[feature] for feature in sorted(names)}


def _rows_of(concepts: Mapping[Any, Any] | Sequence[Any], d_hidden: int) -> Iterator[Row]:
    """Rows of {feature: its names} or of flat rows."""
    if not isinstance(concepts, Mapping):
        yield from _flat_rows((f"row {i}, counted from 0", row) for i, row in enumerate(concepts))
        return
    seen: dict[int, Any] = {}
    for key, given in concepts.items():
        if seen.setdefault(feature := feature_id(key, d_hidden), key) is not key:
            raise InputError(f"Feature {feature} comes twice, as {seen[feature]!r} and as {key!r}.")
        entries = [given] if isinstance(given, str) else given
        if not isinstance(entries, (list, tuple)):
            raise InputError(f"feature {feature}: expected a name or a list of names, got {given!r}.")
        for i, entry in enumerate(entries):
            where = f"feature {feature}, name {i + 1}"
            if isinstance(entry, Concept):
                entry = {"name": entry.name, "confidence": entry.confidence}
            yield where, feature, *_entry(where, entry)


def _entry(where: str, entry: Any) -> tuple[Any, Any]:
    """Name and confidence of one entry of a feature."""
    if isinstance(entry, str):
        return entry, 1.0
    if not isinstance(entry, Mapping) or "name" not in entry:
        raise InputError(f"{where}: expected {{'name': …, 'confidence': …}}, got {entry!r}.")
    confidence = _one_confidence(where, [key for key in entry if key != "name"])
    return entry["name"], entry[confidence] if confidence else 1.0


def _flat_rows(rows: Iterable[tuple[str, Any]]) -> Iterator[Row]:
    """Rows of {"neuron_idx", "concept_name", "confidence"}."""
    for where, row in rows:
        if not isinstance(row, Mapping):
            raise InputError(f"{where}: expected {{'{NEURON}', '{NAME}', 'confidence'}}, got {row!r}.")
        if missing := [column for column in (NEURON, NAME) if column not in row]:
            raise InputError(f"{where}: {missing[0]} is missing.")
        confidence = _one_confidence(where, [key for key in row if key not in (NEURON, NAME)])
        yield where, row[NEURON], row[NAME], row[confidence] if confidence else 1.0


def _frame_rows(frame: Any) -> Iterator[Row]:
    """Rows of a data frame (pandas, or what is used in the same way); it was read from a CSV file as a rule."""
    columns = list(frame.columns)
    if missing := [column for column in (NEURON, NAME) if column not in columns]:
        raise InputError(f"The table has no column {missing[0]}; its columns are {columns}.")
    confidence = _one_confidence("The table", [column for column in columns if column not in (NEURON, NAME)])
    neurons, names = list(frame[NEURON]), list(frame[NAME])
    confidences = list(frame[confidence]) if confidence else [1.0] * len(neurons)
    for i, (neuron, name, value) in enumerate(zip(neurons, names, confidences, strict=True)):
        name = text_of_cell(name) if isinstance(name, str) else name
        yield f"row {i}, counted from 0", neuron, name, value


def _one_confidence(where: str, keys: list[Any]) -> str | None:
    """The key that holds the confidence; None where there is none."""
    if unknown := [key for key in keys if key not in CONFIDENCES]:
        raise InputError(f"{where}: {unknown[0]!r} is unknown beside the name; there is only 'confidence'.")
    if len(keys) > 1:
        raise InputError(f"{where}: there are both a confidence and a score; keep one of them.")
    return keys[0] if keys else None


def _name(given: Any) -> str:
    if not isinstance(given, str):
        raise InputError(f"the name is {given!r}; expected text.")
    if not given.strip():
        raise InputError("the name is empty.")
    try:
        given.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"the name {given!r} has half of a character (a lone surrogate).") from None
    return str(given)


def _confidence(given: Any) -> float:
    return checks.fraction(given, "the confidence")


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
