"""Top features of a text, and top texts of a feature, by running the model over the texts.

Both count every token, special ones included, but those that `exclude` names, and both use the SAE's exact
selection: which features are active on a token depends on all of them. The features of a whole corpus can be kept for
the next question about the same texts (`FeatureCache`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..activations.exclusions import Rule, check_exclusions, rule_where_asked
from ..activations.forward import Activations, collect
from ..activations.marks import marks
from ..backends.base import LanguageModel
from ..core import checks, feature_ids
from ..core.beginnings import MARKS, first_alike
from ..core.feature_ids import Feature
from ..core.ranking import Firings
from ..core.sites import Component
from ..core.sparse import SparseFeatures
from ..core.tokens import Tokenize
from ..data.corpus import Corpus
from ..data.dataset import text_of, texts_of
from ..errors import SAEError
from ..sae import SAE
from ..sae.adapt import other_width
from ..variants import Temporal
from .cache import FeatureCache


def top_features(
    model: LanguageModel,
    text: str,
    sae: SAE,
    component: Component,
    *,
    tokenize: Tokenize | None,
    top_k: int = 10,
    exclude: Iterable[str] = (),
) -> list[tuple[int, float]]:
    """The features most active on a text: (feature id, its largest activation on any token).

    Strongest first (signed SAEs: by magnitude), then the lower feature id; only active features come
    back, so there may be fewer than `top_k`.

    Raises:
        InputError: `text` is not one text with tokens, or `top_k` is below 1.
        SAEError: The component is not as wide as the SAE's input.
    """
    top_k = checks.count(top_k, "top_k")
    text = text_of(text, model)
    rule = rule_where_asked(model, component, exclude)
    corpus = Corpus.from_texts([text], tokenize)
    parts = [part.features for part in encode_corpus(model, corpus, sae, component, rule)]
    return top_features_of(SparseFeatures.concat(parts), top_k)


def top_features_of(features: SparseFeatures, top_k: int) -> list[tuple[int, float]]:
    """(feature id, its activation of largest magnitude on any row); strongest first, then the lower id."""
    order = np.lexsort((features.indices, -np.abs(features.values)))
    ids, first = np.unique(features.indices[order], return_index=True)
    best = features.values[order[first]]
    chosen = np.lexsort((ids, -np.abs(best)))[:top_k]
    return [(int(f), float(value)) for f, value in zip(ids[chosen], best[chosen], strict=True)]


def top_texts(
    model: LanguageModel,
    feature_id: Feature,
    sae: SAE,
    texts: Sequence[str],
    component: Component,
    *,
    tokenize: Tokenize | None,
    top_k: int = 10,
    exclude: Iterable[str] = (),
    cache: FeatureCache | None = None,
) -> list[tuple[str, float, int]]:
    """The texts on which a feature is most active: (text, activation, position of the token).

    A text counts once, at its strongest token (the earliest of equals). Strongest text first, then
    the earlier one; a text given twice appears twice; empty for a feature that never fires.

    Args:
        cache: Where the features of all these texts are kept, so that the next question runs no model.

    Raises:
        InputError: `texts` is not a list of texts with tokens, or `top_k` is below 1.
        UnknownFeatureError: `feature_id` lies outside [0, sae.d_hidden).
        SAEError: The component is not as wide as the SAE's input.
    """
    top_k = checks.count(top_k, "top_k")
    feature = feature_ids.feature_id(feature_id, sae.d_hidden)
    texts = texts_of(texts, model)
    excluded = check_exclusions(exclude)
    corpus = Corpus.from_texts(texts, tokenize)
    question = None if cache is None else cache.question(model, component, sae, corpus, excluded)
    if question is not None and question.entry is not None:
        tokens, values = question.entry.by_feature.row(feature)
        return _strongest(tokens, values, corpus.offsets, question.entry.prefixes, texts, top_k)
    activations = np.zeros(len(corpus.tokens), dtype=np.float32)
    marked = np.zeros((len(corpus.tokens), MARKS), dtype=np.float32)
    for part in encode_corpus(model, corpus, sae, component, rule_where_asked(model, component, excluded)):
        hits = np.flatnonzero(part.features.indices == feature)
        activations[part.tokens[part.features.row_ids[hits]]] = part.features.values[hits]
        marked[part.tokens] = part.marks
        if question is not None:
            question.add(part.tokens, part.features)
    prefixes = corpus.prefixes()
    alike = first_alike(prefixes, marked)
    if question is not None:
        question.finish(prefixes, alike)
    activations = activations[alike]
    tokens = np.flatnonzero(activations)
    return _strongest(tokens, activations[tokens], corpus.offsets, prefixes, texts, top_k)


@dataclass(frozen=True, eq=False, slots=True)
class Encoded:
    """Features of some tokens of a corpus."""

    tokens: np.ndarray
    """int64, (n,): numbers of the tokens in the corpus."""
    features: SparseFeatures
    """A row for each."""
    marks: np.ndarray
    """Of their activations: see `activations.marks`."""


def encode_corpus(
    model: LanguageModel, corpus: Corpus, sae: SAE, component: Component, rule: Rule | None = None
) -> Iterator[Encoded]:
    """Features of every token, batch by batch.

    Args:
        rule: Tokens that do not count by it have no features; None counts all.

    Raises:
        SAEError: The component is not as wide as the SAE's input.
    """
    for part in collect(model, corpus, component):
        tokens = corpus.offsets[part.text_ids] + part.positions
        features = encode_activations(sae, part, component)
        if rule is not None:
            features = features.without_rows(rule.reasons_of(model, part, corpus.tokens[tokens]) >= 0)
        yield Encoded(tokens, features, marks(part.values))


def encode_activations(sae: SAE, part: Activations, component: Component) -> SparseFeatures:
    """Features of a batch's tokens; a temporal SAE takes each text by itself, from its first token on.

    Raises:
        SAEError: The component is not as wide as the SAE's input.
    """
    width = int(part.values.shape[-1])
    if width != sae.d_model:
        raise other_width(sae, component, width)
    if not isinstance(sae.activation, Temporal):
        return sae.encode_sparse(part.values)
    new = (np.diff(part.text_ids, prepend=-1) != 0) | (np.diff(part.positions, prepend=-1) != 1)
    starts = np.flatnonzero(new)
    if (part.positions[starts] != 0).any():
        raise SAEError(
            "A temporal SAE encodes a token by all tokens before it, and a text here is longer than the model's"
            " positions. Split the text."
        )
    ends = [*starts[1:].tolist(), len(part.positions)]
    return SparseFeatures.concat(
        [sae.encode_sparse(part.values[a:b]) for a, b in zip(starts.tolist(), ends, strict=True)]
    )


def _strongest(
    tokens: np.ndarray,
    values: np.ndarray,
    offsets: np.ndarray,
    prefixes: np.ndarray,
    texts: Sequence[str],
    top_k: int,
) -> list[tuple[str, float, int]]:
    """The best token of each text, then the best texts; `tokens` are numbers in the corpus, ascending."""
    text_ids = np.searchsorted(offsets, tokens, side="right") - 1
    best = Firings(text_ids, tokens - offsets[text_ids], values, prefixes[tokens]).strongest_of_each_text()
    found = zip(best.text_ids[:top_k], best.values[:top_k], best.positions[:top_k], strict=True)
    return [(texts[int(text)], float(value), int(position)) for text, value, position in found]
