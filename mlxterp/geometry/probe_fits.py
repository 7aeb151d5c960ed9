"""Logistic probes whose regularisation is chosen on the rows that are fitted, by scikit-learn.

The choice is that of sae-probes 0.4 (Kantamneni et al. 2025), so that figures can be held beside its tables: ten values
of C from 1e5 to 1e-5; the mean AUC over folds, six from 13 rows on, every pair of rows below; from 128 rows on the last
fifth, at most 100 rows, is the one fold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import BackendError

STRENGTHS = np.logspace(5, -5, 10)
_SEED = 42
"""Of folds and of the rows' order in the last fit."""
_PAIRS = 12
_FOLDS = 6
_ONE_FOLD = 128


@dataclass(frozen=True, eq=False, slots=True)
class Fitted:
    """How a probe does on the tested rows.

    Attributes:
        accuracy: Share of rows that are told right.
        auc: Area under the curve.
        f1: Mean of both classes' F1, weighted by their rows.
        val_auc: By which C was chosen; NaN where nothing was.
        C: Inverse strength of the regularisation; NaN where nothing was fitted.
        says: bool, (rows,): what the probe says of each.
    """

    accuracy: float
    auc: float
    f1: float
    val_auc: float
    C: float
    says: np.ndarray

    @staticmethod
    def of(score: np.ndarray, says: np.ndarray, labels: np.ndarray, val_auc: float, C: float) -> Fitted:
        """From the scores of the tested rows, and what is said of them."""
        metrics = _sklearn().metrics
        return Fitted(
            accuracy=float((says == labels).mean()), auc=float(metrics.roc_auc_score(labels, score)),
            f1=float(metrics.f1_score(labels, says, average="weighted")), val_auc=val_auc, C=C, says=says,
        )  # fmt: skip


def chosen_fit(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> Fitted:
    """A probe with the C that tells held-out training rows apart best; of equal ones the weakest regularisation.

    A C whose probe calls no more of the fitted rows right than naming the larger class is passed over where another
    does: AUC asks for an order only, which weights near 0 give too.
    """
    folds = list(_folds(x, y))
    aucs = [float(np.mean([_auc(C, x, y, *fold) for fold in folds])) for C in STRENGTHS]
    ranked = np.argsort(-np.array(aucs), kind="stable")
    best = next((int(i) for i in ranked if _tells(_fit(float(STRENGTHS[i]), x, y), x, y)), int(ranked[0]))
    found = fitted_at(float(STRENGTHS[best]), x, y, x_test, y_test)
    return Fitted(found.accuracy, found.auc, found.f1, aucs[best], found.C, found.says)


def fitted_at(C: float, x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> Fitted:
    """A probe of a given C."""
    probe = _fit(C, x, y)
    return Fitted.of(
        probe.predict_proba(x_test)[:, 1], np.asarray(probe.predict(x_test), bool), y_test, float("nan"), C
    )


def _fit(C: float, x: np.ndarray, y: np.ndarray) -> Any:
    order = np.random.RandomState(_SEED).permutation(len(x))
    return _probe(C).fit(x[order], y[order])


def _tells(probe: Any, x: np.ndarray, y: np.ndarray) -> bool:
    """Whether a probe calls more of the fitted rows right than naming the larger class would."""
    return bool((probe.predict(x) == y).mean() > max(y.mean(), 1 - y.mean()))


def _folds(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows to fit, rows to ask) of each fold; those that ask of one class only are left out."""
    n, selection = len(x), _sklearn().model_selection
    smallest = int(min(y.sum(), len(y) - y.sum()))
    held = np.arange(n - min(int(0.2 * n), 100), n)
    if n >= _ONE_FOLD and len(np.unique(y[held])) == 2:
        yield np.arange(held[0]), held
        return
    if n <= _PAIRS or smallest < 2:
        folds = selection.LeavePOut(2)
    else:
        folds = selection.StratifiedKFold(min(_FOLDS, smallest), shuffle=True, random_state=_SEED)
    for fit, asked in folds.split(x, y):
        if len(np.unique(y[asked])) == 2:
            yield fit, asked


def _auc(C: float, x: np.ndarray, y: np.ndarray, fit: np.ndarray, held: np.ndarray) -> float:
    if len(np.unique(y[fit])) < 2:
        return 0.5
    probe = _probe(C).fit(x[fit], y[fit])
    return float(_sklearn().metrics.roc_auc_score(y[held], probe.predict_proba(x[held])[:, 1]))


def _probe(C: float) -> Any:
    return _sklearn().linear_model.LogisticRegression(C=C, random_state=_SEED, max_iter=1000)


def _sklearn() -> Any:
    """scikit-learn with the parts that are used.

    Raises:
        BackendError: It is not installed.
    """
    try:
        import sklearn.linear_model
        import sklearn.metrics
        import sklearn.model_selection
    except ImportError as error:
        raise BackendError('Sparse probing needs scikit-learn: pip install "mlxterp[probing]".') from error
    return sklearn
