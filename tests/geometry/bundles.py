"""An SAE whose decoder rows lie in tight bundles, and how pure a map's neighbourhoods are."""

from __future__ import annotations

import numpy as np

from mlxterp import SAE
from tests.geometry.families import sae_of

BUNDLES, EACH, SIZE = 20, 16, 48


def bundles(seed: int = 0, spread: float = 0.25) -> SAE:
    """20 bundles of 16 rows; feature f belongs to bundle f % 20."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(BUNDLES, SIZE))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    rows = centres[np.arange(BUNDLES * EACH) % BUNDLES]
    return sae_of(rows + spread * draw.normal(size=rows.shape) / SIZE**0.5)


def purity(points: np.ndarray, groups: np.ndarray, k: int = 10) -> float:
    """Share of the k nearest points that are of the same group."""
    apart = ((points[:, None] - points[None]) ** 2).sum(axis=-1)
    np.fill_diagonal(apart, np.inf)
    near = np.argsort(apart, axis=1)[:, :k]
    return float((groups[near] == groups[:, None]).mean())
