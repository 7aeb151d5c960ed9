"""Places of rows in few dimensions: UMAP or t-SNE, which are optional, or PCA, which needs nothing.

UMAP is given exact neighbours, so that no search of its own stands between rows and map. Every method is
deterministic: the same rows and seed give the same numbers on one machine.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np

from ..core import checks
from ..core.controls import DRAWS, Controlled, bootstrap
from ..errors import BackendError, InputError
from .neighbours import Neighbours

Method = Literal["umap", "tsne", "pca"]
METHODS: tuple[Method, ...] = ("umap", "tsne", "pca")
CALLED = {"umap": "UMAP", "tsne": "t-SNE", "pca": "PCA"}
_MOST_TSNE = 3
"""Dimensions that t-SNE's fast form has at most."""
_MEASURED = 4096
"""Points whose neighbours on the map are looked up at most."""
_CELLS = 1 << 24


def layout(
    rows: np.ndarray, near: Neighbours, dims: int, method: Method, min_dist: float, seed: int
) -> np.ndarray:
    """float32, (n, dims): where unit rows (n, width) stand.

    Args:
        near: Neighbours of each row; UMAP counts the row itself among as many.

    Raises:
        BackendError: What the method needs is not installed.
        InputError: It cannot give so many dimensions.
    """
    checks.choice(method, "method", METHODS)
    if method == "pca":
        return _pca(rows, dims)
    state = seed if seed < 2**32 else int(np.random.SeedSequence(seed).generate_state(1)[0])
    with warnings.catch_warnings():  # that no new points can be added, or that a start was drawn at random
        warnings.simplefilter("ignore")
        found = (
            _umap(rows, near, dims, min_dist, state) if method == "umap" else _tsne(rows, near, dims, state)
        )
    return np.ascontiguousarray(found, dtype=np.float32)


def _umap(rows: np.ndarray, near: Neighbours, dims: int, min_dist: float, state: int) -> np.ndarray:
    try:
        import umap
    except ImportError as error:
        raise _missing("umap", "umap-learn") from error
    k = near.ids.shape[1]
    ids = np.column_stack([np.arange(len(rows)), near.ids[:, : k - 1]]).astype(np.int32)
    apart = np.column_stack([np.zeros(len(rows)), 1 - near.cosines[:, : k - 1]]).clip(0, 2).astype(np.float32)
    fitted = umap.UMAP(
        n_components=dims, n_neighbors=k, min_dist=min_dist, metric="cosine", random_state=state, n_jobs=1,
        precomputed_knn=(ids, apart), force_approximation_algorithm=True,
    )  # fmt: skip
    return np.asarray(fitted.fit_transform(rows))


def _tsne(rows: np.ndarray, near: Neighbours, dims: int, state: int) -> np.ndarray:
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise _missing("tsne", "scikit-learn") from error
    if dims > _MOST_TSNE:
        raise InputError(f"t-SNE gives at most {_MOST_TSNE} dimensions, {dims} were asked for.")
    perplexity = min(float(near.ids.shape[1]), (len(rows) - 1) / 3)
    return np.asarray(TSNE(dims, perplexity=perplexity, random_state=state, n_jobs=1).fit_transform(rows))


def _pca(rows: np.ndarray, dims: int) -> np.ndarray:
    most = min(rows.shape)
    if dims > most:
        raise InputError(
            f"PCA of {rows.shape[0]} rows of width {rows.shape[1]} gives at most {most} dimensions."
        )
    centred = rows - rows.mean(axis=0, dtype=np.float64)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, : -dims - 1 : -1]
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.where(axes[largest, np.arange(dims)] < 0, -1, 1)  # else their signs would be chance
    return np.ascontiguousarray(centred @ axes, dtype=np.float32)


def _missing(method: str, package: str) -> BackendError:
    return BackendError(
        f'method="{method}" needs {package}: pip install "mlxterp[umap]". method="pca" needs nothing.'
    )


def kept_neighbours(near: Neighbours, coordinates: np.ndarray, seed: int) -> Controlled:
    """Share of a row's k neighbours that are among its k nearest on the map, mean over rows (at most 4096 of them).

    The control deals the points out anew.
    """
    n, k = near.ids.shape
    draw = np.random.default_rng([seed, n])
    measured = np.arange(n) if n <= _MEASURED else np.sort(draw.choice(n, _MEASURED, replace=False))
    shown = _nearest(coordinates.astype(np.float64), measured, k)
    dealt = [draw.permutation(n) for _ in range(DRAWS)]
    own = _shared(near.ids[measured], shown)
    control = [_shared(near.ids[deal[measured]], deal[shown]).mean() for deal in dealt]
    return Controlled(
        float(own.mean()), bootstrap(own, seed=seed), np.array(control), "points dealt out anew", seed
    )


def _nearest(points: np.ndarray, which: np.ndarray, k: int) -> np.ndarray:
    """int64, (len(which), k): the nearest other points of some of them."""
    found = np.empty((len(which), k), dtype=np.int64)
    lengths = np.einsum("nd,nd->n", points, points)
    step = max(1, _CELLS // len(points))
    for start in range(0, len(which), step):
        part = which[start : start + step]
        apart = lengths[part, None] + lengths - 2 * points[part] @ points.T
        apart[np.arange(len(part)), part] = np.inf
        found[start : start + step] = np.argpartition(apart, k - 1, axis=1)[:, :k]
    return found


def _shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Share of each row of ids that is in the same row of the others."""
    both: Any = np.sort(np.concatenate([a, b], axis=1), axis=1)
    return (both[:, 1:] == both[:, :-1]).sum(axis=1) / a.shape[1]
