"""The error that dead features are asked to explain, in MLX."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ...weights import SAEWeights


def add_auxiliary(
    gradients: SAEWeights,
    x: mx.array,
    error: mx.array,
    weights: SAEWeights,
    dead: np.ndarray,
    k: int,
    scale: float,
) -> tuple[mx.array, SAEWeights]:
    """See `Backend.add_auxiliary`."""
    picked = mx.array(dead.astype(np.int32))
    encoder, decoder = weights.W_enc.T[picked], weights.W_dec[picked]
    inside = x - weights.b_dec if weights.subtract_b_dec else x
    scores = inside @ encoder.T + weights.b_enc[picked]
    cut = len(dead) - k
    if cut > 0:
        floor = mx.partition(scores, cut, axis=-1)[:, cut, None]
        scores = mx.where(scores >= floor, scores, 0)
    features = mx.maximum(scores, 0)
    rest = error - features @ decoder
    slope = rest * (-2 * scale)
    into = mx.where(features > 0, slope @ decoder.T, 0)
    sums = into.sum(axis=0)
    b_dec = gradients.b_dec - sums @ encoder if weights.subtract_b_dec else gradients.b_dec
    return (rest**2).sum(axis=-1).sum(), SAEWeights(
        gradients.W_enc.T.at[picked].add(into.T @ inside).T,
        gradients.b_enc.at[picked].add(sums),
        gradients.W_dec.at[picked].add(features.T @ slope),
        b_dec,
        weights.subtract_b_dec,
        gradients.extra,
    )
