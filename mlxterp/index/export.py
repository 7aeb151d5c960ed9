"""An index's figures and examples in other programs' forms: pandas, JSON, CSV."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..core import checks
from ..core.csv_cells import csv_of
from ..core.feature_ids import is_several
from ..errors import InputError
from .all_examples import AllExamples
from .answers import Answers
from .example_reader import AFTER, BEFORE
from .examples import FeatureExample
from .remote import written

_COLUMNS = ("feature_id", "label", "count", "density", "mean", "maximum", "rank", "activation", "text_id", "position",
            "token", "context")  # fmt: skip


def as_frame(index: Answers) -> Any:
    """See `FeatureIndex.to_pandas`."""
    return index.table().to_pandas()


def write_json(
    index: Answers, path: str | os.PathLike, features: Iterable[int] | None, n: int | None
) -> Path | str:
    """See `FeatureIndex.export_json`."""
    facts = {
        "sae": index.fingerprint, "component": index.component, "tokens": index.n_tokens, "texts": index.n_texts,
        "excluded": index.excluded,
    }  # fmt: skip
    head = f'{{"index": {json.dumps(facts)},\n"features": {{\n'
    rows = (json.dumps({str(f): _described(index, f, few)})[1:-1] for f, few in _chosen(index, features, n))
    return written(path, _joined(head, rows, "\n}}\n"))


def write_csv(
    index: Answers, path: str | os.PathLike, features: Iterable[int] | None, n: int | None
) -> Path | str:
    """See `FeatureIndex.export_csv`."""
    lines = (csv_of(_rows(index, f, few)) for f, few in _chosen(index, features, n))
    return written(path, _joined(csv_of([_COLUMNS]), lines, "", between=""))


def _chosen(
    index: Answers, features: Iterable[int] | None, n: int | None
) -> Iterator[tuple[int, list[FeatureExample]]]:
    """Features and their examples; all that are active are read in one sweep."""
    if features is not None and not is_several(features):
        raise InputError(
            f"features is {features!r}; give a list of feature ids, or None for all that are active."
        )
    if features is None:
        every = AllExamples(index, checks.count(index.n_examples if n is None else n, "n"), BEFORE, AFTER)
        return ((feature, examples) for feature, examples in every if examples)
    return ((feature, index.examples(feature, n)) for feature in [index.check_feature(f) for f in features])


def _described(index: Answers, feature_id: int, examples: list[FeatureExample]) -> dict[str, Any]:
    stats = index.stats(feature_id)
    counts, edges = stats.histogram
    return {
        "label": index.label(feature_id),
        "count": stats.count, "density": stats.density, "mean": stats.mean, "maximum": stats.maximum,
        "texts": stats.n_texts, "top_tokens": stats.top_tokens,
        "histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
        "examples": [
            {
                "text_id": e.text_id, "position": e.position, "activation": e.activation, "start": e.start,
                "tokens": e.tokens, "activations": [float(a) for a in e.activations],
            }
            for e in examples
        ],
    }  # fmt: skip


def _rows(index: Answers, feature_id: int, examples: list[FeatureExample]) -> list[tuple[Any, ...]]:
    stats = index.stats(feature_id)
    own = (feature_id, index.label(feature_id) or "", stats.count, stats.density, stats.mean, stats.maximum)
    rows: list[tuple[Any, ...]] = [
        (*own, rank, e.activation, e.text_id, e.position, _token(e), e.to_str())
        for rank, e in enumerate(examples, 1)
    ]
    return rows or [(*own, "", "", "", "", "", "")]


def _token(example: FeatureExample) -> str:
    """The text of the token where the feature is strongest; of the character that it finishes, where it does."""
    before = example.tokens[: example.position - example.start + 1]
    return next((token for token in reversed(before) if token), "")


def _joined(head: str, parts: Iterable[str], tail: str, between: str = ",\n") -> Iterator[bytes]:
    yield head.encode()
    for i, part in enumerate(parts):
        yield ((between if i else "") + part).encode("utf-8", "replace")
    yield tail.encode()
