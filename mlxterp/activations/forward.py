"""The one pass over a corpus: every token's activation at a component, once.

Whatever asks something of many texts goes through `collect`: search, training, the index. Nothing
else runs a model over a corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..backends.base import LanguageModel
from ..core.sites import ATTENTION_PORTS, Array, Component, Run
from ..data.corpus import Corpus, CorpusBatch
from ..errors import ComponentError, InputError, NeverCalledError


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


def rows_of(component: Component, run: Run, shape: tuple[int, ...]) -> Array:
    """Native (batch x positions, width) of a component in a run of that (batch, positions); heads side by side.

    Raises:
        NeverCalledError: The run did not reach it.
        ComponentError: It has no single value (…, width) for each token.
    """
    try:
        value = component.read(run)
    except LookupError as error:
        raise NeverCalledError(f"{error}. model.components() lists what is.") from error
    if isinstance(value, list):
        raise ComponentError(
            f"{component.name} is called {len(value)} times in one forward pass, so a token has"
            f" {len(value)} activations there. Choose a component that is called once."
        )
    return _as_rows(value, component, shape)


def _as_rows(value: Array, component: Component, shape: tuple[int, ...]) -> Array:
    """(batch x positions, width) of a value (batch, positions, width) or one with heads."""
    batch, positions = shape
    if component.name.endswith("pattern"):
        raise ComponentError(f"{component.name} is as wide as the text is long; an SAE needs one width.")
    if value.ndim == 4 and _heads_first(value, component, positions):
        value = value.swapaxes(1, 2)
    if value.ndim not in (3, 4) or tuple(value.shape[:2]) != (batch, positions):
        raise ComponentError(
            f"{component.name} has shape {tuple(value.shape)} for a batch of {batch} texts with {positions}"
            " positions; expected (batch, positions, width) or (batch, heads, positions, d_head)."
        )
    width = int(np.prod(value.shape[2:]))
    return value.reshape((batch * positions, width))


def _heads_first(value: Array, component: Component, positions: int) -> bool:
    """Whether a value with heads is (batch, heads, positions, d_head), as ours are."""
    if component.name.rpartition(".")[2] in ATTENTION_PORTS:
        return True
    first, second = int(value.shape[1]), int(value.shape[2])
    if first == second == positions:
        raise ComponentError(
            f"{component.name} has shape {tuple(value.shape)}: heads and positions cannot be told apart here."
            " Use the canonical attn.q, attn.k, attn.v or attn.z of the layer."
        )
    return second == positions
