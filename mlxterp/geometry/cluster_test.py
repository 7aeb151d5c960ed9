"""How tight groups of rows are, beside random groups of their size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

GROUPS = 1000
"""Random groups of each size."""
_NUMBERS = 1 << 24
"""Numbers that are gathered at once."""


def mean_cosine(rows: np.ndarray) -> float:
    """Mean cosine of the pairs of two or more unit rows."""
    return float(_of_sums(rows.sum(axis=0, dtype=np.float64)[None], len(rows))[0])


def p_by_random_groups(rows: np.ndarray, sizes: Sequence[int], found: np.ndarray, seed: int) -> np.ndarray:
    """Share of random groups of as many rows whose mean cosine is at least as large, the group itself among them.

    Args:
        rows: float32, (n, width), of norm 1.
        sizes: Rows of each group.
        found: float64, (groups,): their mean cosines.
    """
    null = {size: _random_groups(rows, size, seed) for size in sorted(set(sizes))}
    pairs = zip(sizes, found, strict=True)
    return np.array([(1 + int((null[size] >= value).sum())) / (1 + GROUPS) for size, value in pairs])


def _random_groups(rows: np.ndarray, size: int, seed: int) -> np.ndarray:
    """float64, (GROUPS,): mean cosines of groups of rows drawn without replacement."""
    draw = np.random.default_rng([seed, size])
    found, step = np.empty(GROUPS), max(1, _NUMBERS // (size * rows.shape[1]))
    for start in range(0, GROUPS, step):
        stop = min(start + step, GROUPS)
        chosen = [draw.choice(len(rows), size, replace=False) for _ in range(start, stop)]
        found[start:stop] = _of_sums(rows[np.array(chosen)].sum(axis=1, dtype=np.float64), size)
    return found


def _of_sums(sums: np.ndarray, size: int) -> np.ndarray:
    """Mean cosine of pairs, from the sum of `size` unit rows."""
    return (np.einsum("gd,gd->g", sums, sums) - size) / (size * (size - 1))
