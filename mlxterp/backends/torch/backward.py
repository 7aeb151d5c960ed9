"""Gradients of encoding and decoding with few features, in PyTorch, without products of full size.

With g the gradient of the reconstruction, A the sparse features and D[i, j] = W_dec[ids[i, j]] · g[i] where
values[i, j] > 0: dW_dec = Aᵀ g, dW_enc = (Dᵀ x)ᵀ, db_enc = column sums of D, and, where b_dec is subtracted
from x, db_dec = Σ g - W_enc db_enc.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...weights import SAEWeights

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
    order = ids.reshape(-1).argsort(stable=True)
    rows = order.div(ids.shape[1], rounding_mode="floor")
    starts = torch.bincount(ids.reshape(-1), minlength=n).cumsum(0).roll(1)
    starts[0] = 0

    def by_feature(table: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        return _bags(table, rows, starts, numbers.reshape(-1)[order], ids, n)

    db_enc = torch.zeros(n, device=x.device).index_add_(0, ids.reshape(-1), slopes.reshape(-1))
    db_dec = g.sum(dim=0)
    if weights.subtract_b_dec:
        db_dec = db_dec - weights.W_enc @ db_enc
    return SAEWeights(
        by_feature(inside, slopes).T, db_enc, by_feature(g, values), db_dec, weights.subtract_b_dec
    )


def _slopes(W_dec: torch.Tensor, ids: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """W_dec[ids[i, j]] · g[i], (n, k)."""
    cells = _CACHED if W_dec.device.type == "cpu" else _HELD
    step = max(1, cells // (ids.shape[1] * W_dec.shape[1]))
    parts = zip(ids.split(step), g.split(step), strict=True)
    return torch.cat([torch.bmm(W_dec[i], some[:, :, None])[:, :, 0] for i, some in parts])


def _bags(
    table: torch.Tensor,
    rows: torch.Tensor,
    starts: torch.Tensor,
    numbers: torch.Tensor,
    ids: torch.Tensor,
    n: int,
) -> torch.Tensor:
    """Sum over each feature's pairs of their number times their row of the table, (n, width)."""
    if table.device.type in ("cpu", "cuda"):
        return F.embedding_bag(rows, table, starts, mode="sum", per_sample_weights=numbers)
    out = table.new_zeros((n, table.shape[1]))
    features = ids.reshape(-1).sort(stable=True).values
    step = max(1, _HELD // table.shape[1])
    for i in range(0, len(rows), step):
        part = slice(i, i + step)
        out.index_add_(0, features[part], table[rows[part]] * numbers[part, None])
    return out
