"""Where texts come from: lists, text files, data sets of the hub; each can be read again from the start.

`open_texts` takes what a user gives and makes `Texts` of it: `ListedTexts`, where every text can be
reached and so be mixed, or `StreamedTexts`, which come in their own order. `texts_of` makes a list.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..core.places import expanded
from ..core.quiet import quiet_loading
from ..core.texts import (
    NO_TOKENIZER,
    Decode,
    TokenText,
    as_text,
    cell_of,
    is_row,
    is_textual,
    listed,
    one_text,
    text_column,
)
from ..errors import BackendError, InputError, NoTokenizerError, warn

END = "<|endoftext|>"
"""Separates the texts of a file, where it occurs; else empty lines do."""


@dataclass(frozen=True, slots=True)
class HuggingFaceDataset:
    """A data set of the Hugging Face hub, or a local one that `datasets` reads; loaded when it is used.

    Attributes:
        name: Repository or folder ("roneneldan/TinyStories").
        split: Which part of it.
        text_field: The column that holds the texts.
        config: Which of its configurations ("wikitext-2-raw-v1").
        streaming: Read it piece by piece instead of downloading it first; the run then needs `tokens`.
    """

    name: str
    split: str = "train"
    text_field: str = "text"
    config: str | None = None
    streaming: bool = False

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
            with quiet_loading():
                return datasets.load_dataset(
                    self.name, self.config, split=self.split, streaming=self.streaming
                )
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"The data set {self.name!r} (config {self.config!r}, split {self.split!r}) cannot be loaded: {error}"
            ) from error


class HasTokenizer(Protocol):
    """What says how token ids read: a `LanguageModel`, for one."""

    tokenizer: Any

    @property
    def vocab_size(self) -> int: ...


@dataclass(frozen=True, eq=False, slots=True)
class Reader:
    """What makes a text of what stands in a data set: a string, or token ids."""

    decode: Decode | None = None
    """Says what token ids mean; None shows their numbers."""
    vocab_size: int | None = None
    """Token ids are checked to lie below it."""

    @staticmethod
    def of(model: HasTokenizer | None) -> Reader:
        """The reader for a `LanguageModel`; None where there is no model."""
        if model is None:
            return Reader()
        return Reader(getattr(model.tokenizer, "decode", None), model.vocab_size)

    def text(self, given: Any, where: str) -> str:
        """The text.

        Raises:
            InputError: It is neither a string nor token ids.
        """
        return as_text(given, where, self.decode, self.vocab_size)

    def field(self, row: Any, name: str, number: int) -> str:
        """The text of a row's field.

        Raises:
            InputError: It holds none.
        """
        found = row.get(name) if isinstance(row, Mapping) else None
        if not isinstance(found, str) and not is_row(found):
            kind = type(found).__name__
            raise InputError(f"Row {number} of the data set has no text in {name!r}, but {kind}.")
        where = f"Row {number} of the data set"
        return self.text(cell_of(row, name, where, found), where)


@dataclass(frozen=True, eq=False, slots=True)
class ListedTexts:
    """Texts that can each be reached."""

    items: Sequence[Any]
    text_field: str | None = None
    """Of items that are rows of a table."""
    reader: Reader = Reader()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> str:
        item = self.items[index]
        if self.text_field is not None:
            return self.reader.field(item, self.text_field, index)
        return item if isinstance(item, str) else self.reader.text(item, f"Text {index}")


@dataclass(frozen=True, eq=False, slots=True)
class StreamedTexts:
    """Texts that come one after the other, and again from the start when asked."""

    rows: Iterable[Any]
    text_field: str | None
    """Of rows of a table; None where the texts themselves come."""
    reader: Reader = Reader()

    def __iter__(self) -> Iterator[str]:
        for number, row in enumerate(self.rows):
            if self.text_field is None:
                yield self.reader.text(row, f"Row {number} of the data set")
            else:
                yield self.reader.field(row, self.text_field, number)


Texts = ListedTexts | StreamedTexts


def open_texts(dataset: Any, model: HasTokenizer | None = None) -> Texts:
    """Texts of whatever holds some; every call that takes many texts goes through here or through `texts_of`.

    A list, tuple, generator (read to its end and held), NumPy array or pandas Series of strings; a column of a data
    set (`dataset["text"]`); a mapping or table with one column of text; a Hugging Face data set, its splits or its
    streaming form; a `HuggingFaceDataset`; a text file (its path, or its fsspec URL). Instead of strings there may be
    rows of token ids, in lists or in an array (texts, positions).

    Args:
        model: A `LanguageModel`, which says what token ids mean and how many there are.

    Raises:
        InputError: It is empty, cannot be read, or is something else.
    """
    reader = Reader.of(model)
    if isinstance(dataset, HuggingFaceDataset):
        return _table(dataset.load(), dataset.text_field, reader)
    if isinstance(dataset, os.PathLike) or (isinstance(dataset, str) and _is_file(dataset)):
        return ListedTexts(_texts_of_file(Path(dataset)))
    if isinstance(dataset, str) and re.match(r"[a-z0-9+.]+://\S+$", dataset):
        return ListedTexts(_texts_of_url(dataset))
    if isinstance(dataset, str):
        raise InputError(
            f"Expected a list of texts or the path of a text file; there is no file {dataset[:80]!r}."
            " Put a single text into a list: [text]. A data set of the hub: HuggingFaceDataset(name)."
        )
    if isinstance(dataset, (ListedTexts, StreamedTexts)):
        return replace(dataset, reader=reader)
    if _is_of_datasets(dataset):
        if isinstance(dataset, Mapping):
            dataset = _split(dataset)
        if hasattr(dataset, "column_names"):
            return _table(dataset, None, reader)
        if not hasattr(dataset, "__len__"):  # a column of a stream
            return StreamedTexts(dataset, None, reader)
    return ListedTexts(listed(dataset, reader.decode, reader.vocab_size), None, reader)


def texts_of(given: Any, model: HasTokenizer | None = None, what: str | None = None) -> list[str]:
    """Texts as a list, of everything that `open_texts` takes.

    Args:
        what: The argument's name, for messages, where a call has several.

    Raises:
        InputError: As `open_texts`.
    """
    if what is not None and not isinstance(given, os.PathLike) and not _is_of_datasets(given):
        if isinstance(given, str):
            raise InputError(
                f"{what} is {type(given).__name__}; expected a list of texts. Put a single text into a list: [text]."
            )
        reader = Reader.of(model)
        return listed(given, reader.decode, reader.vocab_size, what)
    texts = open_texts(given, model)
    if isinstance(texts, StreamedTexts):
        return list(texts)
    return [texts[i] for i in range(len(texts))]


def check_readable(texts: Texts, model: HasTokenizer) -> None:
    """Looks at the first text before anything is written.

    Raises:
        NoTokenizerError: It is a string, and the model has no tokenizer.
    """
    if model.tokenizer is None:
        first = texts[0] if isinstance(texts, ListedTexts) else next(iter(texts), None)
        if first is not None and not isinstance(first, TokenText):
            raise NoTokenizerError(NO_TOKENIZER)


def text_of(given: Any, model: HasTokenizer | None = None) -> str:
    """One text: a string, or the token ids of one.

    Raises:
        InputError: It is none, or several were given.
    """
    reader = Reader.of(model)
    return one_text(given, reader.decode, reader.vocab_size)


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
        return expanded(name).is_file()
    except OSError:  # too long for a path: a text
        return False


def _texts_of_file(path: Path) -> list[str]:
    try:
        content = expanded(path).read_text(encoding="utf-8")
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


def _is_of_datasets(given: Any) -> bool:
    return type(given).__module__.partition(".")[0] == "datasets"


def _split(splits: Mapping[str, Any]) -> Any:
    """The one split of a data set, or its "train"."""
    names = list(splits)
    if len(names) > 1 and "train" in names:
        warn(
            f"This data set has the splits {', '.join(names)}; 'train' is taken. Name another one:"
            f" dataset[{names[-1]!r}]."
        )
    if len(names) != 1 and "train" not in names:
        raise InputError(
            f"Which split? This data set has: {', '.join(names) or 'none'}. Name one: dataset[split]."
        )
    return splits["train" if "train" in names else names[0]]


def _table(rows: Any, text_field: str | None, reader: Reader) -> Texts:
    """A `datasets.Dataset` or `IterableDataset`."""
    if hasattr(rows, "with_format"):
        rows = rows.with_format(None)  # rows as plain dictionaries, whatever they were shown as
    columns = list(getattr(rows, "column_names", None) or [])
    if text_field is None:
        kinds = getattr(rows, "features", None) or {}
        known = [name for name in columns if is_textual(kinds.get(name))]
        text_field = text_column(columns, known) if columns else "text"
    elif columns and text_field not in columns:
        raise InputError(f"This data set has no column {text_field!r}. It has: {', '.join(columns)}.")
    if not hasattr(rows, "__len__"):
        return StreamedTexts(rows, text_field, reader)
    if len(rows) == 0:
        raise InputError("The data set has no rows. Give at least one text.")
    return ListedTexts(rows, text_field, reader)


def mixed_order(n: int, seed: int) -> np.ndarray:
    """A random order of n texts."""
    return np.random.default_rng([seed, 3]).permutation(n)
