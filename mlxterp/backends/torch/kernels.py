"""Select and decode as Triton kernels for CUDA tensors, each beside its plain twin.

The kernels are compiled when first asked for and tried against the plain twins, on rows full of ties
and odd sizes; where they do not agree, or do not compile, a warning says so and the plain twins
answer from then on. Tensors elsewhere than on CUDA always go to the plain twins. `encoding` asks
`available()` first. Neither function is differentiable.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from ...errors import InputError, warn

_WIDEST_ROW = 1 << 14
"""Scores of a row that lie in registers together."""
_MOST_SORTED = 1024
"""Pairs that one program sorts."""


def available() -> bool:
    """Whether there is a CUDA device on which the kernels agree with their plain twins."""
    return torch.cuda.is_available() and _agrees(torch.cuda.current_device())


@torch.no_grad()
def select(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (int64) and values (float32) of the k largest of each row, (n, k), strongest first.

    Among equals the lowest id wins and comes first; NaN is below everything, -0.0 equals 0.0.

    Args:
        scores: (n, d); read as float32.
        k: At most d.
    """
    if not 0 <= k <= scores.shape[1]:
        raise InputError(f"k must lie between 0 and the {scores.shape[1]} scores of a row, got {k}.")
    if not 0 < k <= _MOST_SORTED or len(scores) == 0 or not _is_for_kernels(scores):
        return select_plain(scores, k)
    return _select(scores, k)


