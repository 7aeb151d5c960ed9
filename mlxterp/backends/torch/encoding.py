"""Activations to features, in PyTorch: every variant that decides a token by itself or by its batch.

`selecting` finds the k largest; here are the other rules, the input's form, and the walk over blocks of
rows and chunks of features that keeps memory bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from ...core.sparse import SparseFeatures
from ...variants import (
    ELEMENTWISE,
    FIXED_K,
    Activation,
    BatchTopK,
    Gated,
    GroupMax,
    InputForm,
    JumpReLU,
    TanhReLU,
    TopK,
)
from ...weights import SAEWeights
from ..host.selection import FEW, column_of, gathered, ranked
from . import decoding, selecting
from .devices import find_device


def put_weights(weights: SAEWeights, device: str | None = None) -> SAEWeights:
    """Native weights; W_enc lies feature by feature, so that a chunk of features is one piece."""
    where = find_device(device)

    def put(x) -> torch.Tensor:
        if x is weights.W_enc:
            return torch.tensor(x.T, device=where).contiguous().T
        return torch.tensor(x, device=where)

    return weights.map(put)


@torch.no_grad()
def normalize(x: torch.Tensor, form: InputForm) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """See `Backend.normalize`."""
    x = x.detach().float()
    scale, shift = x.new_ones((len(x), 1)), x.new_zeros((len(x), 1))
    if form.center or form.normalize == "layer_norm":
        shift = x.mean(dim=-1, keepdim=True)
        x = x - shift
    if form.normalize == "layer_norm":
        scale = torch.sqrt((x * x).sum(dim=-1, keepdim=True) / max(1, x.shape[1] - 1))
        x = x / (scale + 1e-5)
    elif form.normalize == "constant_norm":
        scale = x.norm(dim=-1, keepdim=True) / x.shape[1] ** 0.5
        x = x / scale.clamp(min=1e-30)
    return x, (scale, shift)


@torch.no_grad()
def encode(x: torch.Tensor, weights: SAEWeights, activation: Activation) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (int64) and values (float32), (n, width); see `Backend.encode`."""
    assert isinstance(activation, FIXED_K)
    x = _inputs(x, weights)
    if isinstance(activation, TopK) and activation.relu:
        ids, values = selecting.topk_of_products(x, weights, min(activation.k, weights.W_enc.shape[1]))
    elif isinstance(activation, GroupMax):
        blocks = [_group_max(p, activation.k) for p in _pre_activations(x, weights)]
        ids, values = _joined(blocks, activation.k, x)
    else:
        by_size = not isinstance(activation, TopK)
        found = [ranked(p.cpu().numpy(), activation.k, by_size) for p in _pre_activations(x, weights)]
        native = [(torch.tensor(i, device=x.device), torch.tensor(v, device=x.device)) for i, v in found]
        ids, values = _joined(native, activation.k, x)
    if "value_scale" in weights.extra:
        values = values * weights.extra["value_scale"][ids]
    return ids, values


@torch.no_grad()
def encode_sparse(x: torch.Tensor, weights: SAEWeights, activation: Activation) -> SparseFeatures:
    """See `Backend.encode_sparse`."""
    n, d_hidden = len(x), weights.W_enc.shape[1]
    if isinstance(activation, ELEMENTWISE):
        return gathered(_active(_inputs(x, weights), weights, activation), n, d_hidden)
    if isinstance(activation, BatchTopK):
        scale = weights.extra.get("value_scale")
        active = _active(_inputs(x, weights), replace(weights, extra={}), activation)
        return gathered(active, n, d_hidden, activation.k * n, None if scale is None else scale.cpu().numpy())
    ids, values = encode(x, weights, activation)
    return SparseFeatures.from_topk(ids.cpu().numpy(), values.cpu().numpy(), d_hidden)


@torch.no_grad()
def encode_dense(x: torch.Tensor, weights: SAEWeights, activation: Activation) -> torch.Tensor:
    """See `Backend.encode_dense`."""
    if isinstance(activation, ELEMENTWISE):
        rows: dict[int, list[torch.Tensor]] = {}
        for row, _, values in _blocks(_inputs(x, weights), weights, activation):
            rows.setdefault(row, []).append(values)
        parts = [part[0] if len(part) == 1 else torch.cat(part, dim=1) for part in rows.values()]
        if not parts:
            return weights.b_dec.new_zeros((0, weights.W_enc.shape[1]))
        return parts[0] if len(parts) == 1 else torch.cat(parts)
    if isinstance(activation, BatchTopK):
        return torch.tensor(encode_sparse(x, weights, activation).to_dense(), device=x.device)
    return decoding.to_dense(*encode(x, weights, activation), weights.W_enc.shape[1])


