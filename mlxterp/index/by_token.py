"""An index the other way round: the features of every token, for what compares features of several SAEs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..core.sparse import SparseFeatures
from .answers import Answers


@dataclass(frozen=True, eq=False, slots=True)
class IndexRows:
    """All tokens of an index, in its order.

    Attributes:
        features: A row for each token; those that were left out have none.
        text_ids: int64, (n,): the text of each.
        positions: int64, (n,): its position in that text.
        tokens: int32, (n,): its token id.
    """

    features: SparseFeatures
    text_ids: np.ndarray
    positions: np.ndarray
    tokens: np.ndarray


def by_token(index: Answers) -> IndexRows:
    """Reads all of an index into memory: eight bytes for each active feature of a token.

    Raises:
        FeatureIndexError: A shard is missing or damaged.
    """
    parts, places, tokens = [], [], []
    for number, shard in enumerate(index._reader.shards()):
        parts.append(shard.by_feature.transpose())
        places.append(index._reader.places(number, np.arange(shard.n_tokens)))
        tokens.append(np.asarray(shard.tokens))
    text_ids, positions = (np.concatenate(arrays) for arrays in zip(*places, strict=True))
    return IndexRows(SparseFeatures.concat(parts), text_ids, positions, np.concatenate(tokens))


def texts_in(index: Answers, numbers: Iterable[int] | None = None) -> list[str]:
    """Texts of an index, in its order.

    Args:
        numbers: Which of them; None takes all.

    Raises:
        FeatureIndexError: A shard is missing or damaged.
    """
    return [index._reader.text(i) for i in (range(index.n_texts) if numbers is None else numbers)]
