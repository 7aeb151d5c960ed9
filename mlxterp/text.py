"""Text on the way in and out of a model: lengths it can take, tokens as strings, loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .backends.base import LanguageModel
from .core.texts import shown_ids
from .errors import InputError, warn
from .tokens import TokenBatch

_LONGEST_CHARACTER = 6
"""Tokens that are joined at most to find a whole character; UTF-8 has at most 4 bytes, some begin with a space."""


def check_length(model: LanguageModel, tokens: int, what: str = "The text has") -> None:
    """Refuses more tokens than a model has learned positions, and warns beyond those it was made for.

    Raises:
        InputError: The model looks positions up in a table that ends before.
    """
    limit = model.max_positions
    if limit is None or tokens <= limit:
        return
    if model.learned_positions:
        raise InputError(
            f"{what} {tokens} tokens, but this {model.model_type} model has learned {limit} positions and"
            " cannot run more. Shorten or split it; get_top_texts_for_feature and training use windows."
        )
    warn(
        f"{what} {tokens} tokens; this {model.model_type} model was made for {limit}"
        " (max_position_embeddings), so what it computes beyond may be poor."
    )


def string_tokens(tokenizer: Any, ids: list[int]) -> list[str]:
    """The text of each token as it appears after the one before it (a leading space is kept).

    Its number, as "#17", where there is no tokenizer.
    """
    if tokenizer is None:
        return [shown_ids([token]) for token in ids]
    pieces: list[str] = []
    for i, token in enumerate(ids):
        before = ids[max(i - 1, 0) : i]
        prefix, both = tokenizer.decode(before), tokenizer.decode([*before, token])
        fits = bool(before) and both.startswith(prefix)
        pieces.append(both[len(prefix) :] if fits else tokenizer.decode([token]))
    return pieces


def pieces_of(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """The text of each token as it appears after those before it; together they are the text.

    A character that is spread over several tokens stands with the first of them, and the others are "". Without a
    tokenizer each is its number, as "#17".
    """
    if tokenizer is None:
        return tuple(shown_ids([token]) for token in ids)
    found: list[str] = []
    before: list[int] = []
    while len(found) < len(ids):
        start = len(found)
        size, piece = 1, _after(tokenizer, before, [int(ids[start])])
        for longer in range(1, _LONGEST_CHARACTER + 1):
            group = [int(i) for i in ids[start : start + longer]]
            joined = _after(tokenizer, before, group)
            if "\ufffd" not in joined:
                size, piece = len(group), joined
                break
            if start + longer >= len(ids):
                break
        before = [int(i) for i in ids[start : start + size]]
        found += [piece, *[""] * (size - 1)]
    return tuple(found)


def _after(tokenizer: Any, before: list[int], ids: list[int]) -> str:
    prefix, both = tokenizer.decode(before) if before else "", tokenizer.decode([*before, *ids])
    return both[len(prefix) :] if before and both.startswith(prefix) else tokenizer.decode(ids)


def decode(tokenizer: Any, tokens: Any) -> str:
    """The text of token ids given as an integer, a list or an array (positions,) or (1, positions)."""
    array = np.array(tokens)
    if array.dtype.kind not in "iu" or array.squeeze().ndim > 1:
        raise InputError(f"decode takes token ids of one text, got {array.dtype} of shape {array.shape}.")
    return tokenizer.decode([int(i) for i in array.reshape(-1)])


def cross_entropy(model: LanguageModel, batch: TokenBatch) -> float:
    """Mean of -log p(token | tokens before) in nats, over all tokens but each text's first."""
    short = np.flatnonzero(batch.lengths < 2)
    if short.size:
        which = "the text" if len(batch.lengths) == 1 else f"text {int(short[0])} of {len(batch.lengths)}"
        raise InputError(
            f"loss needs texts of at least two tokens, as the first one is not predicted; {which} has one. Leave it"
            " out, or add to it."
        )
    logits = model.forward(batch)
    total, count = 0.0, 0
    for row, n in enumerate(batch.lengths):
        losses = model.backend.token_losses(logits[row, : n - 1], batch.ids[row, 1:n])
        total += float(losses.sum(dtype=np.float64))
        count += int(n - 1)
    return total / count
