"""The `TokenView` of a text: one run of the model, the SAE's features of every token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..activations.exclusions import Rule
from ..backends.base import LanguageModel
from ..core import checks
from ..core.feature_ids import feature_ids as ids_of
from ..core.sites import Component
from ..core.sparse import SparseFeatures
from ..core.tokens import Tokenize
from ..data.corpus import Corpus
from ..data.dataset import text_of
from ..data.text import pieces_of
from ..sae import SAE
from ..viz.token_view import THIS_TEXT, TokenView
from .search import encode_corpus, top_features_of

_PER_TOKEN = 3


class Maxima(NamedTuple):
    """The largest activations that features are known to have.

    Attributes:
        where: Over what, such as "an index of 234 texts".
        values: float32, (d_hidden,): activation of largest magnitude; 0 where a feature was never active.
    """

    where: str
    values: np.ndarray


def view_of_text(
    model: LanguageModel,
    text: str,
    sae: SAE,
    component: Component,
    *,
    tokenize: Tokenize | None,
    feature_ids: int | Sequence[int] | None = None,
    top_k: int = 5,
    rule: Rule | None = None,
    maxima: Maxima | None = None,
    label_of: Callable[[int], str | None],
) -> TokenView:
    """The text's tokens coloured by features; None takes the `top_k` that are most active on it.

    Without `feature_ids`, each token is shown with its strongest features among all of the SAE's.

    Args:
        rule: Tokens that do not count by it are shown without colour; None counts all.
        maxima: What features have at most elsewhere, and where; None takes their largest in this text.
        label_of: Names a feature, where it has a name.

    Raises:
        InputError: `text` is not one text with tokens, `feature_ids` is empty, or `top_k` is below 1.
        UnknownFeatureError: A feature id lies outside [0, sae.d_hidden).
        SAEError: The component is not as wide as the SAE's input.
    """
    top_k = checks.count(top_k, "top_k")
    text = text_of(text, model)
    chosen = None if feature_ids is None else ids_of(feature_ids, sae.d_hidden, "feature_ids")
    corpus = Corpus.from_texts([text], tokenize)
    found, rows = [], []
    for part in encode_corpus(model, corpus, sae, component, rule):
        found.append(part.features)
        rows.append(part.tokens)
    features, tokens = SparseFeatures.concat(found), np.concatenate(rows)
    if chosen is None:
        chosen = [feature for feature, _ in top_features_of(features, top_k)]
        by_token = strongest_of_tokens(features, tokens, len(corpus.tokens))
    else:
        by_token = None
    activations = np.zeros((len(chosen), len(corpus.tokens)), dtype=np.float32)
    positions = tokens[features.row_ids]
    for i, feature in enumerate(chosen):
        hits = features.indices == feature
        activations[i, positions[hits]] = features.values[hits]
    shown = sorted({*chosen, *(feature for row in by_token or () for feature, _ in row)})
    where, largest = maxima or Maxima(THIS_TEXT, _largest(features, sae.d_hidden))
    labels = {feature: label for feature in shown if (label := label_of(feature)) is not None}
    return TokenView(
        pieces_of(model.tokenizer, corpus.tokens.tolist()), tuple(chosen), activations, labels or None,
        {feature: float(largest[feature]) for feature in shown if largest[feature]}, component.name, by_token, where,
        repr(sae),
    )  # fmt: skip


def strongest_of_tokens(
    features: SparseFeatures, tokens: np.ndarray, n_tokens: int, n: int = _PER_TOKEN
) -> list[list[tuple[int, float]]]:
    """(feature id, activation) of the n strongest features of each token: by magnitude, among equals the lower id.

    Args:
        features: A row for each of `tokens`.
        tokens: int64: numbers of tokens, in [0, n_tokens).
    """
    found: list[list[tuple[int, float]]] = [[] for _ in range(n_tokens)]
    for i, token in enumerate(tokens.tolist()):
        ids, values = features.row(i)
        order = np.lexsort((ids, -np.abs(values)))[:n]
        found[token] = list(zip(ids[order].tolist(), values[order].tolist(), strict=True))
    return found


def _largest(features: SparseFeatures, d_hidden: int) -> np.ndarray:
    """float32 (d_hidden,): the largest magnitude of each feature; 0 where it is never active."""
    found = np.zeros(d_hidden, dtype=np.float32)
    np.maximum.at(found, features.indices, np.abs(features.values))
    return found
