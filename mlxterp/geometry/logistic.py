"""Logistic regression with a penalty on the weights' length, by Newton's method; NumPy only.

The objective is scikit-learn's: C times the sum of the losses, and half the squared length of the weights; the
intercept is free.
"""

from __future__ import annotations

import numpy as np

_STEPS, _SOLVER_STEPS, _HALVINGS = 100, 250, 40
_NEAR = 1e-6
"""The largest entry of the gradient at the end, for each row and unit of C."""


def fit_logistic(x: np.ndarray, labels: np.ndarray, C: float = 1.0) -> tuple[np.ndarray, float]:
    """Weights (width,) and intercept of P(label | x) = 1 / (1 + exp(-(x @ weights + intercept))).

    Args:
        x: (n, width), around 0 and in units near 1.
        labels: bool, (n,), of both classes.
        C: The larger, the less the weights' length costs.
    """
    x = x.astype(np.float64)
    rows = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    penalty = np.append(np.full(x.shape[1], 1 / C), 0.0)
    found = _minimum(rows, np.where(labels, 1.0, -1.0), penalty)
    return found[:-1], float(found[-1])


def _minimum(rows: np.ndarray, signs: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    at = np.zeros(rows.shape[1])
    now = _loss(rows, signs, penalty, at)
    for _ in range(_STEPS):
        off = 1 / (1 + np.exp(np.clip(signs * (rows @ at), -500, 500)))
        gradient = penalty * at - rows.T @ (signs * off)
        if np.abs(gradient).max() <= _NEAR * len(rows):
            break
        step = _newton_step(rows, off * (1 - off), penalty, gradient)
        slope, size = float(gradient @ step), 1.0
        for _ in range(_HALVINGS):
            then = _loss(rows, signs, penalty, at - size * step)
            if then <= now - 1e-4 * size * slope:
                break
            size /= 2
        else:
            break  # no smaller loss within rounding
        at, now = at - size * step, then
    return at


def _loss(rows: np.ndarray, signs: np.ndarray, penalty: np.ndarray, at: np.ndarray) -> float:
    return float(np.logaddexp(0, -signs * (rows @ at)).sum() + (penalty * at * at).sum() / 2)


def _newton_step(
    rows: np.ndarray, curvature: np.ndarray, penalty: np.ndarray, gradient: np.ndarray
) -> np.ndarray:
    """The gradient divided by the Hessian, by conjugate gradients."""
    diagonal = np.maximum(curvature @ rows**2 + penalty, 1e-12)
    step, left = np.zeros_like(gradient), gradient.copy()
    ready = left / diagonal
    way, size = ready.copy(), float(left @ ready)
    enough = 1e-8 * size
    for _ in range(_SOLVER_STEPS):
        pushed = rows.T @ (curvature * (rows @ way)) + penalty * way
        along = size / max(float(way @ pushed), 1e-300)
        step += along * way
        left -= along * pushed
        ready = left / diagonal
        after = float(left @ ready)
        if after <= enough:
            break
        way, size = ready + after / size * way, after
    return step
