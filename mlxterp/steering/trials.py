"""What a model writes under some edits, and what its unsteered self makes of it.

`Trials` fixes prompts, lengths and seeds, so that runs differ in their edits alone. Everything is measured by the
unsteered model in one pass over prompt and continuation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..activations.forward import rows_of
from ..anatomy.anatomy import Anatomy
from ..backends.base import LanguageModel
from ..backends.host.finite import not_finite
from ..core.numeric import log_softmax
from ..core.texts import listed
from ..core.tokens import TokenBatch
from ..edits.edits import Edit
from ..errors import InputError
from ..hooks.session import ModelSession
from ..sae import SAE
from ..tracing.continued import continued
from ..tracing.generation import Request
from ..tracing.passes import check_length

_NGRAM = 3
_LOGITS = 1 << 25
"""Numbers that are held at a time where losses are measured."""


@dataclass(frozen=True, eq=False, slots=True)
class Written:
    """Continuations under some edits, measured by the unsteered model.

    Attributes:
        texts: Continuations, one for each prompt.
        readout: float64, (prompts,): the feature's largest activation on the tokens written.
        concept: float64, (prompts,): share of the tokens written that are the concept's; NaN where none were named.
        loss: float64, (prompts,): mean -log p of the tokens written, nats.
        repetition: float64, (prompts,): share of the 3-grams written that were there before.
    """

    texts: tuple[str, ...]
    readout: np.ndarray
    concept: np.ndarray
    loss: np.ndarray
    repetition: np.ndarray

    @property
    def perplexity(self) -> float:
        """exp of the mean loss over the prompts that were continued; infinite where none was."""
        found = self.loss[np.isfinite(self.loss)]
        return float(np.exp(found.mean())) if len(found) else float("inf")


Ids = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids of a prompt, and of what was written after it."""
Numbers = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False, slots=True)
class Row:
    """A prompt as it is continued.

    Attributes:
        text: What watchers are told that it says; None for token ids that no text gives.
        ids: Its token ids.
        after: Those of the prompt that what is written is measured after.
        edits: What acts; rows that share edits hold the very same list.
        seed: Of sampling.
    """

    text: str | None
    ids: tuple[int, ...]
    after: tuple[int, ...]
    edits: Sequence[Edit]
    seed: int


