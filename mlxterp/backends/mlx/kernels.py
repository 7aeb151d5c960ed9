"""Select and decode as GPU kernels of MLX, on Metal and CUDA, each beside its plain twin.

The kernels' text is in `backends/kernels`. They are compiled when first asked for and tried against
the plain twins, on rows full of ties and odd sizes; where they do not agree, or do not compile, a
warning says so and the plain twins answer from then on. `encoding` asks `available()` first: its
own walk is faster than the twins where there is no GPU. Neither function is differentiable.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import mlx.core as mx

from ...errors import InputError, warn
from ..kernels import source

_KERNELS = {"select": source.SELECT, "decode": source.DECODE}
_LAST = 0xFFFFFFFF
_SIGN = 0x80000000
_MOST_THREADS = 2**31
"""A launch counts its threads in an int."""

GPU = Literal["metal", "cuda"]


def available() -> bool:
    """Whether the default device is a GPU on which the kernels agree with their plain twins."""
    gpu = _gpu()
    return gpu is not None and _agrees(gpu)


def select(scores: mx.array, k: int) -> tuple[mx.array, mx.array]:
    """Ids (uint32) and values (float32) of the k largest of each row, (n, k), strongest first.

    Among equals the lowest id wins and comes first; NaN is below everything, -0.0 equals 0.0.

    Args:
        scores: (n, d); read as float32.
        k: At most d.
    """
    if not 0 <= k <= scores.shape[1]:
        raise InputError(f"k must lie between 0 and the {scores.shape[1]} scores of a row, got {k}.")
    n, d = scores.shape
    if n == 0 or k == 0 or n * source.threads_for(d) >= _MOST_THREADS or not available():
        return select_plain(scores, k)
    return _select(scores, k)


def decode(ids: mx.array, values: mx.array, table: mx.array) -> mx.array:
    """Sum over j of values[i, j] * table[ids[i, j]], float32, (n, width of table), in the order of j.

    A slot whose value is 0 is empty and its id may be anything; other ids must be rows of `table`.
    """
    n, width = ids.shape[0], table.shape[1]
    if 0 in (n, width, ids.shape[1]) or n * source.threads_for(width) >= _MOST_THREADS or not available():
        return decode_plain(ids, values, table)
    return _decode(ids, values, table)


def select_plain(scores: mx.array, k: int) -> tuple[mx.array, mx.array]:
    """`select` in MLX's own operations: a sort of whole rows."""
    scores = scores.astype(mx.float32)
    bits = mx.where(scores == 0, 0.0, scores).view(mx.uint32)
    keys = mx.where(bits >= _SIGN, bits, _SIGN - 1 - bits)  # the largest score has the smallest
    keys = mx.where(mx.isnan(scores), _LAST, keys).astype(mx.uint64)
    pairs = mx.sort((keys << 32) | mx.arange(scores.shape[1], dtype=mx.uint64), axis=-1)[:, :k]
    ids = (pairs & _LAST).astype(mx.uint32)
    return ids, mx.take_along_axis(scores, ids, axis=-1)


def decode_plain(ids: mx.array, values: mx.array, table: mx.array) -> mx.array:
    """`decode` in MLX's own operations: slot by slot."""
    values, table = values.astype(mx.float32), table.astype(mx.float32)
    out = mx.zeros((ids.shape[0], table.shape[1]), dtype=mx.float32)
    for j in range(ids.shape[1]):
        value = values[:, j, None]
        rows = table[mx.where(value[:, 0] == 0, 0, ids[:, j])]
        out = out + mx.where(value == 0, 0.0, value * rows)
    return out


# -- the kernels ------------------------------------------------------------------------------


def _select(scores: mx.array, k: int) -> tuple[mx.array, mx.array]:
    n, d = scores.shape
    ids, values = _launch(
        "select",
        [scores.astype(mx.float32)],
        [(n, k), (n, k)],
        [mx.uint32, mx.float32],
        source.threads_for(d),
        source.select_constants(k),
    )
    return ids, values


