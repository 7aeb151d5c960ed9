"""Names and explanations of features, as they come in: dictionaries, rows, data frames, CSV, JSON.

`said` makes one table of them; a feature that stands for several things has several names. Everything becomes rows
that say where they come from, so that an error can name the line.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..core import checks
from ..core.csv_cells import text_of_cell
from ..core.places import expanded
from ..errors import InputError, UnknownFeatureError
from .checks import feature_id
from .explanations import PERSON, Concept, Explanation, Explanations, Names, checked_text
from .store import (
    BOUND,
    CONFIDENCE,
    CONFIDENCES,
    FIELDS,
    NAME,
    NEURON,
    explanation_of,
    is_explanation,
    read_csv,
    read_json,
)

Row = tuple[str, Any, Any, Any]
"""Where it comes from ("line 3"), feature, name (or `Explanation`), confidence."""


class Said(NamedTuple):
    """What is said of features."""

    names: Names
    explanations: Explanations


def said(concepts: Any, d_hidden: int) -> Said:
    """Names and explanations by feature (ascending), in the order given; see `Concepts.load_concepts`."""
    if isinstance(concepts, (str, os.PathLike)):
        return _from_file(expanded(concepts), d_hidden)
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


def _from_file(path: Path, d_hidden: int) -> Said:
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


def _table(rows: Iterable[Row], d_hidden: int) -> Said:
    """The table of these rows.

    Raises:
        InputError: A row that holds something else, or the same name or explanation for a feature twice.
        UnknownFeatureError: A feature outside [0, d_hidden).
    """
    found = Said({}, {})
    first: dict[tuple[int, str, str], str] = {}
    for where, neuron, name, confidence in rows:
        try:
            feature = feature_id(neuron, d_hidden)
            if isinstance(name, Explanation):
                key, told = (feature, name.source, name.text), "explained as"
                found.explanations.setdefault(feature, []).append(name)
            else:
                concept = Concept(
                    checked_text(name, "the name"), checks.fraction(confidence, "the confidence")
                )
                key, told = (feature, "", concept.name), "named"
                found.names.setdefault(feature, []).append(concept)
        except (InputError, UnknownFeatureError) as error:
            raise type(error)(f"{where}: {error}") from error
        before = first.setdefault(key, where)
        if before != where:
            raise InputError(f"{where}: feature {feature} is {told} {key[-1]!r} already ({before}).")
    return Said(_ascending(found.names), _ascending(found.explanations))


def _ascending(table: dict[int, list[Any]]) -> dict[int, list[Any]]:
    return {feature: table[feature] for feature in sorted(table)}


def _rows_of(concepts: Mapping[Any, Any] | Sequence[Any], d_hidden: int) -> Iterator[Row]:
    """Rows of {feature: its names} or of flat rows."""
    if not isinstance(concepts, Mapping):
        yield from _flat_rows((f"row {i}, counted from 0", row) for i, row in enumerate(concepts))
        return
    if BOUND in concepts:
        raise InputError(
            "these names are bound to an SAE by its fingerprint; FeatureRegistry.load(path, sae) compares it, and what"
            " that gives can be loaded here."
        )
    seen: dict[int, Any] = {}
    for key, given in concepts.items():
        if seen.setdefault(feature := feature_id(key, d_hidden), key) is not key:
            raise InputError(f"Feature {feature} comes twice, as {seen[feature]!r} and as {key!r}.")
        if isinstance(given, Mapping) and not is_explanation(given):
            yield from _registered(feature, given)
            continue
        entries = given if isinstance(given, (list, tuple)) else [given]
        if not isinstance(given, (list, tuple, str)) and not is_explanation(given):
            raise InputError(f"feature {feature}: expected a name or a list of names, got {given!r}.")
        for i, entry in enumerate(entries):
            where = f"feature {feature}, name {i + 1}"
            if isinstance(entry, Concept):
                entry = {"name": entry.name, CONFIDENCE: entry.confidence}
            yield where, feature, *_entry(where, feature, entry)


def _registered(feature: int, entry: Mapping[Any, Any]) -> Iterator[Row]:
    """What a registry's entry says: a name, and an explanation where it says more."""
    where = f"feature {feature}"
    if unknown := [key for key in entry if key not in FIELDS]:
        raise InputError(f"{where}: {unknown[0]!r} is unknown; a registry's entry has {', '.join(FIELDS)}.")
    name, confidence = entry.get("name"), entry.get(CONFIDENCE, 1.0)
    more = {key: entry[key] for key in ("examples", "notes") if key in entry}
    if isinstance(confidence, str):
        more[CONFIDENCE] = confidence
    source = entry.get("source", PERSON)
    if source != PERSON:  # an explainer's sentence is nobody's name
        if "description" in entry:
            more["description"] = entry["description"]
        sure = entry.get(CONFIDENCE)
        yield (
            where,
            feature,
            Explanation(feature, name or "", source, None if isinstance(sure, str) else sure, {}, more),
            None,
        )
        return
    yield where, feature, name, 1.0 if isinstance(confidence, str) else confidence
    if text := entry.get("description") or (name if more else ""):
        yield where, feature, Explanation(feature, text, PERSON, None, {}, more), None


def _entry(where: str, feature: int, entry: Any) -> tuple[Any, Any]:
    """Name and confidence of one entry of a feature, or its explanation and nothing."""
    if isinstance(entry, str):
        return entry, 1.0
    if is_explanation(entry):
        try:
            return explanation_of(feature, entry), None
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    if not isinstance(entry, Mapping) or "name" not in entry:
        raise InputError(f"{where}: expected {{'name': …, 'confidence': …}}, got {entry!r}.")
    confidence = _one_confidence(where, [key for key in entry if key != "name"])
    return entry["name"], entry[confidence] if confidence else 1.0


def _flat_rows(rows: Iterable[tuple[str, Any]]) -> Iterator[Row]:
    """Rows of {"neuron_idx", "concept_name", "confidence"}."""
    for where, row in rows:
        if isinstance(row, Explanation):
            yield where, row.feature_id, row, None
            continue
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
