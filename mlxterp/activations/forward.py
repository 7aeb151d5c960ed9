"""The one pass over a corpus: every token's activation at a component, once.

Whatever asks something of many texts goes through `collect`: search, training, the index. Nothing
else runs a model over a corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..backends.base import LanguageModel
from ..core.rows import rows_of
from ..core.sites import Array, Component
from ..data.corpus import Corpus, CorpusBatch
from ..errors import InputError


@dataclass(frozen=True, eq=False, slots=True)
class Activations:
    """What a component put out for some tokens of a corpus."""

    text_ids: np.ndarray
    """int64, (n,): the text of each token."""
    positions: np.ndarray
    """int64, (n,): its 0-based position in the whole text, special tokens included."""
    values: Array
    """Native, (n, width); heads stand side by side."""


def collect(
    model: LanguageModel,
    corpus: Corpus,
    component: Component,
    batch_tokens: int = 2048,
    quiet: bool = False,
) -> Iterator[Activations]:
    """Activations of every token of every text, batch by batch, padding left out.

    Batches come by length of text, not in the order of the corpus. The model computes no further
    than the component.

    Args:
        quiet: Do not warn of texts that run in windows.

    Raises:
        InputError: A token id is outside the model's vocabulary.
        ComponentError: The component has no single value (…, width) for each token.
    """
    for batch in batches_of(model, corpus, batch_tokens, quiet):
        yield run_batch(model, batch, [component])[0]


def batches_of(
    model: LanguageModel, corpus: Corpus, batch_tokens: int = 2048, quiet: bool = False
) -> Iterator[CorpusBatch]:
    """The batches in which a model runs over texts.

    Raises:
        InputError: A token id is outside the model's vocabulary.
    """
    outside = corpus.tokens[(corpus.tokens < 0) | (corpus.tokens >= model.vocab_size)]
    if outside.size:
        raise InputError(
            f"Token id {int(outside[0])} is outside this model's vocabulary [0, {model.vocab_size})."
            " Is it the tokenizer of another model?"
        )
    return corpus.batches(batch_tokens, model.max_positions, quiet)


def run_batch(model: LanguageModel, batch: CorpusBatch, components: Sequence[Component]) -> list[Activations]:
    """What each component puts out for the same tokens, in one forward pass that ends at the last of them."""
    sites = [site for component in components for site in component.sites]
    run = model.run(batch.tokens, capture=sites, stop_after=sites)
    row, column, positions = batch.kept()
    index = row * batch.tokens.ids.shape[1] + column
    found = []
    for component in components:
        rows = rows_of(component, run, batch.tokens.ids.shape)
        values = rows[model.backend.put_beside(index, rows)]
        found.append(Activations(batch.text_ids[row], positions, values))
    return found
