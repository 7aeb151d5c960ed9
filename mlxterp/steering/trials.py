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
from ..tracing.continued import Continued, continued
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
        """As `run` for several edits and prefixes, all texts together."""
        rows = [(prefix + prompt, edits) for edits, prefix in several for prompt in self.prompts]
        given = [self._ids(text) for text, _ in rows]
        anatomy = self.session.running_rows([text for text, _ in rows], self._effects(several))
        written = written_after(
            anatomy, given, self.max_tokens, self.temperature, self._seeds(len(several)), verbose
        )
        measured = self._measured([
            (prompt, tuple(one.tokens)) for prompt, one in zip(self.prompts * len(several), written, strict=True)
        ])  # fmt: skip
        texts = [one.text for one in written]
        n = len(self.prompts)
        return [
            Written(tuple(texts[k : k + n]), *(values[k : k + n] for values in measured))
            for k in range(0, len(rows), n)
        ]

    def _effects(self, several: Sequence[tuple[Sequence[Edit], str]]) -> list[list[Edit]]:
        """The edits of each text; those of one trial are the same objects."""
        made = [self.session.edits(edits) if edits else [] for edits, _ in several]
        return [edits for edits in made for _ in self.prompts]

    def _seeds(self, trials: int) -> list[int]:
        """The prompts' seeds, the same in every trial."""
        return [(self.seed + i) % 2**64 for i in range(len(self.prompts))] * trials

    def _ids(self, text: str) -> list[int]:
        model = self.session.anatomy.model
        ids = [int(token) for token in model.tokenize(text)]
        check_length(model, len(ids) + self.max_tokens, "The prompt and max_tokens make")
        return ids

    def _measured(self, texts: list[tuple[str, tuple[int, ...]]]) -> np.ndarray:
        """float64, (4, texts): readout, concept, loss and repetition of what was written after each prompt.

        What was written several times is measured once, so its numbers are the very same.
        """
        found: dict[tuple[str, tuple[int, ...]], Any] = dict.fromkeys(texts)
        distinct = list(found)
        lengths = [len(self._ids(prompt)) + len(new) for prompt, new in distinct]
        for some in in_blocks(lengths, self.session.anatomy.model.vocab_size):
            found.update(self._numbers([distinct[i] for i in some]))
        return np.array([found[text] for text in texts], dtype=np.float64).T

    def _numbers(self, texts: list[tuple[str, tuple[int, ...]]]) -> dict[tuple[str, tuple[int, ...]], Any]:
        """The four numbers of each text, a prompt and what was written.

        Raises:
            NotFiniteError: The logits on one of them are NaN or infinite.
        """
        anatomy = self.session.anatomy
        model, place = anatomy.model, anatomy.component(self.component)
        begins = [len(self._ids(prompt)) for prompt, _ in texts]
        batch = TokenBatch.from_rows([[*self._ids(prompt), *new] for prompt, new in texts])
        run = model.run(batch, place.sites)
        activations = rows_of(place, run, batch.ids.shape)
        active = self.sae.encode_sparse(activations).columns(np.array([self.feature]))[:, 0]
        active = active.reshape(batch.ids.shape)
        losses, found = token_losses(model, run.logits, batch), {}
        for i, (begin, (prompt, new)) in enumerate(zip(begins, texts, strict=True)):
            end = begin + len(new)
            mine = losses[i, begin - 1 : end - 1]
            if not np.isfinite(mine).all():
                raise not_finite("The logits", f"on what was written after {prompt!r}", False)
            concept = np.mean(shown(new, self.concept)) if new and self.concept else np.nan
            loss = mine.mean(dtype=np.float64) if new else np.nan
            found[prompt, new] = (_largest(active[i, begin:end]), concept, loss, repeated(new))
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


def written_after(
    anatomy: Anatomy, prompts: Sequence[list[int]], max_tokens: int, temperature: float, seeds: Sequence[int],
    verbose: bool,
) -> list[Continued]:  # fmt: skip
    """What is written after each prompt.

    Raises:
        NotFiniteError: The logits of a token are NaN or infinite.
    """
    requests = [Request(max_tokens, temperature=temperature, seed=seed) for seed in seeds]
    found = continued(anatomy, prompts, requests, verbose=verbose)
    for one in found:
        if one.failure is not None:
            raise one.failure
    return found


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
