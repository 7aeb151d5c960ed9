"""Training an SAE on what a component puts out for texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..anatomy import Anatomy
from ..corpus import Corpus
from ..errors import InputError
from ..sae import SAE, SAETrainConfig, train_sae
from .collect import collect


def train_on_texts(
    anatomy: Anatomy,
    texts: Sequence[str],
    path: str,
    config: SAETrainConfig | None = None,
    save_path: str | os.PathLike | None = None,
    verbose: bool = True,
    skip_first: bool = False,
) -> SAE:
    """An SAE of the component `path`, trained on every token of `texts` (the activations are held in memory).

    Args:
        skip_first: Leave out each text's first token (a BOS token's activation is far from all others).
    """
    component = anatomy.component(path)
    tokenize: Callable[[str], list[int]] | None = None
    if anatomy.model.tokenizer is not None:
        tokenize = anatomy.model.tokenize
    if save_path is not None and Path(save_path).is_file():
        raise InputError(f"save_path={str(save_path)!r} is a file; an SAE is saved as a folder.")
    corpus = Corpus.from_texts(texts, tokenize)
    activations = gather(anatomy, corpus, component, verbose)
    order = np.arange(len(activations)) if not skip_first else np.flatnonzero(_not_first(corpus))
    metadata: dict[str, Any] = {
        "model": anatomy.model.model_type,
        "component": component.name,
        "texts": len(texts),
        "skip_first": skip_first,
    }
    sae = train_sae(
        activations[order], config, anatomy.model.backend.name, metadata=metadata, progress=verbose
    )
    if save_path is not None:
        sae.save(save_path)
    return sae


def gather(anatomy: Anatomy, corpus: Corpus, component: Any, verbose: bool = True) -> np.ndarray:
    """Activations of every token, float32 (tokens, width), in the order of the corpus."""
    from tqdm.auto import tqdm

    rows: np.ndarray | None = None
    bar = tqdm(total=len(corpus.tokens), desc="Running texts", unit="tok", disable=None if verbose else True)
    for part in collect(anatomy.model, corpus, component):
        values = anatomy.model.backend.get(part.values)
        if rows is None:
            rows = np.empty((len(corpus.tokens), values.shape[1]), dtype=np.float32)
        rows[corpus.offsets[part.text_ids] + part.positions] = values
        bar.update(len(values))
    bar.close()
    assert rows is not None  # a corpus has tokens
    return rows


def _not_first(corpus: Corpus) -> np.ndarray:
    keep = np.ones(len(corpus.tokens), dtype=bool)
    keep[corpus.offsets[:-1]] = False
    return keep
