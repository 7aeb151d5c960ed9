"""Features in groups that are active on the same texts (k-means, by scikit-learn)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..core.sparse import SparseFeatures
from ..errors import BackendError, InputError


def matrix_of(by_text: SparseFeatures) -> tuple[np.ndarray, SparseFeatures]:
    """Features active on some text (int64, ascending), and their activations: one row each, texts as columns."""
    features = np.flatnonzero(np.bincount(by_text.indices, minlength=by_text.d_hidden))
    return features, by_text.transpose().take(features)


def matrix_of_top_texts(
    texts: Mapping[int, Sequence[tuple[str, float]]],
) -> tuple[np.ndarray, SparseFeatures]:
    """The same of top texts: what was not kept counts as 0."""
    columns: dict[str, int] = {}
    for pairs in texts.values():
        for text, _ in pairs:
            columns.setdefault(text, len(columns))
    rows = [sorted((columns[text], value) for text, value in texts[f]) for f in texts]
    indptr = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    ids = np.array([column for row in rows for column, _ in row], dtype=np.int32)
    values = np.array([value for row in rows for _, value in row], dtype=np.float32)
    return np.array(list(texts), dtype=np.int64), SparseFeatures(indptr, ids, values, len(columns))


def clusters(features: np.ndarray, matrix: SparseFeatures, n_clusters: int, seed: int) -> dict[int, int]:
    """The cluster of each feature: k-means over rows of length 1; clusters are numbered by their lowest feature.

    Raises:
        InputError: There are fewer features than clusters.
        BackendError: scikit-learn is not installed.
    """
    try:
        from scipy.sparse import csr_matrix
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise BackendError('Clusters need scikit-learn: pip install "mlxterp[clusters]".') from error
    if n_clusters > len(features):
        raise InputError(f"{n_clusters} clusters of {len(features)} active features; ask for fewer.")
    values = matrix.values.astype(np.float64)
    length = np.sqrt(np.bincount(matrix.row_ids, values**2, minlength=matrix.n))
    rows = csr_matrix(
        (values / length[matrix.row_ids], matrix.indices, matrix.indptr), (matrix.n, matrix.d_hidden)
    )
    kmeans = KMeans(n_clusters, n_init=10, random_state=seed)  # pyright: ignore[reportArgumentType]
    number: dict[int, int] = {}
    labels = (number.setdefault(label, len(number)) for label in kmeans.fit_predict(rows).tolist())
    return dict(zip(features.tolist(), labels, strict=True))
