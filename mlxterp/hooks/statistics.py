"""Mean, deviation and extremes of activations, taken as they come (NumPy, float64)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False, slots=True)
class ActivationStatistics:
    """Figures of a component's activations over tokens, for each of its dimensions; all float64, (width,).

    Attributes:
        count: Number of tokens.
        mean: Mean over the tokens.
        std: Standard deviation of these tokens as they are: the sum of squares is divided by `count`.
        min: Smallest value.
        max: Largest value.
        not_finite: Tokens that were left out, because a number of their activation is NaN or infinite.
    """

    count: int
    mean: np.ndarray
    std: np.ndarray
    min: np.ndarray
    max: np.ndarray
    not_finite: int = 0

    def __repr__(self) -> str:
        left_out = f"; {self.not_finite} left out, not finite" if self.not_finite else ""
        return f"ActivationStatistics({self.count} tokens of width {len(self.mean)}{left_out})"


class RunningStatistics:
    """Figures of all rows so far, whatever the portions in which they come."""

    def __init__(self) -> None:
        self.width: int | None = None
        self._count = self._not_finite = 0
        self._mean = self._squares = self._min = self._max = np.zeros(0)

    def add(self, rows: np.ndarray) -> None:
        """Takes rows (n, width) into account."""
        wide = rows.astype(np.float64)
        finite = np.isfinite(wide).all(axis=1)
        self._not_finite += int((~finite).sum())
        wide = wide[finite]
        n = len(wide)
        if not n:
            return
        mean = wide.mean(axis=0)
        squares = ((wide - mean) ** 2).sum(axis=0)
        if not self._count:
            self.width, self._count, self._mean, self._squares = rows.shape[1], n, mean, squares
            self._min, self._max = wide.min(axis=0), wide.max(axis=0)
            return
        total, away = self._count + n, mean - self._mean
        self._mean = self._mean + away * (n / total)
        self._squares = self._squares + squares + away**2 * (self._count * n / total)
        self._min, self._max = (
            np.minimum(self._min, wide.min(axis=0)),
            np.maximum(self._max, wide.max(axis=0)),
        )
        self._count = total

    def value(self) -> ActivationStatistics | None:
        """What is known; None before the first row."""
        if not self._count:
            return None
        std = np.sqrt(self._squares / self._count)
        extremes = self._min.copy(), self._max.copy()
        return ActivationStatistics(self._count, self._mean.copy(), std, *extremes, self._not_finite)
