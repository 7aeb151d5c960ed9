"""A family whose parents and children are known: two SAEs of sixteen dimensions, and activations for them."""

from __future__ import annotations

import numpy as np

from mlxterp import SAE, SAECollection
from mlxterp.variants import ReLU
from mlxterp.weights import SAEWeights

COMPONENT = "layers.1.resid_post"
WIDTH, PARENTS, CHILDREN = 16, 6, 3
NARROW, WIDE = 8, 24
"""The narrow SAE knows eight directions. Of six of them the wide SAE has three children each; six of its features are
along directions that the narrow one lacks."""


def sae_of(rows: np.ndarray, bias: float = -0.4, component: str | None = COMPONENT) -> SAE:
    """An SAE that reads along its own decoder rows."""
    rows = rows.astype(np.float32)
    weights = SAEWeights(
        rows.T.copy(), np.full(len(rows), bias, np.float32), rows, np.zeros(rows.shape[1], np.float32)
    )
    return SAE(weights, ReLU(), {} if component is None else {"component": component})


def parts() -> np.ndarray:
    """(24, 16): the wide SAE's rows. Feature 3 p + i is child i of parent p; from 18 on they are new."""
    axes = np.eye(WIDTH)
    twist = np.array([[1, 0, 0], [-0.5, 0.75**0.5, 0], [-0.5, -(0.75**0.5), 0]])[:, :2]
    rows = [0.8 * axes[p] + 0.6 * (twist[i] @ axes[8:10]) for p in range(PARENTS) for i in range(CHILDREN)]
    return np.array([*rows, *axes[10:16]])


def family() -> SAECollection:
    return SAECollection({NARROW: sae_of(np.eye(NARROW, WIDTH)), WIDE: sae_of(parts(), -0.75)})


def activations(n: int = 4000, seed: int = 0) -> np.ndarray:
    """(n, 16): each token is one wide feature, loud, and a little noise."""
    draw = np.random.default_rng(seed)
    return parts()[draw.integers(0, WIDE, n)] * draw.uniform(1, 2, (n, 1)) + 0.01 * draw.normal(
        size=(n, WIDTH)
    )
