"""Clusters in `geometry.py`: HDBSCAN of decoder rows beside covariance-matched rows."""

from __future__ import annotations

from geometry_given import WIDTHS, Given  # isort: skip  (it brings one_thread)

import numpy as np
from geometry_rows import Row, measured
from sklearn.cluster import HDBSCAN
from umap import UMAP

from mlxterp import geometry
from mlxterp.core.controls import DRAWS, draw_seed
from mlxterp.geometry import Controlled

NEIGHBOURS, DIMS, SMALLEST = 15, 10, 3


def clusters(given: Given) -> dict[str, Row]:
    """How many clusters, and how much is noise."""
    wide = WIDTHS[-1]
    places = {
        f"3M, {wide}": [given.family(s)[wide] for s in given.seeds],
        "demo": [given.demo[1]] * len(given.seeds),
    }
    rows: dict[str, Row] = {}
    for place, saes in places.items():
        counts, clustered = [], []
        for sae, seed in zip(saes, given.seeds, strict=True):
            own = _clusters(sae.W_dec, seed)
            drawn = np.array([
                _clusters(geometry.random_like(sae.W_dec, "covariance", draw_seed(seed, i + 1)), seed)
                for i in range(DRAWS)
            ])  # fmt: skip
            for found, k in ((counts, 0), (clustered, 1)):
                found.append(Controlled(own[k], None, drawn[:, k], "covariance-matched rows", seed))
        rows |= {
            f"{place}: clusters": measured(counts),
            f"{place}: share of features in a cluster": measured(clustered),
        }
    return rows


def _clusters(rows: np.ndarray, seed: int) -> tuple[float, float]:
    """Number of clusters, and share of rows in one, of the rows' 10-dimensional embedding."""
    nearest = geometry.cosine_neighbours(rows, k=NEIGHBOURS - 1)
    known = nearest.ids[:, 0] >= 0
    place = np.cumsum(known) - 1  # rows of zeros are left out
    ids = np.column_stack([np.arange(known.sum()), place[nearest.ids[known]]])
    distances = np.column_stack([np.zeros(known.sum()), np.clip(1 - nearest.cosines[known], 0, None)])
    embedding = UMAP(
        n_neighbors=NEIGHBOURS, n_components=DIMS, min_dist=0.1, metric="cosine", random_state=seed, n_jobs=1,
        precomputed_knn=(ids, distances.astype(np.float32)),
    ).fit_transform(rows[known])  # fmt: skip
    labels = HDBSCAN(min_cluster_size=SMALLEST, min_samples=SMALLEST + 1, copy=True).fit_predict(embedding)
    return float(labels.max() + 1), float((labels >= 0).mean())
