"""Directions whose logits are known beforehand, and SAEs that have them as decoder rows."""

from __future__ import annotations

from functools import cache

import numpy as np

import mlxterp
from mlxterp import SAE, InterpretableModel
from mlxterp.demo import Demo
from mlxterp.lens.feature_logits import direction_logits
from mlxterp.weights import SAEWeights


@cache
def opened(backend: str) -> Demo:
    return mlxterp.load_demo(backend)


def with_rows(sae: SAE, rows: np.ndarray, features: int | None = None) -> SAE:
    """The SAE's first features (all, for None), with other decoder rows for the first of these."""
    n = sae.d_hidden if features is None else features
    decoder = np.concatenate([rows, sae.W_dec[len(rows) : n]]).astype(np.float32)
    return SAE(SAEWeights(sae.W_enc[:, :n], sae.b_enc[:n], decoder, sae.b_dec), sae.activation, sae.metadata)


def written(model: InterpretableModel, sae: SAE) -> np.ndarray:
    """What each coordinate of the SAE's place writes, (d_out, vocabulary)."""
    parts = direction_logits(model.session.plain, sae, np.eye(sae.d_out))
    return np.concatenate([logits for logits, _ in parts])


def toward(head: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The unit direction whose logits come nearest to 1 on these tokens and 0 on the others.

    Args:
        head: What each coordinate writes, (d_out, vocabulary).
    """
    found = np.linalg.solve(head @ head.T, head[:, tokens].sum(axis=1))
    return found / np.linalg.norm(found)
