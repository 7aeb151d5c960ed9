"""The k largest pre-activations of each token, in PyTorch.

`torch.topk` leaves open which of equal values it takes, so its choice is checked and, where a row
is in doubt, made again by a stable sort. The walk goes over chunks of features and merges each
chunk's best with the best so far: rows x d_hidden never exists.
"""

from __future__ import annotations

import torch

from ...weights import SAEWeights
from ..host.topk import RunningTopK
from . import kernels

CHUNK = 4096
"""Features at a time."""
CELLS = 1 << 22
"""Pre-activations at a time."""
_DEVICE_CELLS = 1 << 27
"""Pre-activations at a time on a GPU: 512 MiB."""


def rows_at_once(d_hidden: int) -> int:
    """Rows of a block, so that a chunk of its pre-activations has at most `CELLS`."""
    return max(1, CELLS // min(CHUNK, d_hidden))


def topk_of_products(x: torch.Tensor, weights: SAEWeights, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (int64) and values (float32), (n, k), of the k largest positive x @ W_enc + b_enc."""
    if x.is_cuda and kernels.available():
        rows = max(1, _DEVICE_CELLS // weights.W_enc.shape[1])
        blocks = [_by_kernel(x[i : i + rows], weights, k) for i in range(0, len(x), rows)]
    else:
        rows = rows_at_once(weights.W_enc.shape[1])
        walk = _on_cpu if x.device.type == "cpu" else _walk
        blocks = [walk(x[i : i + rows], weights, k) for i in range(0, len(x), rows)]
    if not blocks:
        return x.new_zeros((0, k), dtype=torch.int64), x.new_zeros((0, k))
    return torch.cat([ids for ids, _ in blocks]), torch.cat([values for _, values in blocks])


def topk(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and values (n, k) of the k largest scores (all >= 0); among positive equals the lowest ids win.

    Strongest first, equals by ascending id.
    """
    if k >= scores.shape[1]:
        return _strongest_first(scores, None, k)
    values, ids = torch.topk(scores, k + 1, dim=-1)
    if ((values[:, k] == values[:, k - 1]) & (values[:, k] > 0)).any():  # which of equals is in is left open
        return _strongest_first(scores, None, k)
    ids = ids[:, :k].sort(dim=-1).values
    return _strongest_first(scores.gather(1, ids), ids, k)


def _on_cpu(x: torch.Tensor, weights: SAEWeights, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """NumPy looks at each chunk where it lies."""
    best = RunningTopK(len(x), k)
    d_hidden = weights.W_enc.shape[1]
    space = x.new_empty((len(x) * min(CHUNK, d_hidden),))
    for first in range(0, d_hidden, CHUNK):
        b_enc, W_enc = weights.b_enc[first : first + CHUNK], weights.W_enc[:, first : first + CHUNK]
        scores = space[: len(x) * len(b_enc)].view(len(x), len(b_enc))
        torch.addmm(b_enc, x, W_enc, out=scores)
        best.add(first, scores.numpy())
    ids, values = best.best()
    return torch.from_numpy(ids), torch.from_numpy(values)


def _by_kernel(x: torch.Tensor, weights: SAEWeights, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    return kernels.select((x @ weights.W_enc + weights.b_enc).relu_(), k)


def _walk(x: torch.Tensor, weights: SAEWeights, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = x.new_empty((len(x), 0), dtype=torch.int64)
    values = x.new_empty((len(x), 0))
    for first in range(0, weights.W_enc.shape[1], CHUNK):
        pre = x @ weights.W_enc[:, first : first + CHUNK] + weights.b_enc[first : first + CHUNK]
        new_ids, new_values = topk(pre.relu_(), min(k, pre.shape[1]))
        ids, values = _strongest_first(
            torch.cat([values, new_values], dim=1), torch.cat([ids, new_ids + first], dim=1), k
        )
    return ids, values


def _strongest_first(
    values: torch.Tensor, ids: torch.Tensor | None, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The first k by value; equals keep their order. `ids` None stands for 0, 1, 2, …"""
    values, order = values.sort(dim=-1, descending=True, stable=True)
    values, order = values[:, :k], order[:, :k]
    return (order if ids is None else ids.gather(1, order)), values
