"""Top texts as files: nested JSON, flat JSON, CSV. (Names are written by `store`.)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..core.csv_cells import csv_of
from .store import NEURON, as_json

Texts = Mapping[int, Sequence[tuple[str, float]]]


def nested_texts(texts: Texts) -> str:
    """{"42": [["text", activation]]}."""
    return as_json({str(feature): list(texts[feature]) for feature in texts})


def flat_texts(texts: Texts) -> str:
    """[{"neuron", "text", "activation"}]."""
    columns = ("neuron", "text", "activation")
    return as_json([dict(zip(columns, row, strict=True)) for row in _text_rows(texts)])


def csv_texts(texts: Texts) -> str:
    """neuron_idx,text,activation."""
    return csv_of([(NEURON, "text", "activation"), *_text_rows(texts)])


def _text_rows(texts: Texts) -> list[tuple[int, str, float]]:
    return [(feature, text, activation) for feature in texts for text, activation in texts[feature]]
