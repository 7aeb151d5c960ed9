"""Gradients of encoding and decoding with few features, in PyTorch, without products of full size.

With g the gradient of the reconstruction, A the sparse features and D[i, j] = W_dec[ids[i, j]] · g[i] where
values[i, j] > 0: dW_dec = Aᵀ g, dW_enc = (Dᵀ x)ᵀ, db_enc = column sums of D, and, where b_dec is subtracted
from x, db_dec = Σ g - W_enc db_enc.
"""

from __future__ import annotations

import torch

from ...weights import SAEWeights
from .pairs import Columns

_CACHED, _HELD = 1 << 18, 1 << 26
"""Numbers of decoder rows gathered at a time: on a CPU they stay in the cache, a GPU wants large pieces."""


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
    cells = _CACHED if W_dec.device.type == "cpu" else _HELD
    step = max(1, cells // (ids.shape[1] * W_dec.shape[1]))
    parts = zip(ids.split(step), g.split(step), strict=True)
    return torch.cat([torch.bmm(W_dec[i], some[:, :, None])[:, :, 0] for i, some in parts])
