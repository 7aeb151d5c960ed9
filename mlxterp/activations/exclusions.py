"""Which tokens count: the one rule of what is a beginning of text and what an attention sink.

Searches, views, the index and training leave tokens out by it. A sink's length is measured on fixed prose before the
first text, so the rule does not depend on the texts, and shards or batches made apart leave out the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends.base import LanguageModel
from ..core.sites import Component
from ..data.corpus import Corpus
from ..errors import InputError
from .forward import Activations, collect

EXCLUSIONS = ("bos", "sinks")
"""Tokens that can be left out: the tokenizer's beginning-of-text token; attention sinks, whose activation is
more than ten times as long as usual. Padding is never counted."""
OF_TRAINING = ("bos", "first", "sinks")
"""In training also each context's first token."""
SINK = 10.0
PROSE = (
    "The old lighthouse keeper climbed the stairs every evening to light the lamp. When the storm came in from the"
    " sea, ships could still find their way home.\n\nIn 1905 a young clerk in Bern published four papers that changed"
    ' physics; one of them explained why light can knock electrons out of metal. "What is time?" he asked.\n\n'
    "def mean(values):\n    return sum(values) / len(values)\n\nMix 200 g of flour with two eggs, add a pinch of salt,"
    " and let the dough rest for an hour. Dr. Silva's report says that 12% of patients recovered within three weeks."
)
"""What a model's usual activations are measured on."""
_PROSE_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Rule:
    """Which tokens count."""

    exclude: tuple[str, ...]
    """Some of `EXCLUSIONS`, in that order."""
    bos: int | None
    """Token id that opens a text; None where the tokenizer has none."""
    longest: float
    """An activation longer than this is an attention sink."""

    def to_json(self) -> dict[str, Any]:
        return {"exclude": list(self.exclude), "bos": self.bos, "longest": self.longest}

    @staticmethod
    def from_json(described: dict[str, Any]) -> Rule:
        bos = described["bos"]
        return Rule(
            tuple(described["exclude"]), None if bos is None else int(bos), float(described["longest"])
        )

    def reasons(self, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """int8, (n,): why each token is left out, as a number of `exclude`; -1 for those that count.

        Args:
            tokens: Ids, (n,).
            lengths: Of their activations, (n,).
        """
        found = np.full(len(tokens), -1, dtype=np.int8)
        for i, reason in reversed(list(enumerate(self.exclude))):
            is_out = lengths > self.longest if reason == "sinks" else tokens == self.bos
            found[is_out] = i
        return found

    def reasons_of(self, model: LanguageModel, part: Activations, tokens: np.ndarray) -> np.ndarray:
        """The same of activations that were just collected; `tokens` are their ids."""
        lengths = np.zeros(len(tokens))
        if "sinks" in self.exclude:
            lengths = model.backend.lengths(part.values)
        return self.reasons(tokens, lengths)


def rule_for(model: LanguageModel, component: Component, exclude: Iterable[str] | str) -> Rule:
    """The rule of a component, with a sink's length measured on the prose.

    Raises:
        InputError: There is no such exclusion.
    """
    chosen = check_exclusions(exclude)
    return Rule(chosen, bos_of(model), longest_of(model, component))


def check_exclusions(exclude: Any, known: Sequence[str] = EXCLUSIONS) -> tuple[str, ...]:
    """The names of exclusions, each once, in the order of `known`.

    Raises:
        InputError: There is no such exclusion.
    """
    if not isinstance(exclude, Iterable):
        raise InputError(
            f"exclude={exclude!r}; give a list of names: {', '.join(known)}. () leaves nothing out."
        )
    asked = [exclude] if isinstance(exclude, str) else list(exclude)
    unknown = [reason for reason in asked if reason not in known]
    if unknown:
        raise InputError(f"exclude={unknown[0]!r}; there are: {', '.join(known)}. () leaves nothing out.")
    return tuple(reason for reason in known if reason in asked)


def bos_of(model: LanguageModel) -> int | None:
    """The token id that opens a text; None where the tokenizer has none."""
    found = getattr(model.tokenizer, "bos_token_id", None)
    return found if isinstance(found, int) else None


def longest_of(model: LanguageModel, component: Component) -> float:
    """The length above which an activation is a sink: ten times the median on the prose, without its first token."""
    found = [model.backend.lengths(part.values) for part in collect(model, prose(model), component)]
    return SINK * float(np.median(np.concatenate(found)[1:]))


def prose(model: LanguageModel) -> Corpus:
    """The text that a model's usual activations are measured on; fixed token ids where there is no tokenizer."""
    size = min(_PROSE_TOKENS, model.max_positions or _PROSE_TOKENS)
    if model.tokenizer is None:
        ids = np.random.default_rng(0).integers(0, model.vocab_size, size).tolist()
    else:
        ids = list(model.tokenize(PROSE))[:size]
    return Corpus.from_token_ids([ids])
