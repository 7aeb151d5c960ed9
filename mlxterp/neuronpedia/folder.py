"""`check`: what is wrong with a folder that Neuronpedia is to import.

    <folder>/<model id>/<source id>/model.jsonl, release.jsonl, sourceset.jsonl, source.jsonl
                                    features/batch-0.jsonl.gz, activations/…, explanations/…

Its importer reads JSON lines and takes only the columns that the first line of a file has; what is there already
stays. So lines whose keys differ lose data in silence, and a number that JSON does not know stops everything.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.files import strict_json
from ..core.places import path_of
from ..errors import InputError
from ..viz.lines import LinesView, Table

TEXT, WHOLE, NUMBER, FLAG = "text", "whole number", "number", "true or false"
TEXTS, WHOLES, NUMBERS, ANYTHING = "list of texts", "list of whole numbers", "list of numbers", "anything"
DIGITS = 5
"""Decimals of numbers."""

FEATURES: dict[str, str] = {
    "modelId": TEXT, "layer": TEXT, "index": TEXT, "sourceSetName": TEXT, "creatorId": TEXT, "createdAt": TEXT,
    "maxActApprox": NUMBER, "hasVector": FLAG, "vector": NUMBERS, "vectorLabel": ANYTHING, "hookName": TEXT,
    "vectorDefaultSteerStrength": NUMBER, "topkCosSimIndices": WHOLES, "topkCosSimValues": NUMBERS,
    "neuron_alignment_indices": WHOLES, "neuron_alignment_values": NUMBERS, "neuron_alignment_l1": NUMBERS,
    "correlated_neurons_indices": WHOLES, "correlated_neurons_pearson": NUMBERS, "correlated_neurons_l1": NUMBERS,
    "correlated_features_indices": WHOLES, "correlated_features_pearson": NUMBERS,
    "correlated_features_l1": NUMBERS, "neg_str": TEXTS, "neg_values": NUMBERS, "pos_str": TEXTS,
    "pos_values": NUMBERS, "frac_nonzero": NUMBER, "freq_hist_data_bar_heights": NUMBERS,
    "freq_hist_data_bar_values": NUMBERS, "logits_hist_data_bar_heights": NUMBERS,
    "logits_hist_data_bar_values": NUMBERS, "decoder_weights_dist": NUMBERS,
}  # fmt: skip
"""Columns of a feature, and what they hold."""
ACTIVATIONS: dict[str, str] = {
    "id": TEXT, "tokens": TEXTS, "values": NUMBERS, "maxValue": NUMBER, "maxValueTokenIndex": WHOLE,
    "minValue": NUMBER, "modelId": TEXT, "layer": TEXT, "index": TEXT, "creatorId": TEXT, "createdAt": TEXT,
    "binMin": NUMBER, "binMax": NUMBER, "binContains": NUMBER, "qualifyingTokenIndex": WHOLE, "dataIndex": TEXT,
    "dataSource": TEXT, "lossValues": NUMBERS, "logitContributions": ANYTHING, "dfaValues": NUMBERS,
    "dfaTargetIndex": ANYTHING, "dfaMaxValue": ANYTHING,
}  # fmt: skip
EXPLANATIONS: dict[str, str] = {
    "id": TEXT, "modelId": TEXT, "layer": TEXT, "index": TEXT, "description": TEXT, "authorId": TEXT,
    "typeName": TEXT, "explanationModelName": ANYTHING, "notes": TEXT,
}  # fmt: skip
ABOUT: dict[str, tuple[str, ...]] = {
    "model.jsonl": ("id", "displayName", "creatorId"),
    "release.jsonl": ("name", "description", "urls", "creatorName"),
    "sourceset.jsonl": ("modelId", "name", "description", "creatorId"),
    "source.jsonl": ("id", "modelId", "setName", "creatorId"),
}
"""Files of one line, and keys that they need."""
BATCHES = {"features": FEATURES, "activations": ACTIVATIONS, "explanations": EXPLANATIONS}
SOURCE_ID = re.compile(r"\d+-[a-z0-9_-]+")
_PAIRS = (
    ("topkCosSimIndices", "topkCosSimValues"), ("neg_str", "neg_values"), ("pos_str", "pos_values"),
    ("freq_hist_data_bar_heights", "freq_hist_data_bar_values"),
    ("logits_hist_data_bar_heights", "logits_hist_data_bar_values"),
    ("neuron_alignment_indices", "neuron_alignment_values"), ("neuron_alignment_indices", "neuron_alignment_l1"),
)  # fmt: skip
_SHOWN = 20
_MOST = 1000
"""Problems that are kept."""
_LONGEST = 64 << 20
"""Bytes of a line."""


@dataclass(frozen=True, slots=True)
class FolderProblem:
    """Something that is wrong with a folder.

    Attributes:
        file: Below the folder.
        line: From 1; 0 where it is the file.
        problem: What is wrong.
    """

    file: str
    line: int
    problem: str


@dataclass(frozen=True, eq=False)
class FolderCheck(LinesView):
    """What `check` found.

    Attributes:
        folder: What was looked at.
        sources: Folders of sources.
        rows: Lines, by kind ("features", "activations", "explanations").
        problems: What is wrong, at most 1,000.
    """

    folder: Path
    sources: tuple[str, ...]
    rows: dict[str, int]
    problems: tuple[FolderProblem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def __repr__(self) -> str:
        return f"FolderCheck({self.folder}: {self._verdict})"

    @property
    def _verdict(self) -> str:
        return "nothing is wrong" if self.ok else f"{len(self.problems)} problems"

    @property
    def _lines(self) -> Sequence[str]:
        rows = ", ".join(f"{n:,} {kind}" for kind, n in self.rows.items())
        return (f"{self.folder}: {self._verdict}.", f"{', '.join(self.sources)}: {rows}")

    @property
    def _tables(self) -> Sequence[Table]:
        rows = [(one.file, str(one.line), one.problem) for one in self.problems[:_SHOWN]]
        return (Table(("file", "line", "what is wrong"), rows),) if rows else ()


def check(folder: str | os.PathLike) -> FolderCheck:
    """What is wrong with a folder that Neuronpedia is to import, read as its importer reads it.

    Args:
        folder: What `index.to_neuronpedia` or another program wrote: it holds <model id>/<source id>/.

    Raises:
        InputError: There is no such folder, or no source in it.

    Examples:
        >>> from mlxterp import neuronpedia
        >>> folder = index.to_neuronpedia("for-neuronpedia", "tinystories", "res", features=[ball], verbose=False)
        >>> neuronpedia.check(folder).ok
        True
    """
    root = path_of(folder)
    sources = sorted(path.parent for path in root.glob("*/*/features") if path.is_dir())
    if not sources:
        raise InputError(
            f"There is no source in {root}: expected <model id>/<source id>/features/batch-0.jsonl.gz below it."
        )
    found: list[FolderProblem] = []
    rows: Counter[str] = Counter()
    for source in sources:
        _Source(root, source, found, rows).check()
    names = tuple(source.relative_to(root).as_posix() for source in sources)
    return FolderCheck(root, names, {kind: rows[kind] for kind in BATCHES}, tuple(found))


class _Source:
    """One source's folder, while it is looked at."""

    def __init__(self, root: Path, folder: Path, found: list[FolderProblem], rows: Counter[str]):
        self._root, self._folder, self._found, self._rows = root, folder, found, rows
        self._ids: set[str] = set()
        self._features: set[str] = set()

    def check(self) -> None:
        """Adds what is wrong."""
        if not SOURCE_ID.fullmatch(self._folder.name):
            self._say(self._folder, 0, "its name is no layer, dash and set in a-z, 0-9, - and _")
        for name, keys in ABOUT.items():
            self._about(self._folder / name, keys)
        checks: dict[str, Callable[[Path, int, dict[str, Any]], None]] = {
            "features": self._feature, "activations": self._activation, "explanations": self._explanation,
        }  # fmt: skip
        for kind, columns in BATCHES.items():
            for path in sorted((self._folder / kind).glob("*.jsonl*")):
                self._batch(path, kind, columns, checks[kind])

    def _about(self, path: Path, keys: Sequence[str]) -> None:
        rows = list(self._lines(path)) if path.is_file() else []
        if len(rows) != 1:
            self._say(path, 0, f"expected one line, found {len(rows)}")
        for line, row in rows:
            missing = [key for key in keys if key not in row]
            if missing:
                self._say(path, line, f"{', '.join(missing)} missing")
            if row.get("modelId", row.get("id")) != self._folder.parent.name and "urls" not in row:
                self._say(path, line, f"it is of another model than {self._folder.parent.name}")

    def _batch(
        self,
        path: Path,
        kind: str,
        columns: dict[str, str],
        check: Callable[[Path, int, dict[str, Any]], None],
    ) -> None:
        first: list[str] = []
        for line, row in self._lines(path):
            self._rows[kind] += 1
            if not first:
                first = list(row)
                for word, keys in (
                    ("missing", columns.keys() - row.keys()),
                    ("unknown", row.keys() - _known(columns)),
                ):
                    if keys:
                        self._say(path, line, f"columns are {word}: {', '.join(sorted(keys))}")
            if row.keys() != set(first):
                self._say(
                    path, line, "its keys are others than those of the first line, so that data would be lost"
                )
                continue
            wrong = [key for key, held in columns.items() if key in row and not _HELD[held](row[key])]
            for key in wrong:
                self._say(path, line, f"{key} is no {columns[key]}: {str(row[key])[:40]}")
            if not wrong and not columns.keys() - row.keys():
                self._place(path, line, row)
                check(path, line, row)

    def _place(self, path: Path, line: int, row: dict[str, Any]) -> None:
        if (row["modelId"], row["layer"]) != (self._folder.parent.name, self._folder.name):
            self._say(path, line, f"it is of {row['modelId']}/{row['layer']}, and lies in another folder")
        if not row["index"].isdecimal():
            self._say(path, line, f"index is {row['index']!r}, no number of a feature")
        if kind := _unrounded(row):
            self._say(path, line, f"{kind} has more than {DIGITS} decimals")

    def _feature(self, path: Path, line: int, row: dict[str, Any]) -> None:
        if row["index"] in self._features:
            self._say(path, line, f"feature {row['index']} comes twice, and the second is not imported")
        self._features.add(row["index"])
        for left, right in _PAIRS:
            if len(row[left]) != len(row[right]):
                self._say(path, line, f"{left} has {len(row[left])} entries, {right} {len(row[right])}")
        for bars in ("freq_hist_data_bar_values", "logits_hist_data_bar_values"):
            if any(b <= a for a, b in zip(row[bars], row[bars][1:], strict=False)):
                self._say(path, line, f"{bars} do not ascend")
        if not 0 <= row["frac_nonzero"] <= 1:
            self._say(path, line, "frac_nonzero is no share")

    def _activation(self, path: Path, line: int, row: dict[str, Any]) -> None:
        self._id(path, line, row["id"])
        values = row["values"]
        if len(row["tokens"]) != len(values) or not values:
            self._say(path, line, f"{len(row['tokens'])} tokens have {len(values)} values")
            return
        at = row["maxValueTokenIndex"]
        if not 0 <= at < len(values) or values[at] != max(values) or row["maxValue"] != max(values):
            self._say(path, line, "maxValue and maxValueTokenIndex are not those of the largest value")
        if not 0 <= row["qualifyingTokenIndex"] < len(values):
            self._say(path, line, "qualifyingTokenIndex lies outside the tokens")
        if row["binMin"] >= row["binMax"]:
            self._say(path, line, "binMin is not below binMax")
        self._known_feature(path, line, row)

    def _explanation(self, path: Path, line: int, row: dict[str, Any]) -> None:
        self._id(path, line, row["id"])
        if not row["description"].strip():
            self._say(path, line, "the description is empty")
        self._known_feature(path, line, row)

    def _known_feature(self, path: Path, line: int, row: dict[str, Any]) -> None:
        if row["index"] not in self._features:
            self._say(path, line, f"there is no feature {row['index']} in features/")

    def _id(self, path: Path, line: int, given: str) -> None:
        if given in self._ids or not re.fullmatch(r"c[a-z0-9]{24}", given):
            self._say(path, line, f"id {given!r} comes twice, or is not of the form of 25 letters and digits")
        self._ids.add(given)

    def _lines(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        opened: Any = gzip.open if path.suffix == ".gz" else open
        try:
            with opened(path, "rb") as file:
                number = 0
                while written := file.readline(_LONGEST):
                    number += 1
                    if len(written) == _LONGEST:
                        raise ValueError(f"line {number} is longer than {_LONGEST >> 20} MB")
                    if (row := self._row(path, number, written)) is not None:
                        yield number, row
        except (OSError, EOFError, zlib.error, ValueError) as error:
            self._say(path, 0, f"it cannot be read: {error}")

    def _row(self, path: Path, line: int, written: bytes) -> dict[str, Any] | None:
        """What a line says; None where it is empty, or wrong."""
        if not written.strip():
            return None
        try:
            row = strict_json(written)
        except ValueError as error:  # bytes that are no UTF-8, too
            self._say(path, line, f"no JSON: {error}")
            return None
        if not isinstance(row, dict):
            self._say(path, line, f"no object, but {type(row).__name__}")
            return None
        if b"\\u0000" in written:
            self._say(path, line, "a text has the character 0, which the database refuses")
            return None
        return row

    def _say(self, path: Path, line: int, problem: str) -> None:
        if len(self._found) < _MOST:
            self._found.append(FolderProblem(path.relative_to(self._root).as_posix(), line, problem))


def _known(columns: dict[str, str]) -> set[str]:
    """Columns that may be there."""
    return {*columns, "umap_x", "umap_y", "umap_cluster", "umap_log_feature_sparsity", "embedding"}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _all(held: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(held, value))


_HELD: dict[str, Callable[[Any], bool]] = {
    TEXT: lambda value: isinstance(value, str), WHOLE: _is_whole, NUMBER: _is_number,
    FLAG: lambda value: isinstance(value, bool), TEXTS: _all(lambda value: isinstance(value, str)),
    WHOLES: _all(_is_whole), NUMBERS: _all(_is_number), ANYTHING: lambda _: True,
}  # fmt: skip


def _unrounded(row: dict[str, Any]) -> str | None:
    """The first column with a number of more decimals than are kept."""
    for key, value in row.items():
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(one, float) and round(one, DIGITS) != one for one in numbers):
            return key
    return None
