"""Gradients of sparse features that vary in number from token to token, in PyTorch.

The pairs (token, feature) and their numbers are NumPy's, as `encode_sparse` gives them; tables and what
comes out are native.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from ...core.sparse import SparseFeatures

_HELD = 1 << 26
"""Numbers gathered at a time on a GPU."""


@torch.no_grad()
def slopes(features: SparseFeatures, W_dec: torch.Tensor, gradient: torch.Tensor) -> np.ndarray:
    """See `Backend.slopes`."""
    where = W_dec.device
    if where.type == "cpu":
        ids, starts = torch.tensor(features.indices), torch.tensor(features.indptr[:-1])
        return products(W_dec, ids, gradient, starts.to(ids.dtype)).numpy()
    rows, ids = (torch.tensor(a, device=where) for a in (features.row_ids, features.indices))
    step = max(1, _HELD // W_dec.shape[1])
    parts = zip(rows.split(step), ids.split(step), strict=True)
    found = [torch.einsum("pd,pd->p", W_dec[i], gradient[r]) for r, i in parts]
    return torch.cat([W_dec.new_zeros(0), *found]).cpu().numpy()


@torch.no_grad()
def sum_by_feature(
    features: SparseFeatures, terms: Sequence[tuple[np.ndarray, torch.Tensor]]
) -> list[torch.Tensor]:
    """See `Backend.sum_by_feature`."""
    where = terms[0][1].device
    rows, ids = (torch.tensor(a, device=where) for a in (features.row_ids, features.indices))
    columns = Columns(rows, ids, features.d_hidden)
    return [columns.weighted(table, torch.tensor(numbers, device=where)) for numbers, table in terms]


def products(
    table: torch.Tensor, ids: torch.Tensor, x: torch.Tensor, starts: torch.Tensor | None = None
) -> torch.Tensor:
    """table[ids[p]] · x[row of p] for each pair p, in the shape of ids: on a CPU.

    Asks for the way back of embedding_bag, which takes a fourth of the time of torch's products with thin matrices.

    Args:
        ids: (rows, k), or (pairs,) where `starts` (rows,) says where each row's begin.
    """
    if not ids.numel():
        return x.new_zeros(ids.shape)
    with torch.inference_mode(False), torch.enable_grad():
        weights = torch.ones(ids.shape, requires_grad=True)
        rows, ids = _ordinary(table.detach().float()), _ordinary(ids)
        starts = None if starts is None else _ordinary(starts)
        bags = F.embedding_bag(ids, rows, starts, mode="sum", per_sample_weights=weights)
        return torch.autograd.grad(bags, weights, x.detach().float())[0]


def _ordinary(x: torch.Tensor) -> torch.Tensor:
    """The tensor; of one that was made in inference mode a copy, as no way back starts from those."""
    return x.clone() if x.is_inference() else x


class Columns:
    """Pairs (row, feature), put in order by feature once, to sum several tables with."""

    def __init__(self, rows: torch.Tensor, ids: torch.Tensor, n: int):
        self._order = ids.argsort(stable=True)
        self._rows, self._ids, self._n = rows[self._order], ids[self._order], n
        ends = torch.bincount(ids, minlength=n).cumsum(0)
        self._starts = torch.cat([ends.new_zeros(1), ends[:-1]])

    def weighted(self, table: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Sum over each feature's pairs of their number times their row of the table, (n, width)."""
        numbers = numbers[self._order]
        if table.device.type in ("cpu", "cuda"):
            return F.embedding_bag(self._rows, table, self._starts, mode="sum", per_sample_weights=numbers)
        out, step = table.new_zeros((self._n, table.shape[1])), max(1, _HELD // table.shape[1])
        for i in range(0, len(self._rows), step):
            part = slice(i, i + step)
            out.index_add_(0, self._ids[part], table[self._rows[part]] * numbers[part, None])
        return out
