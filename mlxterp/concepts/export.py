"""Names and top texts as files: nested JSON, flat JSON, CSV; each is written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.csv_cells import csv_of
from ..core.files import atomic_write
from ..errors import InputError
from .names import Concept

Texts = Mapping[int, Sequence[tuple[str, float]]]
Named = Mapping[int, Sequence[Concept]]

_NAME_COLUMNS = ("neuron_idx", "concept_name", "confidence")
_TEXT_COLUMNS = ("neuron_idx", "text", "activation")


def nested_names(names: Named) -> str:
    """{"42": [{"name", "confidence"}]}."""
    return _json({str(f): [{"name": c.name, "confidence": c.confidence} for c in names[f]] for f in names})


def nested_texts(texts: Texts) -> str:
    """{"42": [["text", activation]]}."""
    return _json({str(feature): list(texts[feature]) for feature in texts})


def flat_names(names: Named) -> str:
    """[{"neuron_idx", "concept_name", "confidence"}]."""
    return _json([dict(zip(_NAME_COLUMNS, row, strict=True)) for row in _name_rows(names)])


def flat_texts(texts: Texts) -> str:
    """[{"neuron", "text", "activation"}]."""
    columns = ("neuron", "text", "activation")
    return _json([dict(zip(columns, row, strict=True)) for row in _text_rows(texts)])


def csv_names(names: Named) -> str:
    """neuron_idx,concept_name,confidence."""
    return csv_of([_NAME_COLUMNS, *_name_rows(names)])


def csv_texts(texts: Texts) -> str:
    """neuron_idx,text,activation."""
    return csv_of([_TEXT_COLUMNS, *_text_rows(texts)])


def write(path: str | os.PathLike, text: str) -> Path:
    """Writes a UTF-8 file beside its place and moves it there when it is whole; returns its path.

    Raises:
        InputError: Nothing can be written there, or the text has half of a character (a lone surrogate); what
            was there is unchanged.
    """
    target = Path(path).expanduser()
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


def _text_rows(texts: Texts) -> list[tuple[int, str, float]]:
    return [(feature, text, activation) for feature in texts for text, activation in texts[feature]]


def _json(found: Any) -> str:
    return json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
