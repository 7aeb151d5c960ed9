"""Random tokens said several times over: the input on which induction shows itself and nothing else can help.

Beside each sequence stands its control: the same tokens, each later repetition in an order of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..activations.exclusions import bos_of
from ..backends.base import LanguageModel
from ..core import checks
from ..core.controls import MOST_DRAWS
from ..core.integers import as_integer
from ..core.sites import Array, Component, unique_sites
from ..core.tokens import TokenBatch
from ..errors import InputError
from ..hooks.session import ModelSession

DRAWS = 20
"""Sequences, at least."""
_LONGEST = 1 << 20
"""Tokens of a sequence, at most."""
_ALONE = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "unk_token_id",
    "sep_token_id",
    "cls_token_id",
    "mask_token_id",
)


@dataclass(frozen=True, eq=False, slots=True)
class RepeatedTokens:
    """Sequences of random tokens that repeat.

    Attributes:
        rows: int64, (draws, prefix + period · repeats): token ids.
        shuffled: int64, of the same shape: the control, whose repetitions after the first are in another order.
        prefix: Tokens that the tokenizer puts before any text; they come first and are not scored.
        period: Tokens of what is repeated, all different.
    """

    rows: np.ndarray
    shuffled: np.ndarray
    prefix: int
    period: int

    @staticmethod
    def drawn(
        session: ModelSession, n_random_tokens: Any, n_repeats: Any, draws: Any, seed: int
    ) -> RepeatedTokens:
        """Draws them.

        Raises:
            InputError: Too few ordinary tokens or draws, or sequences longer than the model's positions.
        """
        period = checks.count(n_random_tokens, "n_random_tokens", 2)
        repeats, draws = (
            checks.count(n_repeats, "n_repeats", 2),
            checks.count(draws, "draws", DRAWS, MOST_DRAWS),
        )
        if period * repeats > _LONGEST:
            raise InputError(
                f"n_random_tokens × n_repeats is {period} × {repeats} tokens; at most {_LONGEST:,} are drawn. Ask for"
                " fewer."
            )
        model = session.plain.model
        known, before = ordinary_tokens(model), beginning(model)
        if len(known) < period:
            raise InputError(
                f"n_random_tokens is {period}, and this tokenizer has {len(known)} tokens that are not special. Ask for"
                " fewer."
            )
        rows, other = [], []
        for draw in range(draws):
            random = np.random.default_rng([seed, draw])
            said = random.choice(known, period, replace=False)
            rows.append(np.concatenate([before, *[said] * repeats]))
            other.append(
                np.concatenate([before, said, *(random.permutation(said) for _ in range(repeats - 1))])
            )
        session.batch(rows[0].tolist())  # refuses what is longer than the model's positions
        return RepeatedTokens(np.stack(rows), np.stack(other), len(before), period)


def ordinary_tokens(model: LanguageModel) -> np.ndarray:
    """int64: ids of the tokenizer's tokens that are neither special nor added; without one all of the model's."""
    listed = getattr(model.tokenizer, "get_vocab", None)
    ids = set(range(model.vocab_size)) if listed is None else {int(i) for i in listed().values()}
    special = special_tokens(model)
    found = sorted(i for i in ids - special if 0 <= i < model.vocab_size)
    if len(found) < 2:
        raise InputError("This tokenizer has special tokens only, so no random ones can be drawn.")
    return np.array(found, dtype=np.int64)


def special_tokens(model: LanguageModel) -> set[int]:
    """Ids of the tokenizer's special and added tokens; none without a tokenizer."""
    tokenizer: Any = model.tokenizer
    special = {int(i) for i in getattr(tokenizer, "all_special_ids", None) or ()}
    added: Any = getattr(tokenizer, "get_added_vocab", dict)
    special |= {int(i) for i in added().values()}
    return special | {i for name in _ALONE if (i := as_integer(getattr(tokenizer, name, None))) is not None}


def beginning(model: LanguageModel) -> np.ndarray:
    """int64, (0,) or (1,): the token that the tokenizer puts before any text."""
    bos = None if model.tokenizer is None else bos_of(model)
    opens = bos is not None and list(model.tokenize("a"))[:1] == [bos]
    return np.array([bos] if opens else [], dtype=np.int64)


def batch_of(ids: np.ndarray) -> TokenBatch:
    """A batch of token ids (rows, tokens)."""
    return TokenBatch(ids.astype(np.int32), np.full(len(ids), ids.shape[1], dtype=np.int64))


def captured(
    model: LanguageModel, ids: np.ndarray, components: list[Component], **options: Any
) -> list[Array]:
    """Values of components in a pass over token ids (rows, tokens) that goes no further than them."""
    sites = unique_sites(components)
    run = model.run(batch_of(ids), sites, stop_after=sites, **options)
    return [component.read(run) for component in components]
