"""Gradients of encoding and decoding with few features, in PyTorch, without products of full size.

With g the gradient of the reconstruction, A the sparse features and D[i, j] = W_dec[ids[i, j]] · g[i] where
values[i, j] > 0: dW_dec = Aᵀ g, dW_enc = (Dᵀ x)ᵀ, db_enc = column sums of D, and, where b_dec is subtracted
from x, db_dec = Σ g - W_enc db_enc. `add_auxiliary` adds those of the loss that revives dead features.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ...weights import SAEWeights
from .pairs import Columns, products

_HELD = 1 << 26
"""Numbers of decoder rows gathered at a time on a GPU."""


@torch.no_grad()
def backward(
    x: torch.Tensor, ids: torch.Tensor, values: torch.Tensor, weights: SAEWeights, gradient: torch.Tensor
) -> SAEWeights:
    """See `Backend.backward`."""
    x, g = x.detach().float(), gradient.detach().float()
    inside = x - weights.b_dec if weights.subtract_b_dec else x
    slopes = _slopes(weights.W_dec, ids, g) * (values != 0)
    n = len(weights.W_dec)
    pairs = torch.arange(ids.numel(), device=ids.device)
    columns = Columns(pairs.div(ids.shape[1], rounding_mode="floor"), ids.reshape(-1), n)
    db_enc = torch.zeros(n, device=x.device).index_add_(0, ids.reshape(-1), slopes.reshape(-1))
    db_dec = g.sum(dim=0)
    if weights.subtract_b_dec:
        db_dec = db_dec - weights.W_enc @ db_enc
    return SAEWeights(
        columns.weighted(inside, slopes.reshape(-1)).T,
        db_enc,
        columns.weighted(g, values.reshape(-1)),
        db_dec,
        weights.subtract_b_dec,
    )


def _slopes(W_dec: torch.Tensor, ids: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """W_dec[ids[i, j]] · g[i], (n, k)."""
    if W_dec.device.type == "cpu":
        return products(W_dec, ids, g)
    step = max(1, _HELD // (ids.shape[1] * W_dec.shape[1]))
    parts = zip(ids.split(step), g.split(step), strict=True)
    return torch.cat([torch.bmm(W_dec[i], some[:, :, None])[:, :, 0] for i, some in parts])


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
