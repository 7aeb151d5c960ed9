"""A batch of token sequences, right-padded to one rectangle.

Every way of giving text to a model (`str`, `list[str]`, token ids, arrays) becomes a `TokenBatch`;
a backend runs it. Padding is on the right: with causal attention and without a cache no real token
can see it, so each row's values up to its length equal those of running that row alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import InputError, NoTokenizerError


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
    """Token ids of a text, as the tokenizer's `encode` gives them.

    Raises:
        InputError: The text is not Unicode: a surrogate stands alone in it, as broken decoding leaves behind.
    """
    try:
        ids = tokenizer.encode(text)
    except (TypeError, UnicodeEncodeError) as error:
        at = next((i for i, c in enumerate(text) if "\ud800" <= c <= "\udfff"), None)
        if at is None:
            raise
        raise InputError(
            f"This text has a lone surrogate ({text[at]!r} at character {at}), which the tokenizer cannot read. Decode"
            " the file again with its own encoding, or replace it: text.encode('utf-8', 'replace').decode()."
        ) from error
    return list(getattr(ids, "ids", ids))  # a bare `tokenizers.Tokenizer` returns an Encoding


def to_batch(
    inputs: Any,
    tokenize: Callable[[str], list[int]] | None,
    vocab_size: int | None = None,
) -> TokenBatch:
    """Any accepted form of input as a `TokenBatch`.

    Args:
        inputs: A string, a list of strings, a list of token ids, a list of lists of token ids
            (unequal lengths are fine), or an integer array (positions,) or (batch, positions).
        tokenize: Turns one string into ids; None where the model has no tokenizer.
        vocab_size: Where known, ids are checked to lie in [0, vocab_size).

    Raises:
        InputError: Empty input, an empty text, ids that are not integers or out of range.
        NoTokenizerError: Text without a tokenizer.
    """
    rows = _rows(inputs, tokenize)
    for i, row in enumerate(rows):
        if len(row) == 0:
            raise InputError(
                f"Text {i} of {len(rows)} has no tokens. Give at least one token for every text"
                " (a tokenizer that adds no special tokens turns '' into nothing)."
            )
    batch = TokenBatch.from_rows(rows)
    low, high = int(min(min(row) for row in rows)), int(batch.ids.max())
    if low < 0 or (vocab_size is not None and high >= vocab_size):
        bad = low if low < 0 else high
        raise InputError(f"Token id {bad} is outside this model's vocabulary [0, {vocab_size}).")
    return batch


def _rows(inputs: Any, tokenize: Callable[[str], list[int]] | None) -> list[list[int]]:
    if isinstance(inputs, TokenBatch):
        return [row[:n].tolist() for row, n in zip(inputs.ids, inputs.lengths, strict=True)]
    if isinstance(inputs, str):
        return [_tokenize(inputs, tokenize)]
    if isinstance(inputs, (bytes, dict)) or inputs is None:
        raise InputError(_expected(inputs))
    if isinstance(inputs, (list, tuple)):
        if not inputs:
            raise InputError("An empty list was given. Give at least one text or token id.")
        if any(isinstance(x, str) for x in inputs):
            if not all(isinstance(x, str) for x in inputs):
                raise InputError("Texts and token ids cannot be mixed in one list.")
            return [_tokenize(text, tokenize) for text in inputs]
        if all(_is_int(x) for x in inputs):
            return [[int(x) for x in inputs]]
        return [_one_row(x) for x in inputs]
    array = _as_numpy(inputs)
    if array.ndim == 1:
        return [_one_row(array)]
    if array.ndim == 2 and len(array):
        return [_one_row(row) for row in array]
    raise InputError(f"Token ids have shape {array.shape}; expected (positions,) or (batch, positions).")


def _tokenize(text: str, tokenize: Callable[[str], list[int]] | None) -> list[int]:
    if tokenize is None:
        raise NoTokenizerError(
            "This model has no tokenizer, so it takes token ids, not text. Pass tokenizer=… to"
            " InterpretableModel, or give a list of token ids."
        )
    return [int(i) for i in tokenize(text)]


def _one_row(row: Any) -> list[int]:
    if isinstance(row, (list, tuple)) and all(_is_int(x) for x in row):
        return [int(x) for x in row]
    array = _as_numpy(row)
    if array.ndim != 1:
        raise InputError(f"A row of token ids has shape {array.shape}; expected (positions,).")
    if array.size and array.dtype.kind not in "iu":
        raise InputError(f"Token ids must be integers, got {array.dtype}.")
    return array.astype(np.int64).tolist()


def _is_int(x: Any) -> bool:
    return isinstance(x, (int, np.integer)) and not isinstance(x, bool)


def _as_numpy(x: Any) -> np.ndarray:
    try:
        array = np.array(x.detach().cpu() if hasattr(x, "detach") else x)
    except (TypeError, ValueError) as error:
        raise InputError(_expected(x)) from error
    if array.dtype.kind not in "iu" and array.size:
        raise InputError(_expected(x))
    return array


def _expected(x: Any) -> str:
    return (
        f"Cannot run {type(x).__name__} as text. Expected a string, a list of strings, token ids,"
        " a list of lists of token ids, or an integer array (positions,) or (batch, positions)."
    )
