"""Adam in NumPy, in place: a few rows at a time, so that all that they need stays in the cache.

Kingma & Ba 2015 (arXiv 1412.6980), with bias correction. MLX's own makes a new array for each operation, which on a CPU
takes several times as long.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

_BLOCK = 1 << 16
"""Numbers of a block: 256 KiB of each of five arrays."""


class HostAdam:
    """Moments of some parameters, and the steps that were taken.

    Args:
        params: float32, by name; matrices or vectors.
    """

    def __init__(self, params: Mapping[str, np.ndarray], betas: tuple[float, float], eps: float):
        self._betas, self._eps = betas, np.float32(eps)
        self.moments = {name: (np.zeros_like(p), np.zeros_like(p)) for name, p in params.items()}
        """Of each parameter, the mean of its gradients and of their squares."""
        self.step = 0

    def update(
        self,
        params: Mapping[str, np.ndarray],
        gradients: Mapping[str, np.ndarray],
        lr: float,
        unit_rows: Collection[str] = (),
    ) -> None:
        """One step, into the arrays of `params`.

        Args:
            unit_rows: Parameters whose rows keep norm 1: what a gradient has along its row is left out, and the rows
                are scaled after the step.
        """
        self.step += 1
        with np.errstate(all="ignore"):  # what is not finite shows in the parameters
            for name, param in params.items():
                arrays = [_matrix(a) for a in (param, gradients[name], *self.moments[name])]
                rows = max(1, _BLOCK // max(1, arrays[0].shape[1]))
                for i in range(0, len(arrays[0]), rows):
                    p, g, first, second = (a[i : i + rows] for a in arrays)
                    self._block(p, g, first, second, lr, name in unit_rows)

    def _block(
        self, p: np.ndarray, g: np.ndarray, first: np.ndarray, second: np.ndarray, lr: float, unit: bool
    ) -> None:
        b1, b2 = self._betas
        if unit:
            g = g - _products(g, p) * p
        change = g - first
        change *= np.float32(1 - b1)
        first += change
        np.multiply(g, g, out=change)
        change -= second
        change *= np.float32(1 - b2)
        second += change
        np.sqrt(second, out=change)
        change *= np.float32(1 / np.sqrt(1 - b2**self.step))
        change += self._eps
        np.divide(first, change, out=change)
        change *= np.float32(lr / (1 - b1**self.step))
        p -= change
        if unit:
            p /= np.maximum(np.sqrt(_products(p, p)), np.float32(1e-12))


def _matrix(array: np.ndarray) -> np.ndarray:
    return array if array.ndim == 2 else array.reshape(1, -1)


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product of each row of one with that of the other, (rows, 1)."""
    return np.einsum("ij,ij->i", a, b)[:, None]
