"""Variants that are no single product: matching pursuit and temporal SAEs, in NumPy for every library.

Both follow SAELens's definitions. They take many products one after another, so what is gained by a
device is lost in the steps between them.
"""

from __future__ import annotations

import numpy as np

from ..core.sparse import SparseFeatures
from ..variants import MatchingPursuit, Temporal
from ..weights import SAEWeights

_CELLS = 1 << 22
"""Scores held at a time."""


def matching_pursuit(x: np.ndarray, weights: SAEWeights, activation: MatchingPursuit) -> SparseFeatures:
    """Features of x (n, d_model)."""
    rows = max(1, _CELLS // weights.W_dec.shape[0])
    parts = [_pursue(x[i : i + rows], weights, activation) for i in range(0, len(x), rows)]
    if not parts:
        return SparseFeatures.from_dense(np.zeros((0, weights.W_dec.shape[0]), dtype=np.float32))
    return SparseFeatures.concat([SparseFeatures.from_dense(part) for part in parts])


@np.errstate(over="ignore", invalid="ignore")  # what becomes of it is refused as a feature
def _pursue(x: np.ndarray, weights: SAEWeights, activation: MatchingPursuit) -> np.ndarray:
    rest = x - weights.b_dec if weights.subtract_b_dec else x.copy()
    features = np.zeros((len(x), len(weights.W_dec)), dtype=np.float32)
    going = np.arange(len(x))
    for _ in range(activation.max_iterations):
        best = (rest[going] @ weights.W_dec.T).argmax(axis=1)
        rows = weights.W_dec[best]
        values = np.maximum(np.einsum("ij,ij->i", rest[going], rows), 0)
        settled = (features[going, best] != 0) | (values == 0)  # the same features as before
        features[going, best] += values
        rest[going] -= values[:, None] * rows
        done = (
            settled if activation.stop_on_duplicate_support else values == 0
        )  # then nothing changes any more
        if activation.residual_threshold > 0:
            done = done | (np.linalg.norm(rest[going], axis=1) < activation.residual_threshold)
        going = going[~done]
        if not len(going):
            break
    return features


def temporal(x: np.ndarray, weights: SAEWeights, activation: Temporal) -> tuple[np.ndarray, np.ndarray]:
    """Features (texts, positions, d_hidden) of x (texts, positions, d_model), and the features that the
    earlier positions predict, which belong to the reconstruction."""
    if x.size == 0:
        empty = np.zeros((*x.shape[:-1], weights.W_enc.shape[1]), dtype=np.float32)
        return empty, empty
    rest = x * np.float32(activation.scale)
    if weights.subtract_b_dec:
        rest = rest - weights.b_dec
    lam = np.float32(1 / (4 * x.shape[-1]))
    predicted = np.zeros((*x.shape[:-1], weights.W_enc.shape[1]), dtype=np.float32)
    for layer in range(activation.n_attn_layers):
        seen = np.maximum(rest * lam @ weights.W_enc, 0)
        codes = np.maximum(_attend(seen, weights, layer, activation.n_heads), 0)
        direction = codes @ weights.W_dec
        length = np.linalg.norm(direction, axis=-1, keepdims=True) + np.float32(1e-6)
        share = (direction * rest).sum(axis=-1, keepdims=True) / length**2
        predicted += codes * share
        rest = rest - share * direction
    features = np.maximum(rest * lam @ weights.W_enc, 0)
    if activation.k is not None:
        last = np.argsort(-features, axis=-1, kind="stable")[..., activation.k :]
        np.put_along_axis(features, last, 0, axis=-1)
    return features, predicted


def _attend(codes: np.ndarray, weights: SAEWeights, layer: int, n_heads: int) -> np.ndarray:
    """Causal attention from each position to the codes of earlier ones (one step late)."""
    earlier = np.concatenate([np.zeros_like(codes[:, :1]), codes[:, :-1]], axis=1)
    q, k, v = (
        _heads(_linear(source, weights, f"attention.{layer}.{name}"), n_heads)
        for source, name in ((codes, "q_target"), (earlier, "k_ctx"), (earlier, "v_ctx"))
    )
    scores = q @ k.swapaxes(-1, -2) / np.float32(np.sqrt(q.shape[-1]))
    later = np.triu(np.ones(scores.shape[-2:], dtype=bool), k=1)
    scores = np.where(later, -np.inf, scores)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ v
    joined = mixed.swapaxes(1, 2).reshape(codes.shape)
    return _linear(joined.astype(np.float32), weights, f"attention.{layer}.c_proj")


def _linear(x: np.ndarray, weights: SAEWeights, name: str) -> np.ndarray:
    return x @ weights.extra[f"{name}.weight"].T + weights.extra[f"{name}.bias"]


def _heads(x: np.ndarray, n_heads: int) -> np.ndarray:
    return x.reshape(*x.shape[:2], n_heads, -1).swapaxes(1, 2)
