"""A batch of token sequences, right-padded to one rectangle.

Every way of giving text to a model (`str`, `list[str]`, token ids, arrays) becomes a `TokenBatch`;
a backend runs it. Padding is on the right: with causal attention and without a cache no real token
can see it, so each row's values up to its length equal those of running that row alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError, NoTokenizerError
from .quiet import quiet
from .texts import NO_TOKENIZER, TokenText, as_array, is_row, listed, token_row

Tokenize = Callable[[str], Sequence[int]]
"""Turns one string into token ids."""


@dataclass(frozen=True, eq=False, slots=True)
class TokenBatch:
    """Token ids of one or more texts."""

    ids: np.ndarray
    """int32, (batch, longest): right-padded token ids."""
    lengths: np.ndarray
    """int64, (batch,): how many tokens of each row are real."""

    @property
    def last(self) -> np.ndarray:
        """int64, (batch,): the index of each text's last token."""
        return self.lengths - 1

    @staticmethod
    def from_rows(rows: Sequence[Sequence[int]], pad: int = 0) -> TokenBatch:
        """One rectangle from rows of unequal length."""
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        ids = np.full((len(rows), int(lengths.max())), pad, dtype=np.int32)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
        return TokenBatch(ids, lengths)


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text, as the tokenizer's `encode` gives them; or as it was given.

    Raises:
        NoTokenizerError: There is no tokenizer, and the text was not given as token ids.
        InputError: The text is not Unicode: a surrogate stands alone in it, as broken decoding leaves behind.
    """
    if isinstance(text, TokenText):  # given as token ids, which are run as they are
        return text.ids.tolist()
    if tokenizer is None:
        raise NoTokenizerError(NO_TOKENIZER)
    return _encoded(tokenizer, text)


def encode_bare(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text without what the tokenizer puts around every text (BOS, for one).

    Raises:
        InputError: As `encode_text`.
    """
    try:
        return _encoded(tokenizer, text, add_special_tokens=False)
    except TypeError:  # its `encode` takes a text alone
        around, ids = _encoded(tokenizer, ""), _encoded(tokenizer, text)
    for n in range(len(around), -1, -1):
        end = len(ids) - len(around) + n
        if n <= end and ids[:n] == around[:n] and ids[end:] == around[n:]:
            return ids[n:end]
    return ids


def _encoded(tokenizer: Any, text: str, **options: bool) -> list[int]:
    try:
        with quiet:
            ids = tokenizer.encode(text, **options)
    except (TypeError, UnicodeEncodeError) as error:
        at = next((i for i, c in enumerate(text) if "\ud800" <= c <= "\udfff"), None)
        if at is None:
            raise
        raise InputError(
            f"This text has a lone surrogate ({text[at]!r} at character {at}), which the tokenizer cannot read. Decode"
            " the file again with its own encoding, or replace it: text.encode('utf-8', 'replace').decode()."
        ) from error
    return [int(i) for i in getattr(ids, "ids", ids)]  # a bare `tokenizers.Tokenizer` returns an Encoding


def to_batch(
    inputs: Any,
    tokenize: Tokenize | None,
    vocab_size: int | None = None,
) -> TokenBatch:
    """Any accepted form of input as a `TokenBatch`.

    Args:
        inputs: A string, a list of strings, a list of token ids, a list of lists of token ids
            (unequal lengths are fine), or an integer array (positions,) or (batch, positions). Instead of a list of
            strings there may be any column, array or generator of them.
        tokenize: Turns one string into ids; None where the model has no tokenizer.
        vocab_size: Where known, ids are checked to lie in [0, vocab_size).

    Raises:
        InputError: Empty input, an empty text, ids that are not integers or out of range.
        NoTokenizerError: Text without a tokenizer.
    """
    return TokenBatch.from_rows(_rows(inputs, tokenize, vocab_size))


