"""The `TokenView` of a text: one run of the model, the SAE's features of every token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..activations.exclusions import rule_where_asked
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
from ..viz.token_view import TokenView
from .search import encode_corpus, top_features_of


def view_of_text(
    model: LanguageModel,
    text: str,
    sae: SAE,
    component: Component,
    *,
    tokenize: Tokenize | None,
    feature_ids: int | Sequence[int] | None = None,
    top_k: int = 5,
    exclude: Iterable[str] = (),
) -> TokenView:
    """The text's tokens coloured by features; None takes the `top_k` that are most active on it.

    Tokens that `exclude` names are shown without colour and do not count.
    Features that `sae.concepts` has a name or an explanation for are shown with it.

    Raises:
        InputError: `text` is not one text with tokens, `feature_ids` is empty, or `top_k` is below 1.
        UnknownFeatureError: A feature id lies outside [0, sae.d_hidden).
        SAEError: The component is not as wide as the SAE's input.
    """
    top_k = checks.count(top_k, "top_k")
    text = text_of(text, model)
    chosen = None if feature_ids is None else ids_of(feature_ids, sae.d_hidden, "feature_ids")
    corpus = Corpus.from_texts([text], tokenize)
    rule = rule_where_asked(model, component, exclude)
    found, rows = [], []
    for part in encode_corpus(model, corpus, sae, component, rule):
        found.append(part.features)
        rows.append(part.tokens)
    features, tokens = SparseFeatures.concat(found), np.concatenate(rows)
    if chosen is None:
        chosen = [feature for feature, _ in top_features_of(features, top_k)]
    activations = np.zeros((len(chosen), len(corpus.tokens)), dtype=np.float32)
    positions = tokens[features.row_ids]
    for i, feature in enumerate(chosen):
        hits = features.indices == feature
        activations[i, positions[hits]] = features.values[hits]
    pieces = pieces_of(model.tokenizer, corpus.tokens.tolist())
    labels = ((feature, sae.concepts.label_of(feature, marked=True)) for feature in chosen)
    names = {feature: label for feature, label in labels if label is not None}
    return TokenView(pieces, tuple(chosen), activations, labels=names or None, component=component.name)