@torch.no_grad()
def decode(ids: torch.Tensor, values: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Sum over j of values[i, j] * table[ids[i, j]], float32, (n, width of table), in the order of j.

    A slot whose value is 0 is empty and its id may be anything; other ids must be rows of `table`.
    """
    if 0 in (*ids.shape, table.shape[1]) or not _is_for_kernels(table):
        return decode_plain(ids, values, table)
    return _decode(ids, values, table)


def select_plain(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`select` in PyTorch's own operations: a stable sort of whole rows."""
    scores = scores.float()
    bits = (scores + 0.0).view(torch.int32)  # -0.0 + 0.0 is 0.0
    keys = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    keys = torch.where(scores.isnan(), torch.iinfo(torch.int32).min, keys)
    ids = keys.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return ids, scores.gather(1, ids)


def decode_plain(ids: torch.Tensor, values: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """`decode` in PyTorch's own operations: slot by slot."""
    values, table = values.float(), table.float()
    out = table.new_zeros((len(ids), table.shape[1]))
    for j in range(ids.shape[1]):
        value = values[:, j, None]
        rows = table[torch.where(value[:, 0] == 0, 0, ids[:, j].long())]
        out += torch.where(value == 0, 0.0, value * rows)
    return out


# -- the kernels ------------------------------------------------------------------------------


def _is_for_kernels(x: torch.Tensor) -> bool:
    return x.is_cuda and torch.cuda.is_available() and _agrees(x.get_device())


def _select(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    scores = scores.float()
    if scores.shape[1] <= _WIDEST_ROW:
        return _select_narrow(scores, k)
    parts = [_select_narrow(part, min(k, part.shape[1])) for part in scores.split(_WIDEST_ROW, dim=1)]
    ids = torch.cat([ids + i * _WIDEST_ROW for i, (ids, _) in enumerate(parts)], dim=1)
    # Equal values of the parts stand by ascending id, so the lowest place is the lowest id.
    places, values = _select(torch.cat([values for _, values in parts], dim=1), k)
    return ids.gather(1, places), values


def _select_narrow(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    triton_kernels = _triton_kernels()
    n, d = scores.shape
    if scores.stride(1) != 1:
        scores = scores.contiguous()
    some_ids, keys = (scores.new_empty((n, k), dtype=torch.int32) for _ in range(2))
    ids, values = scores.new_empty((n, k), dtype=torch.int64), scores.new_empty((n, k))
    block, sorted_block = _power_of_two(d), _power_of_two(k)
    with _on(scores):
        triton_kernels.select_row[(n,)](
            scores, scores.stride(0), some_ids, keys, d, k, BLOCK=block, num_warps=_warps(block)
        )
        triton_kernels.sort_row[(n,)](
            some_ids, keys, ids, values, k, BLOCK=sorted_block, num_warps=_warps(4 * sorted_block)
        )
    return ids, values


def _decode(ids: torch.Tensor, values: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    (n, k), width = ids.shape, table.shape[1]
    ids, values, table = ids.contiguous(), values.float().contiguous(), table.float().contiguous()
    out = table.new_empty((n, width))
    block = min(1024, _power_of_two(width))
    with _on(table):
        _triton_kernels().decode_row[(n, -(-width // block))](ids, values, table, out, k, width, BLOCK=block)
    return out


def _triton_kernels() -> Any:
    """The Triton functions; ImportError where Triton is not installed."""
    from . import triton_kernels

    return triton_kernels


def _on(x: torch.Tensor) -> torch.cuda.device:
    """Triton launches on the current device, which need not be the tensors'."""
    return torch.cuda.device(x.get_device() if x.is_cuda else -1)


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _warps(block: int) -> int:
    """Warps for 32 numbers in each thread."""
    return min(16, max(1, block // 1024))


# -- trying them ------------------------------------------------------------------------------


@cache
def _agrees(device: int) -> bool:
    try:
        fault = _disagreement(torch.device("cuda", device))
    except Exception as error:  # whatever a compiler or driver raises, the plain twins can answer
        fault = f"{type(error).__name__}: {error}"
    if fault:
        warn(
            f"mlxterp's Triton kernels are not used on GPU {device}: {fault}. Plain PyTorch operations "
            "take their place; results are the same, large dictionaries are slower."
        )
    return not fault


@torch.no_grad()
def _disagreement(device: torch.device) -> str:
    """What the kernels and their twins differ in, "" where they agree."""
    for scores, k in _trial_scores(device):
        ids, values = _select(scores, k)
        plain_ids, plain_values = select_plain(scores, k)
        if not torch.equal(ids, plain_ids) or not torch.allclose(values, plain_values, 0, 0, equal_nan=True):
            return f"select chose otherwise than a sort among {scores.shape[1]} scores, k={k}"
    for ids, values, table in _trial_slots(device):
        if not torch.equal(_decode(ids, values, table), decode_plain(ids, values, table)):
            return f"decode summed otherwise than row by row, width {table.shape[1]}"
    return ""


def _trial_scores(device: torch.device) -> list[tuple[torch.Tensor, int]]:
    seed = torch.Generator().manual_seed(0)
    nan, inf = float("nan"), float("inf")
    odd = torch.tensor([[nan, -0.0, 0.0, inf, -inf, -1.5, nan, 2.0, -0.0]])
    ties = torch.randint(-2, 3, (4, 777), generator=seed).float()
    noise = torch.randn((3, _WIDEST_ROW + 1003), generator=seed)
    rising = noise[:2, :5003].sort(dim=1).values
    trials = [(torch.ones((2, 1)), 1), (odd, 9), (odd[:, :3], 2), (ties, 50), (noise, 32), (rising, 9)]
    return [(scores.to(device), k) for scores, k in [*trials, (noise, _MOST_SORTED)]]


def _trial_slots(device: torch.device) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Small whole numbers, so that sums are exact in any order; empty slots have ids of no row."""
    seed = torch.Generator().manual_seed(0)
    trials = []
    for width, k in ((1, 1), (301, 12), (2051, 7)):
        table = torch.randint(-3, 4, (40, width), generator=seed).float()
        values = torch.randint(-2, 3, (6, k), generator=seed).float()
        ids = torch.where(values == 0, 2**40, torch.randint(0, 40, (6, k), generator=seed))
        trials.append((ids.to(device), values.to(device), table.to(device)))
    return trials