def several(inputs: Any) -> list[Any] | None:
    """The texts, or rows of token ids, of a list, a column or an array of them; None for a single text or row.

    Raises:
        InputError: An empty list, or something that holds no texts.
    """
    if isinstance(inputs, str) or inputs is None:
        return None
    if isinstance(inputs, TokenBatch):
        return _of_batch(inputs) if len(inputs.lengths) > 1 else None
    if isinstance(inputs, (list, tuple)):
        if not inputs:
            raise InputError("An empty list was given. Give at least one text or token id.")
        if any(isinstance(x, Mapping) for x in inputs):
            return list(listed(inputs))  # rows of a table
        return list(inputs) if any(isinstance(x, str) or is_row(x) for x in inputs) else None
    if isinstance(inputs, bytes):
        raise InputError(_expected(inputs))
    found = _of_other(inputs)
    single = len(found) == 1 and not isinstance(found[0], str) and getattr(inputs, "ndim", 1) == 1
    return None if single else found


def held(inputs: Any) -> Any:
    """The same, where a column or a generator of strings was given as a list of them, so that it can be read again."""
    known = (str, bytes, list, tuple, Mapping, TokenBatch)
    if inputs is None or isinstance(inputs, known) or getattr(inputs, "shape", None) == ():
        return inputs
    found = _of_other(inputs)
    return found if all(isinstance(one, str) for one in found) else inputs


def _rows(inputs: Any, tokenize: Tokenize | None, vocab_size: int | None) -> list[Sequence[int]]:
    if isinstance(inputs, (str, TokenBatch)):
        given: list[Any] = [inputs] if isinstance(inputs, str) else _of_batch(inputs)
    elif isinstance(inputs, bytes) or inputs is None:
        raise InputError(_expected(inputs))
    elif isinstance(inputs, (list, tuple)):
        if not inputs:
            raise InputError("An empty list was given. Give at least one text or token id.")
        if any(isinstance(x, Mapping) for x in inputs):
            inputs = listed(inputs)  # rows of a table
        texts = [isinstance(x, str) for x in inputs]
        if any(texts) and not all(texts):
            raise InputError("Texts and token ids cannot be mixed in one list.")
        given = list(inputs) if any(texts) or any(is_row(x) for x in inputs) else [inputs]
    else:
        given = _of_other(inputs)
    rows = []
    for i, one in enumerate(given):
        where = f"Text {i} of {len(given)}"
        rows.append(
            token_row(_tokenize(one, tokenize) if isinstance(one, str) else one, where, vocab_size).tolist()
        )
    return rows


def _of_batch(batch: TokenBatch) -> list[np.ndarray]:
    return [row[:n] for row, n in zip(batch.ids, batch.lengths, strict=True)]


def _of_other(inputs: Any) -> list[Any]:
    """Texts or rows of an array, a column, a generator."""
    shape = getattr(inputs, "shape", None)
    if isinstance(inputs, Mapping) or hasattr(inputs, "column_names"):
        return list(listed(inputs))
    if shape is not None:
        array = as_array(inputs, "What is to run")
        if array.dtype.kind in "iu" or not array.size:
            if array.ndim == 1:
                return [array]
            if array.ndim == 2 and len(array):
                return list(array)
            raise InputError(
                f"Token ids have shape {array.shape}; expected (positions,) or (batch, positions)."
            )
        if array.dtype.kind in "fcb":
            raise InputError(_expected(inputs))
    if shape is None and not hasattr(inputs, "__iter__") and not hasattr(inputs, "__getitem__"):
        raise InputError(_expected(inputs))
    return list(listed(inputs))


def _tokenize(text: str, tokenize: Tokenize | None) -> list[int]:
    if isinstance(text, TokenText):
        return text.ids.tolist()
    if tokenize is None:
        raise NoTokenizerError(NO_TOKENIZER)
    return [int(i) for i in tokenize(text)]


def _expected(x: Any) -> str:
    return (
        f"Cannot run {type(x).__name__} as text. Expected a string, a list of strings, token ids,"
        " a list of lists of token ids, or an integer array (positions,) or (batch, positions)."
    )
