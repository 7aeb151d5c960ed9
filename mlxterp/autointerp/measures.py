"""How well answers tell two kinds of windows apart, whatever the judge. Ties count half, so a judge that always says
the same scores exactly what chance gives.

A `Figure` is one of these measures over some items, as a function of how much each item weighs. So the score, its
interval (items drawn again), each draw, each tenth of ranks and the weighting by importance are the same sum.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Figure = Callable[[np.ndarray], np.ndarray]
"""Weights (n, items) → the figure under each, (n,): NaN where there is nothing to measure."""
_RESAMPLES = 1000


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


def balanced_figure(credit: np.ndarray, active: np.ndarray) -> Figure:
    """As `balanced`."""
    groups = [which for which in (active, ~active) if which.any()]

    def figure(weights: np.ndarray) -> np.ndarray:
        shares = [_mean(weights[:, which], credit[which]) for which in groups]
        return _row_means(shares, len(weights))

    return figure


def auroc_figure(given: np.ndarray, active: np.ndarray) -> Figure:
    """How often an active window is above an inactive one."""
    above, below = given[active][:, None], given[~active][None]
    wins = (above > below) + (above == below) / 2

    def figure(weights: np.ndarray) -> np.ndarray:
        one, other = weights[:, active], weights[:, ~active]
        pairs = one.sum(axis=1) * other.sum(axis=1)
        won = ((one @ wins) * other).sum(axis=1)
        return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)

    return figure


def precision_figure(yes: np.ndarray, active: np.ndarray) -> Figure:
    """Precision where active and inactive windows count as much: recall / (recall + false alarms).

    One half where nothing was called active, as a judge gets that knows nothing.
    """

    def figure(weights: np.ndarray) -> np.ndarray:
        if not active.any() or active.all():
            return np.full(len(weights), np.nan)
        hits, alarms = _mean(weights[:, active], yes[active]), _mean(weights[:, ~active], yes[~active])
        called = hits + alarms
        found = np.divide(hits, called, out=np.full(len(weights), 0.5), where=called > 0)
        return np.where(np.isnan(called), np.nan, found)

    return figure


def correlation_figure(told: list[np.ndarray], true: list[np.ndarray]) -> Figure:
    """Pearson's correlation over the tokens of all items; 0 where all that was told is the same.

    Args:
        told, true: (tokens,) of each item.
    """
    sums = np.array(
        [(len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y) for x, y in zip(told, true, strict=True)],
        dtype=np.float64,
    ).reshape(len(told), 6)

    def figure(weights: np.ndarray) -> np.ndarray:
        n, x, y, xx, yy, xy = (weights @ sums).T
        with np.errstate(divide="ignore", invalid="ignore"):
            about, of_told, of_true = xy - x * y / n, xx - x * x / n, yy - y * y / n
            found = about / np.sqrt(of_told * of_true)
        found = np.where(of_told <= _NOTHING * np.maximum(xx, 1e-300), 0.0, found)
        return np.where((n > 0) & (of_true > _NOTHING * yy), np.clip(found, -1, 1), np.nan)

    return figure


_NOTHING = 1e-12
"""Of the squares' sum: less variance than that is rounding."""


def interval(figure: Figure, active: np.ndarray, seed: int) -> tuple[float, float] | None:
    """95 % of a figure, by drawing active and inactive items again, each among themselves; None where there is none."""
    draw = np.random.default_rng(seed)
    weights = np.zeros((_RESAMPLES, len(active)))
    for which in (np.flatnonzero(active), np.flatnonzero(~active)):
        if len(which):
            weights[:, which] = draw.multinomial(len(which), np.full(len(which), 1 / len(which)), _RESAMPLES)
    found = figure(weights)
    if np.isnan(found).all():
        return None
    low, high = np.nanquantile(found, [0.025, 0.975])
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


def _mean(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weighted mean of each row; NaN where nothing weighs."""
    total = weights.sum(axis=1)
    return np.divide(weights @ values, total, out=np.full(len(weights), np.nan), where=total > 0)


def _row_means(shares: list[np.ndarray], n: int) -> np.ndarray:
    """Mean of those that are there, row by row."""
    table = np.array(shares).reshape(len(shares), n)
    there = ~np.isnan(table)
    counts = there.sum(axis=0)
    return np.divide(np.nansum(table, axis=0), counts, out=np.full(n, np.nan), where=counts > 0)
