"""Texts as users hold them: lists, columns, tables, arrays, generators, rows of token ids.

`listed` makes a list of strings of whatever holds some. A text that was given as token ids is a `TokenText`: a string
like any other, which knows the ids that are run. `dataset` adds what is read from files and data sets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from .integers import as_integer

Decode = Callable[[list[int]], str]
_TOP = 2**31
"""Token ids are kept as int32."""
_COLUMNS_OF_IDS = ("input_ids", "tokens", "token_ids")
_MASK = "attention_mask"
"""The column beside token ids that says which of them are padding."""
_TEXTUAL = ("string", "large_string", "string_view")
"""What Arrow calls columns of text."""

NO_TOKENIZER = (
    "This model has no tokenizer, so it cannot read texts and takes token ids. Pass tokenizer=… to InterpretableModel,"
    " or give lists of token ids."
)


class TokenText(str):
    """A text that was given as token ids: what they say, or "#5 #7" where no tokenizer knows it."""

    ids: np.ndarray
    """int32, (n,): the ids, which are run as they are."""

    def __new__(cls, text: str, ids: np.ndarray) -> TokenText:
        made = super().__new__(cls, text)
        made.ids = ids
        return made

    def __reduce__(self) -> Any:
        return TokenText, (str(self), self.ids)


def text_bytes(text: str) -> bytes:
    """What tells one text from another in a digest: its characters, or the token ids that it was given as."""
    if isinstance(text, TokenText):
        return b"\xff ids" + text.ids.astype("<i4").tobytes()  # no UTF-8 begins so
    return text.encode("utf-8", "surrogatepass")


def shown_ids(ids: Sequence[int] | np.ndarray) -> str:
    """Token ids as text where there is no tokenizer: "#5 #7"."""
    return " ".join(f"#{int(i)}" for i in ids)


# -- rows of token ids ------------------------------------------------------------------------


def token_row(given: Any, where: str, vocab_size: int | None = None) -> np.ndarray:
    """int32, (n,): the token ids of one text.

    Args:
        given: A list or tuple of whole numbers, or an array (n,) of any library.
        where: Names the row in messages ("Text 3").
        vocab_size: Where known, ids are checked to lie in [0, vocab_size).

    Raises:
        InputError: Something else, no ids, an id that is no whole number, or one outside.
    """
    if isinstance(given, (list, tuple, range)):
        ids = [as_integer(i) for i in given]
        bad = next((i for i, found in enumerate(ids) if found is None), None)
        if bad is not None:
            raise InputError(f"{where}: token id {bad} is {given[bad]!r:.80}; token ids must be integers.")
        row = np.array(ids, dtype=object)
    else:
        row = as_array(given, where)
        if row.ndim != 1:
            raise InputError(f"{where}: a row of token ids has shape {row.shape}; expected (positions,).")
        if row.size and row.dtype.kind not in "iu":
            raise InputError(f"{where}: token ids must be integers, got {row.dtype}.")
    if not row.size:
        raise InputError(
            f"{where} has no tokens. Give at least one token for every text"
            " (a tokenizer that adds no special tokens turns '' into nothing)."
        )
    low, high = int(row.min()), int(row.max())
    top = _TOP if vocab_size is None else vocab_size
    if low < 0 or high >= top:
        raise InputError(
            f"Token id {low if low < 0 else high} is outside this model's vocabulary [0, {top}):"
            f" {where[0].lower()}{where[1:]}. Is it the tokenizer of another model?"
        )
    return row.astype(np.int32)


def as_array(given: Any, where: str) -> np.ndarray:
    """An array of any library, or what becomes one, in NumPy.

    Raises:
        InputError: It becomes none.
    """
    try:
        array = np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{where} is {_shown(given)}; expected a text or token ids.") from error
    if array.dtype.kind == "O" and array.size and not (array.ndim and hasattr(given, "__array__")):
        raise InputError(f"{where} is {_shown(given)}; expected a text or token ids.")
    return array


def is_row(given: Any) -> bool:
    """Whether it looks like token ids of a text: a list, a tuple or an array of numbers."""
    if isinstance(given, (str, bytes, Mapping)):
        return False
    return isinstance(given, (list, tuple, range)) or bool(getattr(given, "shape", ()))


# -- one text, several texts --------------------------------------------------------------------


def as_text(
    given: Any, where: str, decode: Decode | None = None, vocab_size: int | None = None, hint: str = ""
) -> str:
    """One text: a string, or token ids.

    Args:
        decode: Says what token ids mean.

    Raises:
        InputError: It is neither.
    """
    if isinstance(given, str):
        return given if isinstance(given, TokenText) or type(given) is str else str(given)
    if is_row(given):
        ids = token_row(given, where, vocab_size)
        return TokenText(shown_ids(ids) if decode is None else decode(ids.tolist()), ids)
    raise InputError(f"{where} is {_shown(given)}, not a string.{hint or _LIST}")


def one_text(given: Any, decode: Decode | None = None, vocab_size: int | None = None) -> str:
    """A single text: a string, its token ids, or an array (n,) or (1, n) of them.

    Raises:
        InputError: It is none, or several.
    """
    if getattr(given, "ndim", None) == 2 and len(given) == 1:
        given = given[0]
    several = isinstance(given, (list, tuple)) and any(as_integer(i) is None for i in given)
    if not isinstance(given, str) and (several or not is_row(given)):
        raise InputError(
            f"Expected one text as a string, got {type(given).__name__}. (Its token ids do, too.)"
        )
    return as_text(given, "The text", decode, vocab_size)


def listed(
    given: Any, decode: Decode | None = None, vocab_size: int | None = None, what: str | None = None
) -> list[str]:
    """Texts as a list, read once: see `dataset.texts_of`.

    Raises:
        InputError: There are none, one is no text, or a single text was given.
    """
    try:
        found = [
            as_text(
                item, where, decode, vocab_size, _ROW if i == 0 and as_integer(item) is not None else _LIST
            )
            for i, (where, item) in enumerate(_items(given))
        ]
    except InputError as error:
        if what is None:
            raise
        said = re.sub(r"^Text (?=\d)", "text ", str(error))
        raise InputError(f"{what}: {said}") from error
    if not found:
        if what is not None:
            raise InputError(f"{what}=[] holds no text. Give at least one.")
        raise InputError("An empty list was given. Give at least one text.")
    return found


_ROW = " A single text that is given as token ids goes into a list: [ids]."
_LIST = " Give a list of strings, or of lists of token ids."
_ONE = " Put a single text into a list: [text]."
Item = tuple[str, Any]
"""Where it comes from ("Text 3"), and what is there."""


def _items(given: Any) -> Iterator[Item] | list[Item]:
    if isinstance(given, (str, bytes)) or given is None or getattr(given, "shape", None) == ():
        raise InputError(f"Expected a list of texts, got {type(given).__name__}.{_ONE}")
    if isinstance(given, (set, frozenset)):
        raise InputError("A set of texts has no order. Give a list: sorted(texts).")
    if hasattr(given, "ids") and hasattr(given, "lengths"):  # a `TokenBatch`
        return [
            (f"Text {i}", row[:n]) for i, (row, n) in enumerate(zip(given.ids, given.lengths, strict=True))
        ]
    table = table_of(given)
    if table is not None:
        return _column(*table)
    if hasattr(given, "index") and hasattr(given, "iloc"):  # a pandas Series
        labels = zip(given.index, given, strict=True)
        return [(f"Row {i} (label {label!r}) of the Series", item) for i, (label, item) in enumerate(labels)]
    if hasattr(given, "to_pylist"):  # Arrow
        given = given.to_pylist()
    elif getattr(given, "shape", None) is not None:
        given = _array_items(given)
    elif not isinstance(given, Iterable) and not (
        hasattr(given, "__getitem__") and hasattr(given, "__len__")
    ):
        raise InputError(f"Expected a list of texts, got {type(given).__name__}.{_ONE}")
    items = list(given)
    if items and isinstance(items[0], Mapping):
        first = items[0]
        column = text_column(list(first), [n for n, value in first.items() if isinstance(value, str)])
        return [
            (f"Row {i}", cell_of(row, column, f"Row {i}", _cell(row, column, i)))
            for i, row in enumerate(items)
        ]
    return [(f"Text {i}", item) for i, item in enumerate(items)]


def _array_items(given: Any) -> Iterable[Any]:
    if isinstance(given, np.ndarray) and given.dtype.kind in "OUTS":
        if given.ndim != 1:
            raise InputError(f"An array of texts has shape {given.shape}; expected (texts,).")
        return given.tolist() if given.dtype.kind in "UT" else given
    array = as_array(given, "The array")
    if array.dtype.kind in "OUT":  # pandas' index, or what its columns are made of
        return _array_items(array)
    if array.ndim == 1:
        return array.tolist() if array.dtype.kind != "S" else array
    if array.ndim != 2:
        raise InputError(f"Token ids have shape {array.shape}; expected (texts, positions).")
    return array


# -- tables ---------------------------------------------------------------------------------------


def table_of(given: Any) -> tuple[list[Any], Callable[[Any], Any]] | None:
    """Names of a table's columns, and what gives a column; None where `given` is no table.

    A mapping of columns, a data frame (pandas, polars), a table of Arrow, or a Hugging Face data set.
    """
    if isinstance(given, Mapping):
        if given and all(isinstance(value, str) for value in given.values()):
            raise InputError(
                "A dictionary of texts was given. Give a list of them: list(texts.values()); or a table:"
                " {'text': [text, …]}."
            )
        return list(given), given.__getitem__
    names = getattr(given, "columns", None)
    if names is not None and hasattr(given, "__getitem__") and not hasattr(given, "column_names"):
        return list(names), given.__getitem__
    names = getattr(given, "column_names", None)
    if names is not None and hasattr(given, "to_pydict"):
        return list(names), given.__getitem__
    if (
        names is not None and hasattr(given, "with_format") and hasattr(given, "__len__")
    ):  # a Hugging Face data set
        return list(names), given.with_format(None).__getitem__
    return None


def text_column(names: Sequence[Any], textual: Sequence[Any]) -> Any:
    """The column that holds the texts: "text", else the only textual one, else one of token ids.

    Raises:
        InputError: There is none, or several could be meant.
    """
    if "text" in names:
        return "text"
    if len(textual) == 1:
        return textual[0]
    of_ids = [name for name in _COLUMNS_OF_IDS if name in names]
    if not textual and of_ids:
        return of_ids[0]
    raise InputError(
        f"Which column holds the text? There are: {', '.join(map(str, names))}. Name it:"
        " HuggingFaceDataset(name, split, text_field=…), or pass a list: list(dataset[column])."
    )


def is_textual(kind: Any) -> bool:
    """Whether a column of a data set is of text, by its feature."""
    return getattr(kind, "dtype", None) in _TEXTUAL


def _column(names: list[Any], take: Callable[[Any], Any]) -> list[Item]:
    textual = []
    for name in names:
        column = take(name)
        if isinstance(column, (str, bytes)) or not hasattr(column, "__iter__"):
            raise InputError(f"Column {name!r} is {_shown(column)}; expected a list of texts.")
        if isinstance(_first(column), str):
            textual.append(name)
    chosen = text_column(names, textual)
    column = take(chosen)
    if isinstance(column, np.ndarray) and column.ndim == 0:
        raise InputError(f"Column {chosen!r} is {_shown(column)}; expected a list of texts.")
    items = [(f"{where} in column {chosen!r}", item) for where, item in _items(column)]
    if chosen not in _COLUMNS_OF_IDS or _MASK not in names:
        return items
    masks = _items(take(_MASK))
    return [
        (where, unpadded(item, mask, where)) for (where, item), (_, mask) in zip(items, masks, strict=True)
    ]


def _first(column: Any) -> Any:
    """The first thing in a column that is not missing."""
    values = column.to_pylist() if hasattr(column, "to_pylist") else column
    return next((value for value in values if not is_missing(value)), None)


def unpadded(ids: Any, mask: Any, where: str) -> Any:
    """Token ids without those that their attention mask calls padding.

    What beside the ids is not a 0 or 1 for each of them is no such mask.
    """
    if isinstance(ids, str) or not is_row(ids) or not is_row(mask):
        return ids
    keep = as_array(mask, f"{where}: {_MASK}")
    if keep.shape != (len(ids),) or keep.dtype.kind not in "biu" or not np.isin(keep, (0, 1)).all():
        return ids
    return [token for token, real in zip(ids, keep.tolist(), strict=True) if real]


def cell_of(row: Mapping[Any, Any], column: Any, where: str, found: Any) -> Any:
    """What stands in a row's column of texts; token ids without padding."""
    if column in _COLUMNS_OF_IDS and row.get(_MASK) is not None:
        return unpadded(found, row[_MASK], where)
    return found


def _cell(row: Any, column: Any, number: int) -> Any:
    if not isinstance(row, Mapping) or column not in row:
        raise InputError(f"Row {number} has no {column!r}, as row 0 has: {_shown(row)}.")
    return row[column]


def is_missing(value: Any) -> bool:
    """Whether a cell of a table is empty: None, NaN, or what pandas calls NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and math.isnan(value)


def _shown(value: Any) -> str:
    """A value in a message: short, and with what it is."""
    if is_missing(value):
        return f"{type(value).__name__} (an empty cell: leave such rows out, as dropna() does)"
    return type(value).__name__
