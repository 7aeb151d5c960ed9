"""The one file format of what people and models say of features: names, notes and explanations.

A file is a JSON object of features; only this module writes one.

    {"741": [{"name": "ball", "confidence": 0.9},                            what `sae.concepts` has
             {"text": "toys that are thrown", "source": "gpt-x", "scores": {"detection": {"value": 0.8}}}],
     "1234": {"name": "places", "description": "cities and countries"}}      an entry of a `FeatureRegistry`

A name alone stands for `{"name": …}`. A registry of an SAE adds "sae" (its fingerprint) and "digest". `names.json`
beside an SAE's weights is such a file. Names alone can also be rows, in JSON or CSV:
`neuron_idx,concept_name,confidence`.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..core.csv_cells import csv_of, text_of_cell
from ..core.digests import DIGEST, check_seal, sealed
from ..core.files import atomic_write, strict_json
from ..core.places import path_of
from ..errors import InputError
from .explanations import Concept, Explanation

NEURON, NAME, CONFIDENCE = "neuron_idx", "concept_name", "confidence"
CONFIDENCES = (CONFIDENCE, "score")
"""Either name will do; Mi-Crow's own tables have the second."""
FIELDS = ("name", "description", "examples", CONFIDENCE, "notes", "source")
"""What an entry of a registry can hold."""
TEXT = "text"
"""Key by which an explanation is told from a name."""
SAID = (TEXT, "source", CONFIDENCE, "scores", "provenance")
"""What an explanation can hold."""
BOUND = "sae"
"""Key of the SAE that a registry is bound to."""

Named = Mapping[int, Sequence[Concept]]
Explained = Mapping[int, Sequence[Explanation]]
Rows = list[tuple[str, dict[str, Any]]]
"""Where each row comes from ("line 3"), and its cells by column."""


# -- writing --------------------------------------------------------------------------------------


def entries(names: Named, explanations: Explained | None = None) -> dict[str, list[dict[str, Any]]]:
    """Every feature with its names, then its explanations; features ascending."""
    explained = explanations or {}
    return {
        str(feature): [
            *({"name": c.name, CONFIDENCE: c.confidence} for c in names.get(feature, ())),
            *(_described(one) for one in explained.get(feature, ())),
        ]
        for feature in sorted({*names, *explained})
    }


def nested(names: Named, explanations: Explained | None = None) -> str:
    """As `entries`."""
    return as_json(entries(names, explanations))


def flat(names: Named) -> str:
    """[{"neuron_idx", "concept_name", "confidence"}]."""
    return as_json([dict(zip((NEURON, NAME, CONFIDENCE), row, strict=True)) for row in _name_rows(names)])


def table(names: Named) -> str:
    """neuron_idx,concept_name,confidence."""
    return csv_of([(NEURON, NAME, CONFIDENCE), *_name_rows(names)])


def registry(entries: Mapping[int, Mapping[str, Any]], fingerprint: str | None) -> str:
    """Every feature with its entry, bound to an SAE where there is a fingerprint."""
    found: dict[str, Any] = {str(feature): entry for feature, entry in entries.items()}
    if fingerprint is not None:
        found = sealed({BOUND: fingerprint, **found})
    return json.dumps(found, indent=2, allow_nan=False) + "\n"


def as_json(found: Any) -> str:
    """As files of concepts are written: people's letters as they are."""
    return json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write(path: str | os.PathLike, text: str) -> Path:
    """Writes a UTF-8 file, whole or not at all; returns its path.

    Raises:
        InputError: Nothing can be written there, or the text has half of a character (a lone surrogate); what
            was there is unchanged.
    """
    target = path_of(path)
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        around = text[max(error.start - 20, 0) : error.start + 20]
        raise InputError(
            f"{target} is not written: {around!r} has half of a character (a lone surrogate), which UTF-8 cannot"
            " hold."
        ) from None
    with atomic_write(target) as draft:
        draft.write_bytes(data)
    return target


def _name_rows(names: Named) -> list[tuple[int, str, float]]:
    return [(feature, concept.name, concept.confidence) for feature in names for concept in names[feature]]


def _described(explanation: Explanation) -> dict[str, Any]:
    """An explanation without its feature and without what it leaves open."""
    scores = {
        name: {key: value for key, value in asdict(score).items() if value is not None}
        for name, score in explanation.scores.items()
    }
    found = {
        TEXT: explanation.text, "source": explanation.source, CONFIDENCE: explanation.confidence,
        "scores": scores, "provenance": dict(explanation.provenance),
    }  # fmt: skip
    return {key: value for key, value in found.items() if value not in (None, {})}


# -- reading --------------------------------------------------------------------------------------


def is_explanation(entry: Any) -> bool:
    """Whether an entry of a feature is an explanation, not a name."""
    return isinstance(entry, Explanation) or (
        isinstance(entry, Mapping) and TEXT in entry and "name" not in entry
    )


def explanation_of(feature: int, entry: Any) -> Explanation:
    """The explanation of a feature that an entry holds.

    Raises:
        InputError: It holds something else, or is of another feature.
    """
    if isinstance(entry, Explanation):
        if entry.feature_id != feature:
            raise InputError(f"this explanation is of feature {entry.feature_id}, not {feature}.")
        return entry
    if not isinstance(entry, Mapping) or TEXT not in entry:
        raise InputError(f"expected an explanation, {{'text': …}}, got {entry!r:.60}.")
    if unknown := [key for key in entry if key not in SAID]:
        raise InputError(f"{unknown[0]!r} is unknown in an explanation; there are: {', '.join(SAID)}.")
    return Explanation(feature, **entry)


def read_registry(path: Path) -> dict[str, Any]:
    """The object of features in a file, which is as it was written.

    Raises:
        InputError: No such file, or it holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = strict_json(text)
        if not isinstance(found, dict):
            raise ValueError(f"expected a dictionary of features, got {text[:40]!r}")
        check_seal(found)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a feature registry: {error}") from error
    return found


def without_binding(found: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """The features of an object of features, without what binds it."""
    return ((key, entry) for key, entry in found.items() if key not in (BOUND, DIGEST))


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
