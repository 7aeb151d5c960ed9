"""The SAEs that encode.py and decode.py are measured with, ours and the peers' with the same weights."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlxterp import SAE
from mlxterp.variants import TopK
from mlxterp.weights import SAEWeights

SHAPES = {"small": (1024, 768, 32768, 32), "large": (1024, 2048, 65536, 64)}
"""Tokens, d_model, d_hidden, k."""


@dataclass(frozen=True)
class Task:
    """Random activations and a random SAE."""

    x: np.ndarray
    sae: SAE

    @staticmethod
    def random(n: int, d_model: int, d_hidden: int, k: int) -> Task:
        rng = np.random.default_rng(0)
        W_dec = rng.standard_normal((d_hidden, d_model), dtype=np.float32)
        W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
        zero = np.zeros(d_model, np.float32)
        weights = SAEWeights(W_dec.T, np.zeros(d_hidden, np.float32), W_dec, zero, subtract_b_dec=False)
        return Task(rng.standard_normal((n, d_model), dtype=np.float32), SAE(weights, TopK(k)))


def saelens(sae: SAE) -> Any | None:
    """The same SAE in SAELens, which reads it from a file that we write; None where it is not installed."""
    if importlib.util.find_spec("sae_lens") is None:
        return None
    from sae_lens import SAE as Theirs  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder:
        return Theirs.load_from_disk(str(sae.save(Path(folder) / "sae", format="saelens")), device="cpu")


def sparsify(sae: SAE) -> Any | None:
    """The same SAE in sparsify; None where it is not installed."""
    if importlib.util.find_spec("sparsify") is None:
        return None
    import torch
    from sparsify import SparseCoder, SparseCoderConfig  # type: ignore[import-not-found]

    theirs = SparseCoder(sae.d_model, SparseCoderConfig(num_latents=sae.d_hidden, k=sae.k or 1), device="cpu")
    with torch.no_grad():
        theirs.encoder.weight.copy_(torch.tensor(sae.W_enc.T))
        theirs.encoder.bias.copy_(torch.tensor(sae.b_enc))
        theirs.W_dec.copy_(torch.tensor(sae.W_dec))
        theirs.b_dec.zero_()
    return theirs


def without_gradients(job: Callable[[], Any]) -> Callable[[], Any]:
    import torch

    def run() -> Any:
        with torch.no_grad():
            return job()

    return run
