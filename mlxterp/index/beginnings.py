"""Texts that begin alike and lie in different shards: the first shard's features speak for all.

Within a shard that is settled when it is encoded (`encode`); here it is between shards, as they come to be written
(`building`) or are put together (`merging`).
What later shards begin with is remembered up to a limit, so that memory stays that of a few shards; beyond it, equal
beginnings still take one value before they are ranked (`core.ranking`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from ..core.beginnings import MARKS, Beginnings
from ..core.sparse import SparseFeatures
from .encode import EncodedShard
from .plan import ShardPlan
from .shard import Shard

_LIMIT = 1 << 17
"""Tokens whose features are remembered."""


class Settling:
    """Shards as they come, in order: a token whose text began in an earlier shard takes the features that it has there.

    Args:
        before: The shards that are written already; read when the first one comes.
        acts: Whether something changes the model: it may act on one text and not on another, so each stays as it is.
    """

    def __init__(self, before: Iterable[Shard], acts: bool):
        self._before, self._acts = before, acts
        self._beginnings: Beginnings | None = None

    def settled(self, plan: ShardPlan, shard: EncodedShard) -> EncodedShard:
        """The shard that comes next."""
        if self._acts:
            return shard
        if self._beginnings is None:
            self._beginnings = _beginnings_of(self._before)
        prefixes = np.concatenate([np.zeros(0, np.uint64), *(piece.prefixes for piece in plan.pieces)])
        return replace(shard, by_feature=_settled(self._beginnings, shard.by_feature, prefixes))


def _beginnings_of(before: Iterable[Shard]) -> Beginnings:
    beginnings = Beginnings(_LIMIT)
    for shard in before:
        if beginnings.is_full:
            break
        _settled(beginnings, shard.by_feature, shard.prefixes)
    return beginnings


def settled_shards(shards: Iterable[Shard], acts: bool) -> Iterator[tuple[Shard, SparseFeatures]]:
    """Shards that are written, in order, with their features by the same rule.

    Args:
        acts: Whether something changed the model: each stays as it is.
    """
    beginnings = Beginnings(_LIMIT)
    for shard in shards:
        yield shard, shard.by_feature if acts else _settled(beginnings, shard.by_feature, shard.prefixes)


def _settled(beginnings: Beginnings, by_feature: SparseFeatures, prefixes: np.ndarray) -> SparseFeatures:
    """The features of a shard. Marks are all equal: where nothing acts, equal texts give equal activations."""
    marks = np.zeros((len(prefixes), MARKS), dtype=np.float32)
    return beginnings.settled(by_feature.transpose(), prefixes, marks).transpose()
