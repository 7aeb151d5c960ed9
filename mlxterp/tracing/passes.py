"""Whole passes of a model: how long a text may be, what it loses on texts, what vectors of its stream predict."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backends.base import LanguageModel
from ..backends.host.conversion import to_numpy
from ..backends.host.finite import not_finite
from ..core.sites import Array
from ..core.tokens import TokenBatch
from ..errors import InputError, warn


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
        bad = np.flatnonzero(~np.isfinite(losses))
        if bad.size:
            where = f"at position {int(bad[0])} of text {row}"
            raise not_finite("The logits", where, bool(model.described))
        total += float(losses.sum(dtype=np.float64))
        count += int(n - 1)
    return total / count


def unembed(model: LanguageModel, x: Any) -> Array:
    """Logits (…, vocabulary) of vectors (…, d_model) as they leave the last block."""
    backend = model.backend
    array = x
    if not isinstance(x, backend.array_type):
        with np.errstate(over="ignore"):  # infinite then, as the logits are not numbers
            array = backend.put(to_numpy(x, "What is to unembed").astype(np.float32))
    elif not backend.is_floating(x):
        raise InputError(f"unembed takes vectors of real numbers, got {x.dtype}.")
    if array.ndim < 1 or array.shape[-1] != model.d_model:
        raise InputError(f"unembed takes vectors (…, {model.d_model}), got shape {tuple(array.shape)}.")
    logits = model.decode_stream(array.reshape(-1, model.d_model))
    return logits.reshape(*array.shape[:-1], logits.shape[-1])
