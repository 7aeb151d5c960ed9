"""`decoder_map`: the decoder rows of one SAE, or of several widths together, as points of a map.

After Templeton et al., "Scaling Monosemanticity" (2024), and Bricken et al., "Towards Monosemanticity" (2023). On a
map of two dimensions most neighbours of a row are lost; the share that is kept is measured and printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..anatomy.session import Model
from ..core import checks
from ..core.options import names_options
from ..index import FeatureIndex
from .decoder_rows import DecoderRows, decoder_rows, distinct_rows
from .layouts import METHODS, Method, kept_neighbours, layout
from .map_labels import labels_of, scores_of, tokens_of
from .maps import DecoderMap


@names_options
def decoder_map(
    saes: Any, labels: Any = None, model: Model | None = None, method: Method = "umap", n_neighbors: int = 15,
    min_dist: float = 0.05, seed: int = 0, *, scores: Mapping[str, Any] | None = None,
) -> DecoderMap:  # fmt: skip
    """A map of decoder rows by cosine: rows that point the same way stand together.

    Dead rows (zeros) are left out and counted; rows that are copies of others stand with them. The same rows, arguments
    and seed give the same map, bit for bit on one machine.

    Args:
        saes: An SAE, an `SAECollection` of widths, or a dict or list of SAEs of one component.
        labels: {(width, feature): text}; for one SAE also {feature: text}, a `FeatureRegistry` or a `FeatureIndex`; or
            {width: any of these}. Indexes also bring the score "log10 density", the share of tokens where a feature is
            active. None takes the names in `sae.concepts`.
        model: Brings the ten tokens that each row promotes most.
        method: "umap" (umap-learn, of the extra `umap`), "tsne" (scikit-learn) or "pca", which needs nothing.
        n_neighbors: Nearest rows by which the share that is kept is measured; UMAP takes as many with the row itself,
            t-SNE as perplexity.
        min_dist: Least distance of points, by UMAP; in [0, 1].
        seed: Of the method and the control.
        scores: {name: values} to colour by: one for each feature (of all widths one after the other), or {name:
            {width: values}}.

    Raises:
        InputError: There are no more distinct rows than neighbours, a row is not finite, or an argument is out of its
            range.
        SAEError: The SAEs are of several components.
        BackendError: The method's library is not installed.

    Examples:
        >>> from mlxterp import geometry
        >>> drawn = geometry.decoder_map(sae, {ball: "ball"}, method="pca")
        >>> drawn.coordinates.shape, drawn.labels[ball], drawn.kept.value > 2 * drawn.kept.control_mean
        ((2048, 2), 'ball', True)
    """
    method = checks.choice(method, "method", METHODS)
    n_neighbors, min_dist = (
        checks.count(n_neighbors, "n_neighbors", 2),
        checks.finite(min_dist, "min_dist", 0, 1),
    )
    seed = checks.seed(seed)
    found = decoder_rows(saes)
    known = labels_of(found, labels)
    values = {**_densities(found, labels), **scores_of(found, scores)}
    distinct = distinct_rows(found.rows, n_neighbors)
    points = layout(distinct.rows, distinct.neighbours, 2, method, min_dist, seed)
    return DecoderMap(
        coordinates=points[distinct.place], width=found.width, feature_id=found.feature_id,
        nearness=distinct.neighbours.cosines.mean(axis=1)[distinct.place], labels=known,
        tokens=tokens_of(found, model), scores=values, kept=kept_neighbours(distinct.neighbours, points, seed),
        dead=found.dead, copies=len(found.rows) - len(distinct.rows), method=method, n_neighbors=n_neighbors,
        min_dist=min_dist, seed=seed, component=next(iter(found.saes.values())).component,
        fingerprints={width: sae.fingerprint for width, sae in found.saes.items()}, distinct=distinct,
    )  # fmt: skip


def _densities(found: DecoderRows, labels: Any) -> dict[str, np.ndarray]:
    """Log10 of the share of tokens where each feature is active, where indexes say it."""
    given = labels.values() if isinstance(labels, Mapping) else [labels]
    indexes = {one.fingerprint: one for one in given if isinstance(one, FeatureIndex)}
    if not indexes:
        return {}
    shares = {
        width: indexes[sae.fingerprint].summary.count / max(1, indexes[sae.fingerprint].n_tokens)
        for width, sae in found.saes.items()
        if sae.fingerprint in indexes
    }
    with np.errstate(divide="ignore"):
        logs = {width: np.log10(share) for width, share in shares.items()}
    logs = {width: np.where(np.isfinite(log), log, np.nan) for width, log in logs.items()}
    return scores_of(found, {"log10 density": logs})
