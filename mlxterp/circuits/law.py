"""The law that every graph is measured by: what is read is an affine function of the sources.

For each row, the value at the prompt is that at sources of 0 plus what the sources add; and at sources that are moved
at random it changes by what the movements add. Both are two forward passes for all rows together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..backends.frozen import FrozenPass
from ..core.frozen import ReadAt, SourceVectors
from ..errors import CircuitError

LIMIT = 1e-3
"""A graph whose rows break the law by more is refused."""


class Law:
    """Measures rows of a frozen pass.

    Args:
        model_type: Of the model, for the error.
        seed: Of the random movement.
        limit: What the worst row may break the law by.

    Attributes:
        columns: What each row's gradient is to be multiplied with, beside its own columns.
    """

    def __init__(self, frozen: FrozenPass, model_type: str, seed: int = 0, limit: float = LIMIT):
        draw = np.random.default_rng(seed)
        self._limit = limit
        self._model_type, self._base = model_type, frozen.base
        moved = {
            key: (draw.normal(size=value.shape) * (value.std() or 1.0)).astype(np.float32)
            for key, value in frozen.sources.items()
        }
        every = np.arange(len(next(iter(frozen.sources.values()))))
        self.columns = [
            SourceVectors(key, every, vectors)
            for found in (frozen.sources, moved)
            for key, vectors in found.items()
        ]
        self._origin = frozen.read({}, origin=True)
        self._moved = frozen.read({key: value[None] for key, value in moved.items()})
        self._found: list[np.ndarray] = []

    def measure(self, reads: Sequence[ReadAt], products: np.ndarray) -> None:
        """Notes rows: their gradients times `columns`, (rows, vectors)."""
        half = products.shape[1] // 2
        wide = products.astype(np.float64)
        read = np.stack([found.all_at(reads) for found in (self._base, self._origin, self._moved)], axis=1)
        added, moved = wide[:, :half].sum(axis=1), wide[:, half:].sum(axis=1)
        self._found.append(
            np.stack([read[:, 0] - read[:, 1], added, read[:, 2] - read[:, 0], moved, read[:, 0]], axis=1)
        )

    def check(self) -> float:
        """The largest difference of a row, relative to its value (and to the median of all, where it is smaller).

        Raises:
            CircuitError: It is above 1e-3.
        """
        change, added, moved, expected, value = np.concatenate(self._found).T
        broken = np.concatenate([
            np.abs(change - added) / _scale(value), np.abs(moved - expected) / _scale(expected)
        ])  # fmt: skip
        worst = float(np.max(broken))
        if not worst <= self._limit:
            raise CircuitError(
                f"The frozen pass of this {self._model_type} model is not affine: a row differs by {worst:.1e} of its"
                f" value from what its sources add (at most {self._limit:g} is allowed). Something in this architecture"
                " multiplies activations in a way that is not held, so its attribution graphs would be wrong."
            )
        return worst


def _scale(values: np.ndarray) -> np.ndarray:
    sizes = np.abs(values)
    return np.maximum(np.maximum(sizes, np.median(sizes)), np.finfo(np.float32).tiny)