@torch.no_grad()
def encode_features(
    x: torch.Tensor, weights: SAEWeights, activation: Activation, ids: np.ndarray
) -> torch.Tensor:
    """See `Backend.encode_features`."""
    part = torch.tensor(ids, device=x.device)
    if isinstance(activation, ELEMENTWISE):
        return _elementwise(_inputs(x, weights) @ weights.W_enc[:, part], weights, activation, part)
    if isinstance(activation, BatchTopK):
        return torch.tensor(encode_sparse(x, weights, activation).columns(ids), device=x.device)
    active, values = encode(x, weights, activation)
    if len(ids) <= FEW:
        return torch.where(active[..., None] == part, values[..., None], 0.0).sum(dim=1)
    column = torch.tensor(column_of(ids, weights.W_enc.shape[1]), device=x.device)[active]
    found = values.new_zeros((len(values), len(ids) + 1)).scatter_add_(1, column, values)
    return found[:, :-1]


@torch.no_grad()
def reconstruct(x: torch.Tensor, weights: SAEWeights, activation: Activation) -> torch.Tensor:
    """See `Backend.reconstruct`."""
    if isinstance(activation, BatchTopK):
        return decoding.decode_sparse(encode_sparse(x, weights, activation), weights)
    if not isinstance(activation, ELEMENTWISE):
        return decoding.decode(*encode(x, weights, activation), weights)
    rows = max(1, selecting.CELLS // weights.W_enc.shape[1])
    parts = [
        decoding.decode_dense(encode_dense(x[i : i + rows], weights, activation), weights)
        for i in range(0, len(x), rows)
    ]
    return torch.cat(parts) if parts else weights.b_dec.new_zeros((0, len(weights.b_dec)))


# -- pre-activations and what becomes of them ---------------------------------------------------


def _inputs(x: torch.Tensor, weights: SAEWeights) -> torch.Tensor:
    x = x.detach().float()
    return x - weights.b_dec if weights.subtract_b_dec else x


def _pre_activations(x: torch.Tensor, weights: SAEWeights) -> Iterator[torch.Tensor]:
    """Blocks of rows of x @ W_enc + b_enc, all features of each."""
    rows = max(1, selecting.CELLS // weights.W_enc.shape[1])
    for i in range(0, len(x), rows):
        yield x[i : i + rows] @ weights.W_enc + weights.b_enc


def _blocks(
    x: torch.Tensor, weights: SAEWeights, activation: Activation
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """First row, first feature and features of one block of rows and chunk of features after another.

    Dense and sparse features come from the same products: of another shape, some would be rounded otherwise, and
    whether a feature exceeds its threshold could differ.
    """
    d_hidden = weights.W_enc.shape[1]
    rows = selecting.rows_at_once(d_hidden)
    for i in range(0, len(x), rows):
        for first in range(0, d_hidden, selecting.CHUNK):
            part = slice(first, first + selecting.CHUNK)
            yield i, first, _elementwise(x[i : i + rows] @ weights.W_enc[:, part], weights, activation, part)


def _active(
    x: torch.Tensor, weights: SAEWeights, activation: Activation
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows, ids and values of the active features, block by block."""
    for i, first, values in _blocks(x, weights, activation):
        row, column, found = _nonzero(values)
        yield row + i, column + first, found


def _nonzero(values: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if values.device.type == "cpu":  # five times faster than torch's own
        dense = values.numpy()
        found = np.flatnonzero(dense)
        row, column = np.divmod(found, dense.shape[1])
        return row, column, dense.reshape(-1)[found]
    row, column = values.nonzero(as_tuple=True)
    return row.cpu().numpy(), column.cpu().numpy(), values[row, column].cpu().numpy()


def _elementwise(
    p: torch.Tensor, weights: SAEWeights, activation: Activation, part: slice | torch.Tensor
) -> torch.Tensor:
    """Features of products p = x @ W_enc[:, part]; 0 where not active."""
    h, extra = p + weights.b_enc[part], weights.extra
    features = h.relu()
    if isinstance(activation, TanhReLU):
        features = features.tanh()
    elif isinstance(activation, JumpReLU):
        features = torch.where(h > extra["threshold"][part], features, 0.0)
    elif isinstance(activation, Gated):
        magnitude = p * extra["gate_scale"][part] + extra["b_mag"][part]
        features = torch.where(h > 0, magnitude.relu(), 0.0)
    return features * extra["value_scale"][part] if "value_scale" in extra else features


def _group_max(pre: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    groups = pre.relu().reshape(len(pre), k, -1)
    values, ids = groups.max(dim=-1)
    return ids + groups.shape[2] * torch.arange(k, device=pre.device), values


def _joined(
    blocks: list[tuple[torch.Tensor, torch.Tensor]], width: int, like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    if not blocks:
        return like.new_zeros((0, width), dtype=torch.int64), like.new_zeros((0, width))
    return torch.cat([ids for ids, _ in blocks]), torch.cat([values for _, values in blocks])
