"""Labels of features as documents, and which of them a query is nearest to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from math import log, sqrt
from typing import Any, NamedTuple

import numpy as np

from ..core.controls import matrix
from ..errors import InputError
from ..index import FeatureIndex
from ..sae import SAE
from ..sae.directions import unit_rows


class Found(NamedTuple):
    """A feature that `search` found.

    Attributes:
        width: Of its SAE.
        feature_id: The feature.
        score: Cosine of query and label, as embeddings or by their words (TF-IDF).
        label: Its name or explanation, or the tokens that it fires on.
    """

    width: int
    feature_id: int
    score: float
    label: str


def documents_of(sae: SAE, index: FeatureIndex | None) -> list[tuple[int, str]]:
    """(feature id, label) of every feature that has one.

    Raises:
        InputError: The index is of another SAE.
    """
    if index is None:
        labels = ((f, sae.concepts.label_of(f)) for f in range(sae.d_hidden))
        return [(f, label) for f, label in labels if label]
    if not isinstance(index, FeatureIndex) or index.fingerprint != sae.fingerprint:
        raise InputError(f"The index of width {sae.d_hidden} is not one of {sae!r}.")
    found = []
    for f in range(sae.d_hidden):
        label = index.labels.label(f) or sae.concepts.label_of(f)
        if label is None and index.summary.count[f]:
            label = " ".join(token.strip() for token, _ in index.stats(f).top_tokens)
        if label:
            found.append((f, label))
    return found


def best_of(
    labelled: Sequence[tuple[int, int, str]], query: str, embed: Callable[[list[str]], Any] | None, top_k: int
) -> list[Found]:
    """The features whose labels are nearest, the nearest first, then the narrower SAE, then the lower id.

    Args:
        labelled: (width, feature id, label).
    """
    texts = [label for _, _, label in labelled]
    scores = _by_words(texts, query) if embed is None else _by_embedding(texts, query, embed)
    widths, ids = (np.array([one[i] for one in labelled]) for i in (0, 1))
    order = np.lexsort((ids, widths, -scores))
    chosen = order if embed is not None else order[scores[order] > 0]
    return [Found(labelled[i][0], labelled[i][1], float(scores[i]), labelled[i][2]) for i in chosen[:top_k]]


def _by_words(texts: Sequence[str], query: str) -> np.ndarray:
    """Cosines of TF-IDF vectors with the query's."""
    counts = [Counter(_words(text)) for text in texts]
    known = Counter(word for words in counts for word in words)

    def weighted(words: Counter[str]) -> dict[str, float]:
        """Of length 1."""
        found = {w: n * (log((1 + len(texts)) / (1 + known[w])) + 1) for w, n in words.items()}
        length = sqrt(sum(value**2 for value in found.values()))
        return {w: value / length for w, value in found.items()}

    asked = weighted(Counter(_words(query)))
    rows = (weighted(words) for words in counts)
    return np.array([sum(value * asked.get(w, 0.0) for w, value in row.items()) for row in rows])


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.casefold())


def _by_embedding(texts: list[str], query: str, embed: Callable[[list[str]], Any]) -> np.ndarray:
    rows = matrix(embed([*texts, query]), "What embed gave")
    if len(rows) != len(texts) + 1:
        raise InputError(f"embed gave {len(rows)} rows for {len(texts) + 1} texts.")
    unit = unit_rows(rows)
    return unit[:-1] @ unit[-1]
