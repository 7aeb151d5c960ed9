"""A small real model with random SAEs of every kind, and what brute force says of texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlxterp import SAE, InterpretableModel
from mlxterp.variants import AbsTopK, Activation, Gated, GroupMax, JumpReLU, ReLU, TopK
from mlxterp.weights import SAEWeights
from tests import oracle

COMPONENT = "layers.1.resid_post"
TEXTS = [
    "Once upon a time, there was a little girl named Lily.",
    "Tom had a red ball. He lost the red ball.",
    "Once upon a time, there was a little dog.",
    "A",
    "Tom had a red ball. He lost the red ball.",
    'The dog said: "I like to run!" and ran and ran until the sun went down.',
    "Once upon a time, there was a little girl named Lily.",
    "They played with the ball in the park all day.\nThen they went home.",
]
ACTIVATIONS: dict[str, Activation] = {
    "topk": TopK(8), "jumprelu": JumpReLU(), "relu": ReLU(), "gated": Gated(), "abs_topk": AbsTopK(8),
    "group_max": GroupMax(8),
}  # fmt: skip


def random_sae(
    activation: Activation, d_model: int, d_hidden: int = 64, seed: int = 0, backend: str | None = None
) -> SAE:
    """An SAE with random weights, at `COMPONENT`."""
    rng = np.random.default_rng(seed)
    decoder = rng.standard_normal((d_hidden, d_model)).astype(np.float32)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    extra: dict[str, np.ndarray] = {}
    if isinstance(activation, JumpReLU):
        extra["threshold"] = np.full(d_hidden, 1.0, np.float32)
    if isinstance(activation, Gated):
        extra["gate_scale"] = np.exp(rng.standard_normal(d_hidden) * 0.1).astype(np.float32)
        extra["b_mag"] = np.full(d_hidden, 0.1, np.float32)
    bias = np.full(d_hidden, -1.0 if isinstance(activation, (ReLU, Gated)) else 0.0, np.float32)
    weights = SAEWeights(decoder.T.copy(), bias, decoder, np.zeros(d_model, np.float32), extra=extra)
    return SAE(weights, activation, {"component": COMPONENT}, backend=backend)


def dense_features(model: InterpretableModel, sae: SAE, texts: list[str]) -> list[np.ndarray]:
    """Brute force: every text by itself, all of its features."""
    found = []
    for text in texts:
        run = model.trace(text, capture=[COMPONENT], stop_after=COMPONENT)
        x = model.language_model.backend.get(run.activations[COMPONENT])[0].astype(np.float32)
        found.append(oracle.features(x, sae.weights, sae.activation))
    return oracle.share_prefixes(found, [model.tokenize(text) for text in texts])


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of an index."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
