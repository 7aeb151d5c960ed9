"""Sentence embeddings by a function that the user gives: checked, and of length 1, so that products are cosines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backends.host.conversion import to_numpy
from ..errors import InputError

Embed = Callable[[list[str]], Any]
"""Texts → vectors (texts, width), such as a sentence model's `encode`."""


def check_embed(embed: Any) -> None:
    """Raises InputError where `embed` is no function."""
    if not callable(embed):
        raise InputError(f"embed= is a function of a list of texts, got {type(embed).__name__}.")


def unit_embeddings(embed: Embed, texts: Sequence[str]) -> np.ndarray:
    """float64, (texts, width): embeddings of length 1; those of length 0 stay zeros.

    Raises:
        InputError: `embed` gives no finite row for each text.
    """
    if not len(texts):
        return np.zeros((0, 1))
    vectors = to_numpy(embed(list(texts)), "The embeddings").astype(np.float64)
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise InputError(f"embed gave shape {vectors.shape} for {len(texts)} texts; expected a row for each.")
    if not np.isfinite(vectors).all():
        raise InputError("embed gave NaN or infinite values; expected finite vectors.")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
