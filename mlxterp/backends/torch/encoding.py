"""Activations to features and back, in PyTorch.

`torch.topk` leaves open which of equal values it takes, so its choice is checked and, where a row
is in doubt, made again by a stable sort. The walk goes over chunks of features and merges each
chunk's best with the best so far: rows x d_hidden never exists.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...errors import BackendError
from ...weights import Activation, SAEWeights

_CHUNK = 4096
"""Features at a time."""
_CELLS = 1 << 22
"""Pre-activations at a time."""
_GATHERED = 1 << 21
"""Numbers of decoder rows gathered at a time, where there is no embedding_bag."""


def best_device() -> str:
    """CUDA where there is one, else an Apple GPU, else the CPU."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def put_weights(weights: SAEWeights, device: str | None = None) -> SAEWeights:
    """Native weights; W_enc lies feature by feature, so that a chunk of features is one piece."""
    where = find_device(device)

    def put(x) -> torch.Tensor:
        if x is weights.W_enc:
            return torch.tensor(x.T, device=where).contiguous().T
        return torch.tensor(x, device=where)

    return weights.map(put)


def find_device(name: str | None) -> torch.device:
    """The device of that name, `best_device()` for None; BackendError where it cannot be used."""
    try:
        device = torch.device(name or best_device())
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise BackendError(
            f"PyTorch cannot use the device {name!r} here: {error}. device=None takes {best_device()!r}."
        ) from error
    return device


@torch.no_grad()
def encode(x: torch.Tensor, weights: SAEWeights, activation: Activation) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (int64) and values (float32), (n, min(k, d_hidden)); see `Backend.encode`."""
    d_hidden = weights.W_enc.shape[1]
    k = min(activation.k, d_hidden)
    rows = max(1, _CELLS // min(_CHUNK, d_hidden))
    x = x.detach().float()
    if weights.subtract_b_dec:
        x = x - weights.b_dec
    blocks = [_walk(x[i : i + rows], weights, k) for i in range(0, len(x), rows)]
    if not blocks:
        return x.new_zeros((0, k), dtype=torch.int64), x.new_zeros((0, k))
    return torch.cat([ids for ids, _ in blocks]), torch.cat([values for _, values in blocks])


def to_dense(ids: torch.Tensor, values: torch.Tensor, d_hidden: int) -> torch.Tensor:
    """float32, (n, d_hidden); ids are distinct within a row."""
    return values.new_zeros((len(ids), d_hidden)).scatter_(1, ids, values)


@torch.no_grad()
def decode(ids: torch.Tensor, values: torch.Tensor, weights: SAEWeights) -> torch.Tensor:
    """(n, d_out): the sum of each token's decoder rows."""
    n, width = ids.shape
    if n == 0 or width == 0:
        return weights.b_dec.expand(n, -1).clone()
    return weighted_rows(weights.W_dec, ids, values) + weights.b_dec


@torch.no_grad()
def decode_dense(features: torch.Tensor, weights: SAEWeights) -> torch.Tensor:
    """(n, d_out) from dense features."""
    return features.float() @ weights.W_dec + weights.b_dec


def weighted_rows(table: torch.Tensor, ids: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Sum over j of values[i, j] * table[ids[i, j]], (n, width of table); differentiable."""
    if table.device.type in ("cpu", "cuda"):
        return F.embedding_bag(ids, table, mode="sum", per_sample_weights=values)
    step = max(1, _GATHERED // (ids.shape[1] * table.shape[1]))
    parts = zip(ids.split(step), values.split(step), strict=True)
    return torch.cat([torch.bmm(v[:, None], table[i])[:, 0] for i, v in parts])


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


def _walk(x: torch.Tensor, weights: SAEWeights, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = x.new_empty((len(x), 0), dtype=torch.int64)
    values = x.new_empty((len(x), 0))
    for first in range(0, weights.W_enc.shape[1], _CHUNK):
        pre = x @ weights.W_enc[:, first : first + _CHUNK] + weights.b_enc[first : first + _CHUNK]
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
