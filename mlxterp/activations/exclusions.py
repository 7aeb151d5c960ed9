"""Which tokens count: the one rule of what is a beginning of text and what an attention sink.

The measure of sinks is `sink_length`: ten times the median length of a component's activations on fixed prose. It is
taken before the first text, so it does not depend on the texts, and shards or batches made apart leave out the same
tokens. Who asks what:

* searches, views and the index: `Rule.reasons` of one component, "bos" and "sinks";
* training and `collect_activations`: `first_reasons` of all their components, "first" too;
* `check_sae`'s verdict and its likely cause: `are_sinks`. `evaluate_sae` leaves out first tokens only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends.base import LanguageModel
from ..core.integers import is_integer
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
    """Some of `OF_TRAINING`, in that order."""
    bos: int | None
    """Token id that opens a text; None where the tokenizer has none."""
    sink_length: float
    """An activation longer than this is an attention sink."""

    def to_json(self) -> dict[str, Any]:
        return {"exclude": list(self.exclude), "bos": self.bos, "longest": self.sink_length}

    @staticmethod
    def from_json(described: dict[str, Any]) -> Rule:
        bos = described["bos"]
        return Rule(
            tuple(described["exclude"]), None if bos is None else int(bos), float(described["longest"])
        )

    def reasons(self, tokens: np.ndarray, positions: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """int8, (n,): why each token is left out, as a number of `exclude`; -1 for those that count.

        Args:
            tokens: Ids, (n,).
            positions: 0-based, each in its text, (n,).
            lengths: Of their activations, (n,).
        """
        found = np.full(len(tokens), -1, dtype=np.int8)
        for i, reason in reversed(list(enumerate(self.exclude))):
            if reason == "sinks":
                found[are_sinks(lengths, self.sink_length)] = i
            elif reason == "first":
                found[positions == 0] = i
            elif self.bos is not None:
                found[tokens == self.bos] = i
        return found

    def reasons_of(self, model: LanguageModel, part: Activations, tokens: np.ndarray) -> np.ndarray:
        """The same of activations that were just collected; `tokens` are their ids."""
        lengths = np.zeros(len(tokens))
        if "sinks" in self.exclude:
            lengths = model.backend.lengths(part.values)
        return self.reasons(tokens, part.positions, lengths)


def are_sinks(lengths: np.ndarray, sink_length: float) -> np.ndarray:
    """Booleans (n,): which activations of these lengths are attention sinks."""
    return lengths > sink_length


def first_reasons(
    rules: Sequence[Rule], tokens: np.ndarray, positions: np.ndarray, lengths: Sequence[np.ndarray]
) -> np.ndarray:
    """`Rule.reasons` of tokens of several components: a sink in one of them is left out of all.

    Args:
        rules: Of each component, with the same `exclude`.
        lengths: Of each component's activations, (n,).
    """
    found = np.full(len(tokens), len(OF_TRAINING), dtype=np.int8)
    for rule, of in zip(rules, lengths, strict=True):
        reasons = rule.reasons(tokens, positions, of)
        found = np.where(reasons < 0, found, np.minimum(found, reasons))
    return np.where(found == len(OF_TRAINING), -1, found)


def rule_for(model: LanguageModel, component: Component, exclude: Iterable[str] | str) -> Rule:
    """The rule of a component, with a sink's length measured on the prose.

    Raises:
        InputError: There is no such exclusion.
    """
    chosen = check_exclusions(exclude)
    return Rule(chosen, bos_of(model), sink_length(model, component))


def rule_of_training(model: LanguageModel, component: Component, exclude: Iterable[str] | str) -> Rule:
    """The same with "first"; a sink's length is measured only where sinks are left out.

    Raises:
        InputError: There is no such exclusion.
    """
    chosen = check_exclusions(exclude, OF_TRAINING)
    return Rule(chosen, bos_of(model), sink_length(model, component) if "sinks" in chosen else np.inf)


def rule_where_asked(model: LanguageModel, component: Component, exclude: Iterable[str] | str) -> Rule | None:
    """The rule of a component; None where all tokens count.

    Raises:
        InputError: There is no such exclusion.
    """
    return rule_for(model, component, exclude) if check_exclusions(exclude) else None


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
    return found if is_integer(found) else None


def sink_length(model: LanguageModel, component: Component) -> float:
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
