"""How strongly features fire on texts that need not be the index's, by its own rule of what counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.sparse import SparseFeatures
from ..data.corpus import Corpus
from .answers import Answers
from .encode import encode_counted
from .source import Source


def attached(index: Answers) -> Source:
    """The model and SAE of an index.

    Raises:
        FeatureIndexError: It was opened without them.
    """
    return index._with_source()


def peaks_on(index: Answers, texts: Sequence[str], features: Sequence[int]) -> np.ndarray:
    """float32, (texts, features): the activation of largest magnitude on any token of a text; 0 where it never fires.

    Excluded tokens do not count. Runs the model, each batch once for all features.

    Args:
        features: Ids in [0, d_hidden), each once.

    Raises:
        FeatureIndexError: The index was opened without its model and SAE.
        InputError: A text has no tokens.
    """
    source = attached(index)
    if not len(texts):
        return np.zeros((0, len(features)), dtype=np.float32)
    model = source.anatomy.model
    corpus = Corpus.from_texts(list(texts), model.tokenize)
    parts = list(encode_counted(model, corpus, source.sae, source.component, index._meta.rule))
    tokens = np.concatenate([part.tokens for part in parts])
    whole = SparseFeatures.concat([part.features for part in parts])
    text_ids = np.searchsorted(corpus.offsets, tokens, side="right") - 1
    return whole.strongest_by(text_ids, len(texts)).columns(np.asarray(features, dtype=np.int64))
