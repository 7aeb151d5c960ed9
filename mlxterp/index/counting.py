"""Which tokens an index counts, and the features of those.

`Rule` is fixed before the first token is read and does not depend on the texts, so that shards built apart
are the same as shards built together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends.base import LanguageModel
from ..corpus import Corpus
from ..errors import InputError
from ..features.collect import Activations, collect
from ..features.search import encode_activations
from ..sae import SAE
from ..sites import Component
from ..sparse import SparseFeatures
from .plan import ShardPlan

EXCLUSIONS = ("bos", "sinks")
"""Tokens that can be left out: the tokenizer's beginning-of-text token; attention sinks, whose activation is
more than ten times as long as usual. Padding is never counted."""
SINK = 10.0
PROSE = (
    "The old lighthouse keeper climbed the stairs every evening to light the lamp. When the storm came in from the"
    " sea, ships could still find their way home.\n\nIn 1905 a young clerk in Bern published four papers that changed"
    ' physics; one of them explained why light can knock electrons out of metal. "What is time?" he asked.\n\n'
    "def mean(values):\n    return sum(values) / len(values)\n\nMix 200 g of flour with two eggs, add a pinch of salt,"
    " and let the dough rest for an hour. Dr. Silva's report says that 12% of patients recovered within three weeks."
)
"""What a model's usual activations are measured on."""


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


@dataclass(frozen=True, eq=False, slots=True)
class Counted:
    """Features of some tokens; those that do not count have none."""

    tokens: np.ndarray
    """int64, (n,): numbers of the tokens in their corpus."""
    features: SparseFeatures
    reasons: np.ndarray
    """int8, (n,): why each was left out, as `Rule.reasons` gives it."""


@dataclass(frozen=True, eq=False, slots=True)
class EncodedShard:
    """What a shard's model and SAE have said."""

    by_feature: SparseFeatures
    """Row f: the tokens of the plan where feature f is active."""
    excluded: dict[str, int]


def rule_for(model: LanguageModel, component: Component, exclude: Iterable[str] | str) -> Rule:
    """The rule, with a sink's length measured on some prose: ten times the median but for the first token.

    Raises:
        InputError: There is no such exclusion.
    """
    if not isinstance(exclude, Iterable):
        raise InputError(
            f"exclude={exclude!r}; give a list of names: {', '.join(EXCLUSIONS)}. () leaves nothing out."
        )
    asked = [exclude] if isinstance(exclude, str) else list(exclude)
    unknown = [reason for reason in asked if reason not in EXCLUSIONS]
    if unknown:
        raise InputError(
            f"exclude={unknown[0]!r}; there are: {', '.join(EXCLUSIONS)}. () leaves nothing out."
        )
    bos = getattr(model.tokenizer, "bos_token_id", None)
    chosen = tuple(reason for reason in EXCLUSIONS if reason in asked)
    return Rule(chosen, bos if isinstance(bos, int) else None, SINK * _usual_length(model, component))


def prose(model: LanguageModel) -> Corpus:
    """The text that a model's usual activations are measured on."""
    ids = list(model.tokenize(PROSE))
    return Corpus.from_token_ids([ids[: min(128, model.max_positions or 128)]])


def counted(
    model: LanguageModel, corpus: Corpus, sae: SAE, component: Component, rule: Rule, quiet: bool = False
) -> Iterator[Counted]:
    """Features of every token of a corpus that counts, batch by batch.

    Raises:
        SAEError: The component is not as wide as the SAE's input.
    """
    for part in collect(model, corpus, component, quiet=quiet):
        features = encode_activations(sae, part, component)
        tokens = corpus.offsets[part.text_ids] + part.positions
        if rule.exclude:
            lengths = _lengths(model, part) if "sinks" in rule.exclude else np.zeros(len(tokens))
            reasons = rule.reasons(corpus.tokens[tokens], lengths)
        else:
            reasons = np.full(len(tokens), -1, dtype=np.int8)
        yield Counted(tokens, _emptied(features, reasons >= 0), reasons)


def encode_shard(
    model: LanguageModel, plan: ShardPlan, sae: SAE, component: Component, rule: Rule
) -> EncodedShard:
    """Runs the model over a shard's pieces.

    Raises:
        SAEError: The component is not as wide as the SAE's input.
    """
    excluded = dict.fromkeys(rule.exclude, 0)
    if not plan.pieces:
        nothing = SparseFeatures.from_topk(np.zeros((0, 1), int), np.zeros((0, 1)), sae.d_hidden)
        return EncodedShard(nothing.transpose(), excluded)
    corpus = Corpus.from_token_ids([piece.ids for piece in plan.pieces])
    own = _own_numbers(plan)
    numbers, parts = [], []
    for part in counted(model, corpus, sae, component, rule, quiet=True):
        mine = np.flatnonzero(own[part.tokens] >= 0)
        numbers.append(own[part.tokens[mine]])
        parts.append(part.features if len(mine) == len(part.tokens) else part.features.take(mine))
        for i, reason in enumerate(rule.exclude):
            excluded[reason] += int((part.reasons[mine] == i).sum())
    order = np.argsort(np.concatenate(numbers), kind="stable")
    features = SparseFeatures.concat(parts)
    parts.clear()  # a shard's pairs are large, and are held once at a time
    features = features.take(order)
    return EncodedShard(features.transpose(), excluded)


def _own_numbers(plan: ShardPlan) -> np.ndarray:
    """int64: for every token that runs, its number in the shard; -1 where it belongs to an earlier one."""
    parts, first = [], 0
    for piece in plan.pieces:
        own = np.arange(first - piece.context, first + len(piece.tokens))
        own[: piece.context] = -1
        parts.append(own)
        first += len(piece.tokens)
    return np.concatenate(parts)


def _emptied(features: SparseFeatures, without: np.ndarray) -> SparseFeatures:
    """The same rows, with nothing in those that are left out."""
    if not without.any():
        return features
    counts = np.where(without, 0, np.diff(features.indptr))
    kept = ~np.repeat(without, np.diff(features.indptr))
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return SparseFeatures(indptr, features.indices[kept], features.values[kept], features.d_hidden)


def _lengths(model: LanguageModel, part: Activations) -> np.ndarray:
    return model.backend.lengths(part.values)


def _usual_length(model: LanguageModel, component: Component) -> float:
    found = [_lengths(model, part) for part in collect(model, prose(model), component)]
    return float(np.median(np.concatenate(found)[1:]))
