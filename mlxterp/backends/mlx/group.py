"""Processes that train one SAE together, by `mlx.distributed`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache

import mlx.core as mx

_LAUNCHED = ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
"""What `mlx.launch` and `mpirun` set."""


class MLXGroup:
    """`Group` for MLX."""

    def __init__(self) -> None:
        launched = any(name in os.environ for name in _LAUNCHED)
        self._group = mx.distributed.init(strict=True) if launched else None
        self.rank = self._group.rank() if self._group else 0
        self.size = self._group.size() if self._group else 1

    def sum(self, arrays: Sequence[mx.array]) -> list[mx.array]:
        if self._group is None or self.size == 1:
            return list(arrays)
        summed = []
        for array in arrays:  # one after the other: every process must ask in the same order
            summed.append(mx.distributed.all_sum(mx.contiguous(array), group=self._group))
            mx.eval(summed[-1])
        return summed


@cache
def group() -> MLXGroup:
    """The group of this process; alone where it was not launched as one of several."""
    return MLXGroup()
