"""The layers of a cross-layer transcoder, as an attribution graph takes them: each writes to all layers from it on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..core.sites import Component
from ..core.sparse import SparseFeatures
from ..errors import ComponentError
from ..sae.cross_layer import CrossLayerTranscoder, added
from ..sae.cross_layer_places import places_in
from ..sae.formats import is_cross_layer
from .unrolled import Unrolled


@dataclass(frozen=True, eq=False, slots=True)
class CrossLayerPart:
    """One layer of a cross-layer transcoder, where it stands in the model; see `Transcoder`."""

    clt: CrossLayerTranscoder
    layer: int
    reads: Component
    predicts: Component

    @property
    def name(self) -> str:
        """What files of graphs call it."""
        said = self.clt.metadata.get("name"), Path(str(self.clt.metadata.get("source") or "")).name
        return str(next((name for name in said if name), "cross-layer transcoder"))

    @property
    def fingerprint(self) -> str:
        """Of its features, as an index of `clt.sae(layer)` has it."""
        return self.clt.sae(self.layer).fingerprint

    @property
    def d_hidden(self) -> int:
        """Number of features."""
        return self.clt.layers[self.layer].d_hidden

    @property
    def writes(self) -> tuple[int, ...]:
        """Layers whose MLP outputs its features write to."""
        return tuple(range(self.layer, self.clt.n_layers))

    @property
    def at(self) -> str:
        """Where an edit changes what it predicts."""
        return self.predicts.name

    @property
    def skip(self) -> np.ndarray | None:
        """float32, (d_in, d_out): its skip connection; None without one."""
        return self.clt.layers[self.layer].W_skip

    def encode(self, x: np.ndarray) -> SparseFeatures:
        """Active features of what it reads, (positions, d_in)."""
        return self.clt.encode_sparse(x, self.layer)

    def directions(self, ids: np.ndarray) -> np.ndarray:
        """float32, (n, d_in): what each feature reads, in the units of its activation."""
        return self.clt.layers[self.layer].W_enc.take(ids)

    def written(self, ids: np.ndarray, activations: np.ndarray, layer: int | None = None) -> np.ndarray:
        """float32, (n, d_out): what each feature adds to a layer at these activations; None is its own layer."""
        at = 0 if layer is None else layer - self.layer
        rows = self.clt.layers[self.layer].W_dec.take(ids, at)
        return rows * np.asarray(activations, dtype=np.float32)[:, None]

    def rebuilt(self, found: SparseFeatures, x: np.ndarray, layer: int) -> np.ndarray:
        """float32, (positions, d_out): what its features write to a layer, without a skip connection."""
        one = self.clt.layers[self.layer]
        out = added(one, found, layer - self.layer)
        return out + one.b_dec if layer == self.layer else out


def cross_layer_of(given: Any) -> CrossLayerTranscoder | None:
    """The cross-layer transcoder that is given, itself or as its folder; None where it is something else."""
    if isinstance(given, CrossLayerTranscoder):
        return given
    if isinstance(given, (str, os.PathLike)) and is_cross_layer(given):
        return CrossLayerTranscoder.load(given)
    return None


def parts_of(anatomy: Anatomy, order: Unrolled, clt: CrossLayerTranscoder) -> dict[int, CrossLayerPart]:
    """Layer → its part.

    Raises:
        SAEError: It does not fit the model.
        ComponentError: The model has not what it reads or writes, or runs its layers more than once.
    """
    if order.looped:
        raise ComponentError(
            f"This {order.model_type} model runs layers more than once for each token, so the later layers that a"
            " cross-layer transcoder writes to are not known. Give transcoders of single layers."
        )
    reads, writes = places_in(anatomy, clt)
    return {
        layer: CrossLayerPart(clt, layer, read, written)
        for layer, (read, written) in enumerate(zip(reads, writes, strict=True))
    }
