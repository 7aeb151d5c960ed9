"""The features of the tokens that an index counts, by the rule of `activations.exclusions`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..activations.exclusions import Rule
from ..activations.forward import Activations, batches_of, run_batch
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


@dataclass(frozen=True, eq=False, slots=True)
class Reading:
    """What an index reads of a model."""

    sae: SAE
    component: Component
    rule: Rule
    """Which tokens count."""


def encode_counted(
    model: LanguageModel, corpus: Corpus, sae: SAE, component: Component, rule: Rule, quiet: bool = False
) -> Iterator[Counted]:
    """Features of every token of a corpus that counts, batch by batch.

    Raises:
        SAEError: The component is not as wide as the SAE's input.
    """
    for [found] in encode_together(model, corpus, [Reading(sae, component, rule)], quiet):
        yield found


def encode_together(
    model: LanguageModel, corpus: Corpus, readings: Sequence[Reading], quiet: bool = False
) -> Iterator[list[Counted]]:
    """The same for several SAEs from one pass: for each batch, what each of them reads.

    Raises:
        SAEError: A component is not as wide as its SAE's input.
    """
    components = {reading.component.name: reading.component for reading in readings}
    for batch in batches_of(model, corpus, quiet=quiet):
        parts = dict(zip(components, run_batch(model, batch, list(components.values())), strict=True))
        yield [_counted(model, corpus, reading, parts[reading.component.name]) for reading in readings]


def _counted(model: LanguageModel, corpus: Corpus, reading: Reading, part: Activations) -> Counted:
    features = encode_activations(reading.sae, part, reading.component)
    tokens = corpus.offsets[part.text_ids] + part.positions
    reasons = reading.rule.reasons_of(model, part, corpus.tokens[tokens])
    return Counted(tokens, features.without_rows(reasons >= 0), reasons, marks(part.values))


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
    return encode_shards(model, plan, [Reading(sae, component, rule)], ran)[0]


def encode_shards(
    model: LanguageModel, plan: ShardPlan, readings: Sequence[Reading],
    ran: Callable[[float], object] = lambda _share: None,
) -> list[EncodedShard]:  # fmt: skip
    """The same for several SAEs from one pass; the pairs of all of them are held at a time.

    Raises:
        SAEError: A component is not as wide as its SAE's input.
    """
    if not plan.pieces:
        return [_nothing(reading) for reading in readings]
    corpus = Corpus.from_token_ids([piece.ids for piece in plan.pieces])
    own = _own_numbers(plan)
    found: list[list[Counted]] = [[] for _ in readings]
    done = 0
    for batch in encode_together(model, corpus, readings, quiet=True):
        done += len(batch[0].tokens)
        ran(min(done / len(own), 1.0))
        for parts, part in zip(found, batch, strict=True):
            parts.append(_own_part(part, own))
    prefixes = np.concatenate([piece.prefixes for piece in plan.pieces])
    return [_joined(reading, parts, prefixes) for reading, parts in zip(readings, found, strict=True)]


def _nothing(reading: Reading) -> EncodedShard:
    nothing = SparseFeatures.from_topk(np.zeros((0, 1), int), np.zeros((0, 1)), reading.sae.d_hidden)
    return EncodedShard(nothing.transpose(), dict.fromkeys(reading.rule.exclude, 0))


def _own_part(part: Counted, own: np.ndarray) -> Counted:
    """Of a batch's tokens those that belong to the shard, by their numbers in it."""
    numbers = own[part.tokens]
    mine = np.flatnonzero(numbers >= 0)
    features = part.features if len(mine) == len(numbers) else part.features.take(mine)
    return Counted(numbers[mine], features, part.reasons[mine], part.marks[mine])


def _joined(reading: Reading, parts: list[Counted], prefixes: np.ndarray) -> EncodedShard:
    """What all batches of a shard say, in the order of its tokens. Empties `parts`."""
    order = np.argsort(np.concatenate([part.tokens for part in parts]), kind="stable")
    order = order[first_alike(prefixes, np.concatenate([part.marks for part in parts])[order])]
    left_out = np.concatenate([part.reasons for part in parts])[order]
    excluded = {reason: int((left_out == i).sum()) for i, reason in enumerate(reading.rule.exclude)}
    features = SparseFeatures.concat([part.features for part in parts])
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
