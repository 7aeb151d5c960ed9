"""Numbers of logits and directions, in float64 whatever the values come in (NumPy only).

Metrics, losses, lenses and calibrations compute here: sums in a model's 16 bits lose what they are to show.
"""

from __future__ import annotations

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log p over the last axis, float64."""
    wide = np.asarray(logits).astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


def plain(x: np.ndarray) -> np.ndarray:
    """The same numbers as every array library takes them: no axis backwards, in the machine's byte order."""
    if any(step < 0 for step in x.strides):
        x = np.ascontiguousarray(x)
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def entropies(logits: np.ndarray) -> np.ndarray:
    """float64, (rows,): entropy of the softmax of logits (rows, width), nats; NaN where they are no numbers."""
    bad = np.asarray(~np.isfinite(logits).all(axis=-1))
    logp = log_softmax(np.where(bad[:, None], 0.0, logits))
    return np.where(bad, np.nan, -(np.exp(logp) * logp).sum(axis=-1))


_COLUMNS = 512
"""Numbers that a long row is cut down to before it is partitioned."""


def largest(row: np.ndarray, k: int) -> np.ndarray:
    """int64: indices of the k largest (all, where there are fewer), largest first; among equals the lower index."""
    chosen = np.flatnonzero(row >= reached_by(row, k)) if k < len(row) else np.arange(len(row))
    if k < len(chosen):
        least = np.partition(row[chosen], len(chosen) - k)[len(chosen) - k]
        above, equal = chosen[row[chosen] > least], chosen[row[chosen] == least]
        chosen = np.concatenate([above, equal[: k - len(above)]])
    return chosen[np.argsort(-row[chosen], kind="stable")]


def reached_by(row: np.ndarray, k: int) -> np.number:
    """A number that at least k of a longer row reach; as a rule few more do.

    A long row is written in lines below each other: the k-th largest of its columns' maxima is reached in k columns.
    """
    columns = max(_COLUMNS, 4 * k)
    if len(row) > 2 * columns:
        row = row[: len(row) // columns * columns].reshape(-1, columns).max(axis=0)
    return np.partition(row, len(row) - k)[len(row) - k]


def moments(row: np.ndarray) -> tuple[float, float, float]:
    """Standard deviation, skew and kurtosis of numbers whose mean is 0; all 0 for a row of zeros."""
    wide = np.asarray(row).astype(np.float64)
    sd = float(np.sqrt(np.mean(wide**2)))
    if sd == 0:
        return 0.0, 0.0, 0.0
    z = wide / sd
    square = z * z  # `pow` is many times slower than products
    return sd, float(np.mean(square * z)), float(np.mean(square * square))
