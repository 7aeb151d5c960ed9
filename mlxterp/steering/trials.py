"""What a model writes under some edits, and what its unsteered self makes of it.

`Trials` fixes prompts, lengths and seeds, so that runs differ in their edits alone. Everything is measured by the
unsteered model in one pass over prompt and continuation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..anatomy import Anatomy
from ..errors import InputError
from ..features.collect import rows_of
from ..sae import SAE
from ..text import check_length
from ..tokens import TokenBatch
from .edits import Edit

_NGRAM = 3


@dataclass(frozen=True, eq=False, slots=True)
class Written:
    """Continuations under some edits, measured by the unsteered model."""

    texts: tuple[str, ...]
    """Continuations, one for each prompt."""
    readout: np.ndarray
    """float64, (prompts,): the feature's largest activation on the tokens written."""
    concept: np.ndarray
    """float64, (prompts,): share of the tokens written that are the concept's; NaN where none were named."""
    loss: np.ndarray
    """float64, (prompts,): mean -log p of the tokens written, nats."""
    repetition: np.ndarray
    """float64, (prompts,): share of the 3-grams written that were there before."""

    @property
    def perplexity(self) -> float:
        """exp of the mean loss over the prompts that were continued; infinite where none was."""
        found = self.loss[np.isfinite(self.loss)]
        return float(np.exp(found.mean())) if len(found) else float("inf")


@dataclass(frozen=True, eq=False, slots=True)
class Trials:
    """Prompts, and how they are continued.

    Raises:
        InputError: Prompts that are not texts, or with the tokens to write longer than the model's positions.
    """

    model: Any
    """An `InterpretableModel`."""
    sae: SAE
    feature: int
    component: str
    """What the SAE reads."""
    prompts: tuple[str, ...]
    max_tokens: int
    temperature: float
    seed: int
    concept: frozenset[int]
    """Token ids that show the concept."""

    def run(self, edits: Sequence[Edit], prefix: str = "") -> Written:
        """Continues every prompt, with `prefix` before it."""
        rows, begins, texts = [], [], []
        with steered(self.model, edits) as anatomy:
            for i, prompt in enumerate(self.prompts):
                ids = [int(token) for token in anatomy.model.tokenize(prefix + prompt)]
                check_length(anatomy.model, len(ids) + self.max_tokens, "The prompt and max_tokens make")
                written, text = self._continue(anatomy, ids, self.seed + i)
                rows.append([*ids, *written])
                begins.append(len(ids))
                texts.append(text)
        return self._measured(rows, begins, texts)

    def _continue(self, anatomy: Anatomy, ids: list[int], seed: int) -> tuple[list[int], str]:
        tokens, text = [], ""
        stream = anatomy.model.stream(ids, self.max_tokens, temperature=self.temperature, seed=seed)
        for token, piece in stream:
            tokens += [] if token is None else [int(token)]
            text += piece
        return tokens, text

    def _measured(self, rows: list[list[int]], begins: list[int], texts: list[str]) -> Written:
        anatomy = self.model.anatomy
        model, place = anatomy.model, anatomy.component(self.component)
        batch = TokenBatch.from_rows(rows)
        run = model.run(batch, place.sites)
        activations = rows_of(place, run, batch.ids.shape)
        active = self.sae.encode_sparse(activations).columns(np.array([self.feature]))[:, 0]
        active = active.reshape(batch.ids.shape)
        assert run.logits is not None
        readout, concept, loss, repetition = (np.full(len(rows), np.nan) for _ in range(4))
        for i, (row, begin) in enumerate(zip(rows, begins, strict=True)):
            new = row[begin:]
            readout[i] = _largest(active[i, begin : len(row)])
            concept[i] = np.mean([token in self.concept for token in new]) if new and self.concept else np.nan
            repetition[i] = repeated(new)
            if new:
                losses = model.backend.token_losses(run.logits[i, begin - 1 : len(row) - 1], np.array(new))
                loss[i] = losses.mean(dtype=np.float64)
        return Written(tuple(texts), readout, concept, loss, repetition)


def _largest(values: np.ndarray) -> float:
    """Of largest magnitude, with its sign; 0 of none."""
    return float(values[np.abs(values).argmax()]) if len(values) else 0.0


def repeated(tokens: Sequence[int]) -> float:
    """Share of the 3-grams that occurred before, in [0, 1); 0 for fewer than two of them."""
    grams = list(zip(*(tokens[i:] for i in range(_NGRAM)), strict=False))
    return 1 - len(Counter(grams)) / len(grams) if grams else 0.0


@contextmanager
def steered(model: Any, edits: Sequence[Edit]) -> Iterator[Anatomy]:
    """The model's components, run with the edits."""
    with model.steer(*edits) if edits else nullcontext():
        yield model.anatomy


def kl_to_clean(model: Any, edits: Sequence[Edit], texts: Sequence[str]) -> float:
    """KL(unsteered ‖ steered) of the next token in nats, mean over all tokens of the texts."""
    total, count = 0.0, 0
    for text in texts:
        clean = log_softmax(model.language_model.backend.get(model(text))[0])
        with steered(model, edits):
            other = log_softmax(model.language_model.backend.get(model(text))[0])
        total += float((np.exp(clean) * (clean - other)).sum())
        count += len(clean)
    return total / count


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float64, (…, vocabulary)."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


def check_prompts(prompts: Any) -> tuple[str, ...]:
    """The prompts.

    Raises:
        InputError: They are not a list of texts.
    """
    several = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    if not several or not all(isinstance(prompt, str) and prompt for prompt in several):
        raise InputError(f"prompts= is a list of texts to continue, got {prompts!r}.")
    return several