@dataclass(frozen=True, eq=False, slots=True)
class Trials:
    """Prompts, and how they are continued.

    Raises:
        InputError: Prompts that are not texts, or with the tokens to write longer than the model's positions.
    """

    session: ModelSession
    """The model, its tokenizer and what acts on it."""
    sae: SAE
    feature: int
    component: str
    """What the SAE reads."""
    prompts: tuple[str, ...]
    max_tokens: int
    temperature: float
    seed: int
    concept: frozenset[tuple[int, ...]]
    """Token ids, one after the other, that show the concept."""

    def run(self, edits: Sequence[Edit], prefix: str = "") -> Written:
        """Continues every prompt, with `prefix` before it; what is written is measured after the prompt alone."""
        return self.run_all([(edits, prefix)])[0]

    def run_all(self, several: Sequence[tuple[Sequence[Edit], str]], verbose: bool = False) -> list[Written]:
        """As `run` for several edits and prefixes, all texts together.

        Raises:
            NotFiniteError: The logits of a text are NaN or infinite.
        """
        rows = [
            Row(prefix + prompt, self._ids(prefix + prompt), self._ids(prompt), edits, self.seed_of(i))
            for edits, prefix in several
            for i, prompt in enumerate(self.prompts)
        ]  # fmt: skip
        texts, measured, failures = self.run_rows(rows, verbose)
        for failure in failures:
            if failure is not None:
                raise failure
        n = len(self.prompts)
        return [
            Written(tuple(texts[k : k + n]), *(values[k : k + n] for values in measured))
            for k in range(0, len(rows), n)
        ]

    def run_rows(
        self, rows: Sequence[Row], verbose: bool = False
    ) -> tuple[list[str], np.ndarray, list[Exception | None]]:
        """Continues every row, all together, and measures what was written.

        Returns:
            Continuations; float64, (4, rows): readout, concept, loss and repetition, NaN where a row failed; why it
            failed, None where it did not.
        """
        made = {id(row.edits): self.session.edits(row.edits) if row.edits else [] for row in rows}
        anatomy = self.session.running_rows([row.text for row in rows], [made[id(row.edits)] for row in rows])
        requests = [Request(self.max_tokens, temperature=self.temperature, seed=row.seed) for row in rows]
        written = continued(anatomy, [row.ids for row in rows], requests, verbose=verbose)
        kept = [i for i, one in enumerate(written) if one.failure is None]
        found = self._measured([(rows[i].after, tuple(written[i].tokens)) for i in kept])
        numbers, failures = np.full((4, len(rows)), np.nan), [one.failure for one in written]
        for i, one in zip(kept, found, strict=True):
            if isinstance(one, Exception):
                failures[i] = one
            else:
                numbers[:, i] = one
        return [one.text for one in written], numbers, failures

    def seed_of(self, prompt: int) -> int:
        """What a prompt is sampled with, the same in every trial."""
        return (self.seed + prompt) % 2**64

    def _ids(self, text: str) -> tuple[int, ...]:
        return self.checked_ids(self.session.anatomy.model.tokenize(text))

    def checked_ids(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Token ids of a prompt.

        Raises:
            InputError: With the tokens to write they are more than the model's positions.
        """
        check_length(self.session.anatomy.model, len(ids) + self.max_tokens, "The prompt and max_tokens make")
        return tuple(int(token) for token in ids)

    def _measured(self, texts: Sequence[Ids]) -> list[Numbers | Exception]:
        """Readout, concept, loss and repetition of what was written after each prompt, or why there are none.

        What was written several times is measured once, so its numbers are the very same.
        """
        found: dict[Ids, Numbers | Exception] = {}
        distinct = list(dict.fromkeys(texts))
        lengths = [len(prompt) + len(new) for prompt, new in distinct]
        for some in in_blocks(lengths, self.session.anatomy.model.vocab_size):
            found.update(self._numbers([distinct[i] for i in some]))
        return [found[text] for text in texts]

    def _numbers(self, texts: Sequence[Ids]) -> dict[Ids, Numbers | Exception]:
        """The four numbers of each text, a prompt and what was written; an error where logits are NaN or infinite."""
        anatomy = self.session.anatomy
        model, place = anatomy.model, anatomy.component(self.component)
        batch = TokenBatch.from_rows([[*prompt, *new] for prompt, new in texts])
        run = model.run(batch, place.sites)
        activations = rows_of(place, run, batch.ids.shape)
        active = self.sae.encode_sparse(activations).columns(np.array([self.feature]))[:, 0]
        active = active.reshape(batch.ids.shape)
        losses, found = token_losses(model, run.logits, batch), {}
        for i, (prompt, new) in enumerate(texts):
            begin, end = len(prompt), len(prompt) + len(new)
            mine = losses[i, begin - 1 : end - 1]
            if not np.isfinite(mine).all():
                after = model.tokenizer.decode(list(prompt))
                found[prompt, new] = not_finite("The logits", f"on what was written after {after!r}", False)
                continue
            concept = np.mean(shown(new, self.concept)) if new and self.concept else np.nan
            loss = mine.mean(dtype=np.float64) if new else np.nan
            found[prompt, new] = (_largest(active[i, begin:end]), float(concept), float(loss), repeated(new))
        return found


def in_blocks(lengths: Sequence[int], width: int) -> Iterator[list[int]]:
    """Rows, longest first, so many at a time that their logits, `width` for each token, take 128 MiB at most."""
    left = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while left:
        n = max(1, _LOGITS // (lengths[left[0]] * width))
        yield left[:n]
        left = left[n:]


def token_losses(model: LanguageModel, logits: Any, batch: TokenBatch) -> np.ndarray:
    """float, (texts, longest - 1): -log p of every token after the first, nats; padding is in it."""
    n, longest = batch.ids.shape
    before = logits[:, :-1].reshape(n * (longest - 1), -1)
    return model.backend.token_losses(before, batch.ids[:, 1:].reshape(-1)).reshape(n, longest - 1)


def _largest(values: np.ndarray) -> float:
    """The value of largest magnitude, with its sign; 0 where there is none."""
    return float(values[np.abs(values).argmax()]) if len(values) else 0.0


def shown(tokens: Sequence[int], sequences: Collection[tuple[int, ...]]) -> np.ndarray:
    """bool, (tokens,): which of them belong to one of the sequences."""
    found = np.zeros(len(tokens), dtype=bool)
    for sequence in sequences:
        size = len(sequence)
        for start in range(len(tokens) - size + 1):
            if tuple(tokens[start : start + size]) == sequence:
                found[start : start + size] = True
    return found


def repeated(tokens: Sequence[int]) -> float:
    """Share of the 3-grams that occurred before, in [0, 1); 0 for fewer than two of them."""
    grams = list(zip(*(tokens[i:] for i in range(_NGRAM)), strict=False))
    return 1 - len(Counter(grams)) / len(grams) if grams else 0.0


@contextmanager
def steered(session: ModelSession, edits: Sequence[Edit]) -> Iterator[Anatomy]:
    """The model's components, run with the edits."""
    with session.steering(edits) if edits else nullcontext():
        yield session.anatomy


def next_tokens(session: ModelSession, edits: Sequence[Edit], texts: Sequence[str]) -> list[np.ndarray]:
    """log p of the next token after every token of each text, float64, (tokens, vocabulary)."""
    with steered(session, edits):
        return [_log_probabilities(session, text) for text in texts]


def _log_probabilities(session: ModelSession, text: str) -> np.ndarray:
    batch, model = session.batch(text), session.running(text).model
    found = log_softmax(model.backend.get(model.forward(batch))[0])
    if np.isnan(found).any():
        raise not_finite("The logits", f"of the text {text[:40]!r}", bool(model.described))
    return found


def divergence(clean: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    """KL(clean ‖ other) in nats, mean over all tokens; both as `next_tokens` gives them."""
    total = sum(float((np.exp(a) * (a - b)).sum()) for a, b in zip(clean, other, strict=True))
    return total / sum(map(len, clean))


def check_texts(texts: Any, name: str) -> tuple[str, ...]:
    """One text or several.

    Raises:
        InputError: They are something else, or none.
    """
    try:
        several = tuple(listed((texts,) if isinstance(texts, str) else texts))
    except InputError as error:
        raise InputError(f"{name}= is a list of texts, got {texts!r:.200}. {error}") from error
    if not all(several):
        raise InputError(f"{name}= is a list of texts, none of them empty; got {texts!r:.200}.")
    return several
