"""Features back to activations, in PyTorch."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ...core.sparse import SparseFeatures
from ...weights import SAEWeights
from . import kernels

_GATHERED = 1 << 21
"""Numbers of decoder rows gathered at a time, where there is no embedding_bag."""
_DENSE_SHARE = 4
"""Where more than one feature in so many is active, a matrix product is faster than gathering rows."""
_ROWS = 1024
"""Rows of sparse features at a time."""


@torch.no_grad()
def decode(ids: torch.Tensor, values: torch.Tensor, weights: SAEWeights) -> torch.Tensor:
    """(n, d_out): the sum of each token's decoder rows."""
    n, width = ids.shape
    if n == 0 or width == 0:
        return weights.b_dec.expand(n, -1).clone()
    if values.is_cuda and kernels.available():
        return kernels.decode(ids, values, weights.W_dec) + weights.b_dec
    return weighted_rows(weights.W_dec, ids, values).add_(weights.b_dec)


@torch.no_grad()
def decode_dense(features: torch.Tensor, weights: SAEWeights) -> torch.Tensor:
    """(n, d_out) from dense features."""
    return features.float() @ weights.W_dec + weights.b_dec


@torch.no_grad()
def decode_sparse(features: SparseFeatures, weights: SAEWeights) -> torch.Tensor:
    """(n, d_out) from features in NumPy, a block of rows at a time."""
    parts = [_block(part, weights) for part in features.blocks(_ROWS)]
    return torch.cat(parts) if parts else weights.b_dec.new_zeros((0, len(weights.b_dec)))


def weighted_rows(table: torch.Tensor, ids: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Sum over j of values[i, j] * table[ids[i, j]], (n, width of table); differentiable."""
    if table.device.type in ("cpu", "cuda"):
        return F.embedding_bag(ids, table, mode="sum", per_sample_weights=values)
    step = max(1, _GATHERED // (ids.shape[1] * table.shape[1]))
    parts = zip(ids.split(step), values.split(step), strict=True)
    return torch.cat([torch.bmm(v[:, None], table[i])[:, 0] for i, v in parts])


def to_dense(ids: torch.Tensor, values: torch.Tensor, d_hidden: int) -> torch.Tensor:
    """float32, (n, d_hidden); ids are distinct within a row."""
    return values.new_zeros((len(ids), d_hidden)).scatter_(1, ids, values)


def _block(features: SparseFeatures, weights: SAEWeights) -> torch.Tensor:
    where = weights.W_dec.device
    if len(features.values) * _DENSE_SHARE > features.n * features.d_hidden:
        return decode_dense(torch.tensor(features.to_dense(), device=where), weights)
    if where.type not in ("cpu", "cuda"):
        ids, values = (torch.tensor(a, device=where) for a in features.to_topk())
        return decode(ids.long(), values, weights)
    ids, values = torch.tensor(features.indices, device=where), torch.tensor(features.values, device=where)
    starts = torch.tensor(features.indptr[:-1].astype(np.int32), device=where)
    rows = F.embedding_bag(ids, weights.W_dec, starts, mode="sum", per_sample_weights=values)
    return rows.add_(weights.b_dec)
