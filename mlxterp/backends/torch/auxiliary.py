"""The error that dead features are asked to explain, in PyTorch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ...weights import SAEWeights


@torch.no_grad()
def add_auxiliary(
    gradients: SAEWeights,
    x: torch.Tensor,
    error: torch.Tensor,
    weights: SAEWeights,
    dead: np.ndarray,
    k: int,
    scale: float,
) -> tuple[torch.Tensor, SAEWeights]:
    """See `Backend.add_auxiliary`."""
    picked = torch.tensor(dead, device=error.device)
    encoder, decoder = weights.W_enc.T[picked], weights.W_dec[picked]
    inside = x - weights.b_dec if weights.subtract_b_dec else x
    scores = inside @ encoder.T + weights.b_enc[picked]
    if len(dead) > k:
        floor = scores.topk(k, dim=-1).values[:, -1:]
        scores = torch.where(scores >= floor, scores, 0.0)
    features = scores.relu()
    rest = error - features @ decoder
    slope = rest * (-2 * scale)
    into = torch.where(features > 0, slope @ decoder.T, 0.0)
    gradients.W_enc.T.index_add_(0, picked, into.T @ inside)
    gradients.b_enc.index_add_(0, picked, into.sum(0))
    gradients.W_dec.index_add_(0, picked, features.T @ slope)
    b_dec = gradients.b_dec - into.sum(0) @ encoder if weights.subtract_b_dec else gradients.b_dec
    return (rest**2).sum(), replace(gradients, b_dec=b_dec)
