"""The features of the tokens that an index counts, by the rule of `activations.exclusions`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..activations.exclusions import Rule
from ..activations.forward import collect
from ..activations.marks import marks
from ..backends.base import LanguageModel
from ..core.beginnings import first_alike
from ..core.sites import Component
from ..core.sparse import SparseFeatures
from ..data.corpus import Corpus
from ..features.search import encode_activations
from ..sae import SAE
from .plan import ShardPlan


@dataclass(frozen=True, eq=False, slots=True)
class Counted:
    """Features of some tokens; those that do not count have none."""

    tokens: np.ndarray
    """int64, (n,): numbers of the tokens in their corpus."""
    features: SparseFeatures
    reasons: np.ndarray
    """int8, (n,): why each was left out, as `Rule.reasons` gives it."""
    marks: np.ndarray
    """Of their activations: see `activations.marks`."""


@dataclass(frozen=True, eq=False, slots=True)
class EncodedShard:
    """What a shard's model and SAE have said."""

    by_feature: SparseFeatures
    """Row f: the tokens of the plan where feature f is active."""
    excluded: dict[str, int]


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
        reasons = rule.reasons_of(model, part, corpus.tokens[tokens])
        yield Counted(tokens, features.without_rows(reasons >= 0), reasons, marks(part.values))


def encode_shard(
    model: LanguageModel, plan: ShardPlan, sae: SAE, component: Component, rule: Rule,
    ran: Callable[[float], object] = lambda _share: None,
) -> EncodedShard:  # fmt: skip
    """Runs the model over a shard's pieces.

    Args:
        ran: Told, batch by batch, which share of the tokens has run.

    Raises:
        SAEError: The component is not as wide as the SAE's input.
    """
    if not plan.pieces:
        nothing = SparseFeatures.from_topk(np.zeros((0, 1), int), np.zeros((0, 1)), sae.d_hidden)
        return EncodedShard(nothing.transpose(), dict.fromkeys(rule.exclude, 0))
    corpus = Corpus.from_token_ids([piece.ids for piece in plan.pieces])
    own = _own_numbers(plan)
    numbers, parts, reasons, marked, done = [], [], [], [], 0
    for part in counted(model, corpus, sae, component, rule, quiet=True):
        done += len(part.tokens)
        ran(min(done / len(own), 1.0))
        mine = np.flatnonzero(own[part.tokens] >= 0)
        numbers.append(own[part.tokens[mine]])
        parts.append(part.features if len(mine) == len(part.tokens) else part.features.take(mine))
        reasons.append(part.reasons[mine])
        marked.append(part.marks[mine])
    order = np.argsort(np.concatenate(numbers), kind="stable")
    prefixes = np.concatenate([piece.prefixes for piece in plan.pieces])
    order = order[first_alike(prefixes, np.concatenate(marked)[order])]
    left_out = np.concatenate(reasons)[order]
    excluded = {reason: int((left_out == i).sum()) for i, reason in enumerate(rule.exclude)}
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
