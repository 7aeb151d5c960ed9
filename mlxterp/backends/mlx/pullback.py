"""Vector-Jacobian products of several cotangents at once.

MLX maps the backward pass over the cotangents, so that the pass forward is made for one text. What an architecture's
operations have no map for is run on as many copies of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import mlx.core as mx
import numpy as np

from ...core.tokens import TokenBatch

Function = Callable[..., list[mx.array]]
_APART = 0.02
"""Share by which a mapped product may differ from one made alone: what 16 bits round."""


def pullbacks(
    function: Callable[[TokenBatch], Function],
    batch: TokenBatch,
    deltas: Sequence[mx.array],
    cotangents: Iterable[np.ndarray],
) -> Iterator[list[mx.array]]:
    """See `LanguageModel.pullbacks`.

    Args:
        function: A batch → what it gives for `deltas`, a list of one array.
    """
    mapped: bool | None = None
    for given in cotangents:
        rows = mx.array(given)
        if mapped is None:
            mapped = _maps(function(batch), deltas, rows)
        yield _mapped(function(batch), deltas, rows) if mapped else _copied(function, batch, deltas, rows)


def _mapped(function: Function, deltas: Sequence[mx.array], rows: mx.array) -> list[mx.array]:
    def one(cotangent: mx.array) -> list[mx.array]:
        return [gradient[0] for gradient in mx.vjp(function, list(deltas), [cotangent[None]])[1]]

    return list(mx.vmap(one)(rows))


def _copied(
    function: Callable[[TokenBatch], Function], batch: TokenBatch, deltas: Sequence[mx.array], rows: mx.array
) -> list[mx.array]:
    n = rows.shape[0]
    copies = TokenBatch(np.repeat(batch.ids, n, axis=0), np.repeat(batch.lengths, n))
    many = [mx.broadcast_to(delta, (n, *delta.shape[1:])) for delta in deltas]
    return list(mx.vjp(function(copies), many, [rows])[1])


def _maps(function: Function, deltas: Sequence[mx.array], rows: mx.array) -> bool:
    """Whether the backward pass can be mapped, and gives what one cotangent alone gives."""
    try:
        found = _mapped(function, deltas, rows[:2])
        alone = mx.vjp(function, list(deltas), [rows[:1]])[1]
        mx.eval(found, alone)
    except (RuntimeError, ValueError):  # an operation without a map
        return False
    size = sum(_size(x) for x in alone)
    return sum(_size(x[:1] - y) for x, y in zip(found, alone, strict=True)) <= _APART * size


def _size(x: mx.array) -> float:
    return float(np.abs(np.array(x.astype(mx.float32))).sum(dtype=np.float64))
