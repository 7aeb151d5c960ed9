"""Seeded rows of two classes and their codes, for probes; the script that asks sae-probes makes the same ones."""

from __future__ import annotations

import numpy as np

SIZES = (10, 60, 400)
KS = (1, 3, 8)
WIDTH, FEATURES, ACTIVE = 16, 48, 5


def weights() -> tuple[np.ndarray, np.ndarray]:
    """An encoder (features, width) and a decoder of unit rows."""
    rows = np.random.default_rng(5).normal(size=(FEATURES, WIDTH)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows, rows


def coded(x: np.ndarray) -> np.ndarray:
    """float32 (n, features): the five largest of relu(W x)."""
    pre = np.maximum(x @ weights()[0].T, 0)
    kept = np.zeros_like(pre)
    order = np.argsort(-pre, axis=1, kind="stable")[:, :ACTIVE]
    np.put_along_axis(kept, order, np.take_along_axis(pre, order, axis=1), axis=1)
    return kept


def probed_rows(n: int) -> tuple[np.ndarray, ...]:
    """x, y, x_test, y_test, and the codes of both; classes differ along one direction, with noise."""
    rng = np.random.default_rng([n, 7])
    axis = rng.normal(size=WIDTH)
    labels = np.arange(n + 80) % 2
    x = (rng.normal(size=(n + 80, WIDTH)) + 0.25 * (2 * labels[:, None] - 1) * axis).astype(np.float32)
    return x[:n], labels[:n], x[n:], labels[n:], coded(x[:n]), coded(x[n:])
