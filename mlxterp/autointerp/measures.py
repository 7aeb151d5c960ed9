"""How well probabilities tell two kinds of windows apart, whatever the judge. Ties count half, so a judge that always
says the same scores exactly what chance gives."""

from __future__ import annotations

import numpy as np


def says_yes(probabilities: np.ndarray) -> np.ndarray:
    """float64: 1 above one half, 0 below, 0.5 at it."""
    return (np.sign(np.asarray(probabilities, dtype=np.float64) - 0.5) + 1) / 2


def balanced(credit: np.ndarray, active: np.ndarray) -> float:
    """Mean of the shares right among active and among inactive items; of those alone that there are. NaN of none.

    Args:
        credit: float64, (items,): 1 where the answer is right, 0 where it is wrong.
        active: bool, (items,).
    """
    shares = [credit[which].mean() for which in (active, ~active) if which.any()]
    return float(np.mean(shares)) if shares else float("nan")


def balanced_interval(
    credit: np.ndarray, active: np.ndarray, seed: int, n: int = 1000
) -> tuple[float, float]:
    """95 % of `balanced`, by drawing active and inactive items again, each among themselves."""
    draw = np.random.default_rng(seed)
    groups = [credit[which] for which in (active, ~active) if which.any()]
    again = [group[draw.integers(0, len(group), (n, len(group)))].mean(axis=1) for group in groups]
    low, high = np.quantile(np.mean(again, axis=0), [0.025, 0.975])
    return float(low), float(high)


def auroc(probabilities: np.ndarray, active: np.ndarray) -> float:
    """How often an active window is above an inactive one; NaN where one of them is missing."""
    if not active.any() or active.all():
        return float("nan")
    above, below = np.asarray(probabilities)[active], np.sort(np.asarray(probabilities)[~active])
    wins = np.searchsorted(below, above, "left") + np.searchsorted(below, above, "right")
    return float(wins.mean() / (2 * len(below)))


def precision(probabilities: np.ndarray, active: np.ndarray) -> float:
    """Share of active windows among those called so; NaN where none was."""
    yes = says_yes(probabilities)
    return float(yes[active].sum() / yes.sum()) if yes.any() else float("nan")


def recall(probabilities: np.ndarray, active: np.ndarray) -> float:
    """Share of the active windows that are called so; NaN where there are none."""
    return float(says_yes(probabilities)[active].mean()) if active.any() else float("nan")


def chosen(probabilities: np.ndarray, right: int) -> float:
    """1 where the largest is the right one, 0 where it is another; among n equals, 1/n. NaN where one is missing."""
    if np.isnan(probabilities).any():
        return float("nan")
    best = np.flatnonzero(probabilities == probabilities.max())
    return 1 / len(best) if right in best else 0.0
