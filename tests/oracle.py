"""What the operations mean, in plain NumPy, without a thought for speed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlxterp.weights import SAEWeights


def pre_activations(x: np.ndarray, weights: SAEWeights) -> np.ndarray:
    """(n, d_hidden) float32: (x - b_dec) @ W_enc + b_enc."""
    x = x.astype(np.float32)
    return (x - weights.b_dec if weights.subtract_b_dec else x) @ weights.W_enc + weights.b_enc


def topk(pre: np.ndarray, k: int) -> np.ndarray:
    """Dense features: the k largest positive numbers of each row; among equals the lowest id wins."""
    features = np.zeros_like(pre)
    for row, out in zip(pre, features, strict=True):
        best = np.argsort(-row, kind="stable")[:k]
        out[best] = np.maximum(row[best], 0)
    return features


def encode(x: np.ndarray, weights: SAEWeights, k: int) -> np.ndarray:
    """Dense features (n, d_hidden)."""
    return topk(pre_activations(x, weights), k)


def decode(features: np.ndarray, weights: SAEWeights) -> np.ndarray:
    """(n, d_out)."""
    return features @ weights.W_dec + weights.b_dec


def top_features(features: np.ndarray, top_k: int) -> list[tuple[int, float]]:
    """(feature id, largest activation over the tokens) of one text's dense features."""
    best = [(feature, float(column.max())) for feature, column in enumerate(features.T) if column.max() > 0]
    return sorted(best, key=lambda pair: (-pair[1], pair[0]))[:top_k]


def top_texts(
    features: Sequence[np.ndarray], texts: Sequence[str], feature_id: int, top_k: int
) -> list[tuple[str, float, int]]:
    """(text, activation, position) of a feature, from each text's dense features."""
    found = []
    for number, (dense, text) in enumerate(zip(features, texts, strict=True)):
        column = dense[:, feature_id]
        if column.max() > 0:
            found.append((-float(column.max()), number, text, int(column.argmax())))
    return [(text, -value, position) for value, _, text, position in sorted(found)[:top_k]]


def share_prefixes(features: Sequence[np.ndarray], tokens: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Dense features of each text, with what a text begins with taken from the first that begins so.

    A causal model computes the same there; the rounding of two runs must not decide which text is first.
    """
    known: dict[tuple[int, ...], np.ndarray] = {}
    return [
        np.stack([known.setdefault(tuple(ids[: i + 1]), row) for i, row in enumerate(rows)])
        for rows, ids in zip(features, tokens, strict=True)
    ]
