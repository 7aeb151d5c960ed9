"""Tokens of two models that end at the same place of a text: where their activations can be compared."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..anatomy.session import Model, session_of
from ..backends.base import LanguageModel
from ..core.options import names_options
from ..data.dataset import texts_of
from ..data.text import pieces_of
from ..errors import InputError, warn
from ..sae import SAE
from .token_features import run_texts


@names_options
def aligned_activations(
    model_a: Model, a: SAE, model_b: Model, b: SAE, texts: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Activations of two models where a token of each ends at the same character of the same text.

    Causal models have read the same there. Beginnings of text and attention sinks are left out.

    Args:
        model_a, model_b: With their tokenizers.
        a, b: Their SAEs, whose components are read.
        texts: As `model.build_index` takes them.

    Returns:
        float32, (n, a.d_model) and (n, b.d_model), for `universality`.

    Raises:
        InputError: An SAE names no component, a model has no tokenizer, or there is no such token.
    """
    runs = [session_of(model).anatomy.model for model in (model_a, model_b)]
    for sae, name in ((a, "a"), (b, "b")):
        if not isinstance(sae, SAE):
            raise InputError(f"{name} is an SAE, got {type(sae).__name__}. SAE.load(path) opens one.")
    known = texts_of(texts, runs[0])
    found = []
    for model, sae in ((model_a, a), (model_b, b)):
        if sae.component is None:
            raise InputError(
                f"{sae!r} names no component: sae.metadata['component'] = 'layers.3.resid_post'."
            )
        found.append(run_texts(session_of(model).anatomy, known, sae.component))
    pairs, unlike = [], 0
    for i, text in enumerate(known):
        ends = [_ends(run, corpus.ids(i), text) for run, (_, corpus, _) in zip(runs, found, strict=True)]
        if not all(ends):
            unlike += 1
            continue
        offsets = [int(corpus.offsets[i]) for _, corpus, _ in found]
        common = sorted(ends[0].keys() & ends[1].keys())
        pairs += [[offset + end[at] for offset, end in zip(offsets, ends, strict=True)] for at in common]
    if unlike:
        warn(f"{unlike} of {len(known)} texts are left out: a tokenizer does not give them back as they are.")
    rows = [_rows_of(numbers, len(corpus.tokens)) for _, corpus, numbers in found]
    both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    at = np.stack([row[both[:, j]] for j, row in enumerate(rows)], axis=1)
    at = at[(at >= 0).all(axis=1)]
    if not len(at):
        raise InputError(
            f"No tokens of the two models end at the same place of these {len(known)} texts. Give other texts."
        )
    return found[0][0][at[:, 0]], found[1][0][at[:, 1]]


def _ends(run: LanguageModel, ids: np.ndarray, text: str) -> dict[int, int]:
    """Characters after each token that ends in the text → its position; none where the tokens do not make the text.

    Counted from the end, where no token stands for what was put before the text.
    """
    pieces = pieces_of(run.tokenizer, ids.tolist())
    if not "".join(pieces).endswith(text):
        return {}
    left = np.cumsum([0, *(len(piece) for piece in reversed(pieces))])[:-1][::-1]
    return {int(rest): i for i, rest in enumerate(left) if rest < len(text)}


def _rows_of(numbers: np.ndarray, n: int) -> np.ndarray:
    """int64, (n,): the row of each token; -1 for those that do not count."""
    found = np.full(n, -1, dtype=np.int64)
    found[numbers] = np.arange(len(numbers))
    return found
