"""What the operations mean, in plain NumPy, without a thought for speed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlxterp import variants
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


def features(x: np.ndarray, weights: SAEWeights, activation: variants.Activation) -> np.ndarray:
    """Dense features (n, d_hidden) of every variant that is one product and a rule."""
    x = x.astype(np.float32)
    p = (x - weights.b_dec if weights.subtract_b_dec else x) @ weights.W_enc
    h, extra = p + weights.b_enc, weights.extra
    match activation:
        case variants.ReLU():
            f = np.maximum(h, 0)
        case variants.TanhReLU():
            f = np.tanh(np.maximum(h, 0))
        case variants.JumpReLU():
            f = np.where(h > extra["threshold"], np.maximum(h, 0), 0)
        case variants.Gated():
            f = np.where(h > 0, np.maximum(p * extra["gate_scale"] + extra["b_mag"], 0), 0)
        case variants.TopK(k=k, relu=relu):
            f = topk(h, k) if relu else keep(h, np.argsort(-h, axis=1, kind="stable")[:, :k])
        case variants.AbsTopK(k=k):
            f = keep(h, np.argsort(-np.abs(h), axis=1, kind="stable")[:, :k])
        case variants.GroupMax(k=k):
            size = h.shape[1] // k
            best = np.maximum(h, 0).reshape(len(h), k, size).argmax(axis=2)
            f = np.maximum(keep(h, best + size * np.arange(k)), 0)
        case variants.BatchTopK(k=k):
            f = batch_topk(np.maximum(h, 0), k * len(h))
        case _:
            raise AssertionError(activation)
    return f * extra["value_scale"] if "value_scale" in extra else f


def keep(h: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Zero but for the given ids (n, k) of each row."""
    out = np.zeros_like(h)
    np.put_along_axis(out, ids, np.take_along_axis(h, ids, axis=1), axis=1)
    return out


def batch_topk(h: np.ndarray, total: int) -> np.ndarray:
    """The `total` largest of all; among equals the lower feature, then the earlier row."""
    rows, ids = np.nonzero(h)
    order = np.lexsort((rows, ids, -h[rows, ids]))[:total]
    out = np.zeros_like(h)
    out[rows[order], ids[order]] = h[rows[order], ids[order]]
    return out


def normalize(x: np.ndarray, form: variants.InputForm) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the encoder takes, and the scale and shift that undo it."""
    x = x.astype(np.float64)
    scale, shift = np.ones((len(x), 1)), np.zeros((len(x), 1))
    if form.center or form.normalize == "layer_norm":
        shift = x.mean(axis=1, keepdims=True)
    x = x - shift
    if form.normalize == "layer_norm":
        scale = x.std(axis=1, ddof=1, keepdims=True)
        x = x / (scale + 1e-5)
    elif form.normalize == "constant_norm":
        scale = np.linalg.norm(x, axis=1, keepdims=True) / np.sqrt(x.shape[1])
        x = x / scale
    return x, scale, shift


def top_features(features: np.ndarray, top_k: int) -> list[tuple[int, float]]:
    """(feature id, activation of largest magnitude over the tokens) of one text's dense features."""
    found = []
    for feature, column in enumerate(features.T):
        at = int(np.abs(column).argmax())
        if column[at] != 0:
            found.append((feature, float(column[at])))
    return sorted(found, key=lambda pair: (-abs(pair[1]), pair[0]))[:top_k]


def top_texts(
    features: Sequence[np.ndarray], texts: Sequence[str], feature_id: int, top_k: int
) -> list[tuple[str, float, int]]:
    """(text, activation, position) of a feature, from each text's dense features."""
    found = []
    for number, (dense, text) in enumerate(zip(features, texts, strict=True)):
        column = dense[:, feature_id]
        at = int(np.abs(column).argmax())
        if column[at] != 0:
            found.append((-abs(float(column[at])), number, text, at, float(column[at])))
    return [(text, value, at) for _, _, text, at, value in sorted(found)[:top_k]]


def without_tokens(features: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """Dense features of a text (n, d_hidden), with none on the tokens that are left out (bool, (n,))."""
    return np.where(excluded[:, None], 0, features)


def jaccard(features: np.ndarray, one: int, other: int) -> float:
    """Tokens where both features are active, as a share of those where at least one is."""
    a, b = features[:, one] != 0, features[:, other] != 0
    return float((a & b).sum() / (a | b).sum()) if (a | b).any() else 0.0


def share_prefixes(features: Sequence[np.ndarray], tokens: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Dense features of each text, with what a text begins with taken from the first that begins so.

    A causal model computes the same there; the rounding of two runs must not decide which text is first.
    """
    known: dict[tuple[int, ...], np.ndarray] = {}
    return [
        np.stack([known.setdefault(tuple(ids[: i + 1]), row) for i, row in enumerate(rows)])
        for rows, ids in zip(features, tokens, strict=True)
    ]


def steered(
    h: np.ndarray, z: np.ndarray, weights: SAEWeights, edits: Sequence[tuple[str, int, float]]
) -> np.ndarray:
    """Activations (n, d) after edits (kind, feature, number) of the features z (n, d_hidden)."""
    new = z.astype(np.float64)
    lengths = np.linalg.norm(h.astype(np.float64), axis=1)
    for kind, f, number in edits:
        row = weights.W_dec[f].astype(np.float64)
        match kind:
            case "amplify":
                new[:, f] *= number
            case "clamp":
                new[:, f] = number
            case "at_least":
                new[:, f] = np.maximum(new[:, f], number)
            case "add":
                new[:, f] += number
            case "add_norm":
                new[:, f] += number * lengths / np.linalg.norm(row)
    return h + (new - z) @ weights.W_dec