def _decode(ids: mx.array, values: mx.array, table: mx.array) -> mx.array:
    n, width = ids.shape[0], table.shape[1]
    inputs = [ids.astype(mx.uint32), values.astype(mx.float32), table.astype(mx.float32)]
    return _launch("decode", inputs, [(n, width)], [mx.float32], source.threads_for(width), {})[0]


def _launch(
    name: str,
    inputs: list[mx.array],
    shapes: list[tuple[int, ...]],
    dtypes: list[mx.Dtype],
    threads: int,
    constants: dict[str, int],
) -> list[mx.array]:
    """One group for each row of the first output."""
    gpu = _gpu()
    assert gpu is not None
    return _kernel(name, gpu)(
        inputs=inputs,
        template=list(constants.items()),
        grid=(shapes[0][0] * threads, 1, 1),
        threadgroup=(threads, 1, 1),
        output_shapes=shapes,
        output_dtypes=dtypes,
    )


@cache
def _kernel(name: str, gpu: GPU) -> Callable[..., Any]:
    kernel = _KERNELS[name]
    build: Callable[..., Any] = mx.fast.metal_kernel if gpu == "metal" else mx.fast.cuda_kernel
    return build(
        name=f"mlxterp_{name}",
        input_names=list(kernel.inputs),
        output_names=list(kernel.outputs),
        source=source.jit_source(kernel, gpu),
        header=source.header(gpu),
    )


def _gpu() -> GPU | None:
    if mx.default_device().type != mx.DeviceType.gpu:
        return None
    if mx.metal.is_available():
        return "metal"
    return "cuda" if mx.cuda.is_available() else None


# -- trying them ------------------------------------------------------------------------------


@cache
def _agrees(gpu: GPU) -> bool:
    try:
        fault = _disagreement()
    except Exception as error:  # whatever a compiler or driver raises, the plain twins can answer
        fault = f"{type(error).__name__}: {error}"
    if fault:
        warn(
            f"mlxterp's {gpu} kernels are not used: {fault}. Plain MLX operations take their place; "
            "results are the same, large dictionaries are slower."
        )
    return not fault


def _disagreement() -> str:
    """What the kernels and their twins differ in, "" where they agree."""
    for scores, k in _trial_scores():
        ids, values = _select(scores, k)
        plain_ids, plain_values = select_plain(scores, k)
        same = mx.array_equal(ids, plain_ids), mx.array_equal(values, plain_values, equal_nan=True)
        if not all(equal.item() for equal in same):
            return f"select chose otherwise than a sort among {scores.shape[1]} scores, k={k}"
    for ids, values, table in _trial_slots():
        if not mx.array_equal(_decode(ids, values, table), decode_plain(ids, values, table)).item():
            return f"decode summed otherwise than row by row, width {table.shape[1]}"
    return ""


def _trial_scores() -> list[tuple[mx.array, int]]:
    key = mx.random.key(0)
    ties = mx.random.randint(-2, 3, (4, 777), key=key).astype(mx.float32)
    odd = mx.array([[float("nan"), -0.0, 0.0, float("inf"), -float("inf"), -1.5, float("nan"), 2.0, -0.0]])
    noise = mx.random.normal((5, 5003), key=key)
    rising = mx.sort(noise[:2], axis=-1)
    trials = [(mx.ones((2, 1)), 1), (odd, 9), (odd[:, :3], 2), (ties, 50), (noise, 32), (rising, 9)]
    return [*trials, (noise, 1500)]


def _trial_slots() -> list[tuple[mx.array, mx.array, mx.array]]:
    """Small whole numbers, so that sums are exact in any order; empty slots have ids of no row."""
    trials = []
    for width, k in ((1, 1), (301, 12), (2051, 7)):
        key = mx.random.key(width)
        table = mx.random.randint(-3, 4, (40, width), key=key).astype(mx.float32)
        values = mx.random.randint(-2, 3, (6, k), key=key).astype(mx.float32)
        ids = mx.random.randint(0, 40, (6, k), key=key).astype(mx.uint32)
        trials.append((mx.where(values == 0, _LAST, ids).astype(mx.uint32), values, table))
    return trials
