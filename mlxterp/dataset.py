"""Where texts come from: lists, text files, data sets of the hub; each can be read again from the start.

`open_texts` takes what a user gives and makes `Texts` of it: `ListedTexts`, where every text can be
reached and so be mixed, or `StreamedTexts`, which come in their own order.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .corpus import check_texts
from .errors import BackendError, InputError

END = "<|endoftext|>"
"""Separates the texts of a file, where it occurs; else empty lines do."""


@dataclass(frozen=True, slots=True)
class HuggingFaceDataset:
    """A data set of the Hugging Face hub, or a local one that `datasets` reads; loaded when it is used."""

    name: str
    split: str = "train"
    text_field: str = "text"
    config: str | None = None
    """Which of its configurations ("wikitext-2-raw-v1")."""
    streaming: bool = False
    """Read it piece by piece instead of downloading it first; the run then needs `tokens`."""

    def load(self) -> Any:
        """The `datasets` object.

        Raises:
            BackendError: `datasets` is not installed.
            InputError: It cannot be found, has no such split, or cannot be reached.
        """
        try:
            import datasets
        except ImportError as error:
            raise BackendError(
                'Data sets of the hub need `datasets`: pip install "mlxterp[datasets]".'
            ) from error
        try:
            return datasets.load_dataset(self.name, self.config, split=self.split, streaming=self.streaming)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"The data set {self.name!r} (config {self.config!r}, split {self.split!r}) cannot be loaded: {error}"
            ) from error


@dataclass(frozen=True, eq=False, slots=True)
class ListedTexts:
    """Texts that can each be reached."""

    items: Sequence[Any]
    text_field: str | None = None
    """Of items that are rows of a table."""

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> str:
        item = self.items[index]
        return item if self.text_field is None else _field(item, self.text_field, index)


@dataclass(frozen=True, eq=False, slots=True)
class StreamedTexts:
    """Texts that come one after the other, and again from the start when asked."""

    rows: Iterable[Mapping[str, Any]]
    text_field: str

    def __iter__(self) -> Iterator[str]:
        for number, row in enumerate(self.rows):
            yield _field(row, self.text_field, number)


Texts = ListedTexts | StreamedTexts


def open_texts(dataset: Any) -> Texts:
    """Texts of a list, a text file (its path, or its fsspec URL), a Hugging Face data set or its streaming form, or
    a `HuggingFaceDataset`.

    Raises:
        InputError: It is empty, cannot be read, or is something else.
    """
    if isinstance(dataset, HuggingFaceDataset):
        return _table(dataset.load(), dataset.text_field)
    if isinstance(dataset, os.PathLike) or (isinstance(dataset, str) and _is_file(dataset)):
        return ListedTexts(_texts_of_file(Path(dataset)))
    if isinstance(dataset, str) and re.match(r"[a-z0-9+.]+://\S+$", dataset):
        return ListedTexts(_texts_of_url(dataset))
    if isinstance(dataset, str):
        raise InputError(
            f"Expected a list of texts or the path of a text file; there is no file {dataset[:80]!r}."
            " Put a single text into a list: [text]. A data set of the hub: HuggingFaceDataset(name)."
        )
    if hasattr(dataset, "features") and hasattr(dataset, "__iter__"):
        return _table(dataset, None)
    check_texts(dataset)
    return ListedTexts(dataset)


def split_texts(content: str, source: str) -> list[str]:
    """The texts of a file's content, without the white space around them.

    Raises:
        InputError: `source`, which it was read from, holds none.
    """
    pieces = content.split(END) if END in content else content.split("\n\n")
    texts = [piece.strip() for piece in pieces if piece.strip()]
    if not texts:
        raise InputError(f"{source} holds no text.")
    return texts


def _is_file(name: str) -> bool:
    try:
        return Path(name).expanduser().is_file()
    except OSError:  # too long for a path: a text
        return False


def _texts_of_file(path: Path) -> list[str]:
    try:
        content = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a text file (UTF-8): {error}.") from error
    return split_texts(content, str(path))


def _texts_of_url(url: str) -> list[str]:
    try:
        import fsspec
    except ImportError as error:
        raise BackendError('URLs need fsspec: pip install "mlxterp[remote]".') from error
    try:
        with fsspec.open(url, "rb") as file:
            content = file.read().decode("utf-8")  # pyright: ignore[reportAttributeAccessIssue]
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"{url} cannot be read as a text file (UTF-8): {error}.") from error
    return split_texts(content, url)


def _table(rows: Any, text_field: str | None) -> Texts:
    """A `datasets.Dataset` or `IterableDataset`."""
    columns = list(getattr(rows, "column_names", None) or [])
    if text_field is None:
        text_field = "text" if "text" in columns or not columns else _only_text_column(rows, columns)
    elif columns and text_field not in columns:
        raise InputError(f"This data set has no column {text_field!r}. It has: {', '.join(columns)}.")
    if not hasattr(rows, "__len__"):
        return StreamedTexts(rows, text_field)
    if len(rows) == 0:
        raise InputError("The data set has no rows. Give at least one text.")
    return ListedTexts(rows, text_field)


def _only_text_column(rows: Any, columns: Sequence[str]) -> str:
    textual = [
        name for name in columns if getattr((rows.features or {}).get(name), "dtype", None) == "string"
    ]
    if len(textual) != 1:
        raise InputError(
            f"Which column holds the text? There are: {', '.join(columns)}. Name it:"
            " HuggingFaceDataset(name, split, text_field=…), or pass a list: list(dataset[column])."
        )
    return textual[0]


def _field(row: Mapping[str, Any], name: str, number: int) -> str:
    text = row.get(name) if isinstance(row, Mapping) else None
    if not isinstance(text, str):
        raise InputError(f"Row {number} of the data set has no text in {name!r}, but {type(text).__name__}.")
    return text


def mixed_order(n: int, seed: int) -> np.ndarray:
    """A random order of n texts."""
    return np.random.default_rng([seed, 3]).permutation(n)
