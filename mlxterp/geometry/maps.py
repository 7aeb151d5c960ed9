"""`DecoderMap`: a map of decoder rows; it is shown, searched for clusters, and kept beside an index.

`decoder_map` makes it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..core import checks
from ..errors import InputError
from ..index import FeatureIndex
from . import map_files
from .clusters import Clusters, find_clusters
from .decoder_rows import decoder_rows, distinct_rows
from .map_labels import score_numbers
from .placed_rows import PlacedRows


@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class DecoderMap(PlacedRows):
    """Decoder rows as points of a map. Made by `decoder_map`; `to_html` writes a page to explore it, offline.

    Attributes:
        coordinates: float32, (n, 2).
        width: int64, (n,): of each point's SAE.
        feature_id: int64, (n,).
        nearness: float64, (n,): mean cosine with the row's nearest: where the dictionary is dense.
        labels: Of each point; "" where it has none.
        tokens: The tokens that each row promotes most; () where no model was given.
        scores: {name: float64, (n,)}; NaN where a point has none.
        kept: Share of a row's nearest that are among its nearest on the map.
        dead: Rows of zeros, which are not on the map, by width.
        copies: Points that stand with another of the same direction.
        method: "umap", "tsne" or "pca".
        n_neighbors: Nearest rows of each.
        min_dist: Of UMAP.
        seed: Of method and control.
        component: Path of the component that the SAEs read; None where it is not known.
        fingerprints: Of the SAEs, by width.
        distinct: The rows; None for a map that was loaded without its SAEs.
    """

    def with_scores(self, scores: Mapping[str, Any]) -> DecoderMap:
        """The same map with more to colour by.

        Args:
            scores: {name: values}, one for each point.

        Raises:
            InputError: They are of another number.
        """
        if not isinstance(scores, Mapping):
            raise InputError(f"scores is {{name: values}}, got {type(scores).__name__}.")
        found = {}
        for name, values in scores.items():
            found[str(name)] = array = score_numbers(values, str(name))
            if array.shape != (len(self),):
                raise InputError(
                    f"The score {name!r} has shape {array.shape}; the map has {len(self)} points."
                )
        return replace(self, scores={**self.scores, **found})

    def clusters(
        self, min_cluster_size: int = 3, dims: int = 10, min_dist: float = 0.1, *, control: bool = True,
        draws: int | None = None,
    ) -> Clusters:  # fmt: skip
        """Clusters of the rows by HDBSCAN, in `dims` dimensions, beside those of covariance-matched random rows.

        The dimensions are UMAP's for a map by UMAP, else PCA's (t-SNE has none beyond three). min_samples is
        min_cluster_size + 1, since scikit-learn counts a point among its own neighbours: so the clusters are those of
        the `hdbscan` package. Random rows have about as many clusters: their number alone is no finding.

        Args:
            min_cluster_size: Rows of a cluster, at least.
            min_dist: Of UMAP.
            control: Whether random rows are clustered too.
            draws: Of them; None takes 20 up to 4,096 rows, and beyond so many that they are 81,920 rows together, at
                least 3 (each costs a layout).

        Raises:
            BackendError: scikit-learn is not installed, or umap-learn for a map by UMAP.
            InputError: The map was loaded without its SAEs, or there are fewer rows than a cluster has.
        """
        size, dims = checks.count(min_cluster_size, "min_cluster_size", 2), checks.count(dims, "dims")
        min_dist = checks.finite(min_dist, "min_dist", 0, 1)
        if self.distinct is None:
            raise InputError("This map was loaded without its SAEs. Give them: DecoderMap.load(path, saes).")
        return find_clusters(
            self, self.distinct, size, dims, min_dist, checks.flag(control, "control"), draws
        )

    def save(self, where: FeatureIndex | str | os.PathLike) -> Path:
        """Writes the map beside an index of one of its SAEs, or into a folder, whole or not at all.

        Returns:
            The file, `map.safetensors`. A map that was there is replaced.

        Raises:
            InputError: The index is of an SAE that is not on this map.
            WriteError: Nothing can be written there; what was there is unchanged.
        """
        return map_files.write(self, where)

    @staticmethod
    def load(where: FeatureIndex | str | os.PathLike, saes: Any = None) -> DecoderMap:
        """The map that `save` wrote beside an index or into a folder.

        Args:
            saes: The SAEs that it was made of, as `decoder_map` takes them; without them it can be shown, but no
                clusters found in it.

        Raises:
            InputError: There is no map, or it is of other SAEs.
            FeatureIndexError: The file is damaged.
        """
        found = DecoderMap(**map_files.read(where), distinct=None)
        if saes is None:
            return found
        rows = decoder_rows(saes)
        if {width: sae.fingerprint for width, sae in rows.saes.items()} != dict(found.fingerprints):
            raise InputError(
                f"The map is of SAEs of widths {found.widths}, and not of these: fingerprints differ."
            )
        return replace(found, distinct=distinct_rows(rows.rows, found.n_neighbors))
