"""Rewriting weights so that fewer rules remain: scales and norms folded into the four arrays, exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...weights import SAEWeights


def row_norms(W_dec: np.ndarray) -> np.ndarray:
    """float32, (n,): length of each feature's direction."""
    return np.linalg.norm(W_dec.astype(np.float64), axis=1).astype(np.float32)


def decoder_norm(weights: SAEWeights) -> SAEWeights:
    """The same reconstruction with decoder rows of length 1: features come out times the old length."""
    norms = row_norms(weights.W_dec)
    unit = np.divide(
        weights.W_dec, norms[:, None], out=np.zeros_like(weights.W_dec), where=norms[:, None] > 0
    )
    return replace(weights, W_enc=weights.W_enc * norms, b_enc=weights.b_enc * norms, W_dec=unit)


def input_scale(weights: SAEWeights, scale: float, scale_out: float | None = None) -> SAEWeights:
    """For activations that the SAE expects times `scale` (and gives times `scale_out`): it takes and gives them
    as they are."""
    s, out = np.float32(scale), np.float32(scale if scale_out is None else scale_out)
    return replace(weights, W_enc=weights.W_enc * s, W_dec=weights.W_dec / out, b_dec=weights.b_dec / out)


def without_subtraction(weights: SAEWeights) -> SAEWeights:
    """The same SAE whose encoder takes x instead of x - b_dec."""
    if not weights.subtract_b_dec:
        return weights
    return replace(weights, b_enc=weights.b_enc - weights.b_dec @ weights.W_enc, subtract_b_dec=False)


def affine_input(weights: SAEWeights, mean: np.ndarray, spread: np.ndarray) -> SAEWeights:
    """For an SAE of (x - mean) / spread, per dimension: it takes and gives x."""
    mean, spread = mean.astype(np.float64), spread.astype(np.float64)
    W_enc = weights.W_enc.astype(np.float64) / spread[:, None]
    b_enc = weights.b_enc - mean @ W_enc
    W_dec = weights.W_dec.astype(np.float64) * spread
    b_dec = weights.b_dec * spread + mean
    arrays = {name: array.astype(np.float32) for name, array in
              (("W_enc", W_enc), ("b_enc", b_enc), ("W_dec", W_dec), ("b_dec", b_dec))}  # fmt: skip
    return replace(weights, **arrays)
