"""How good a cross-layer transcoder is, layer by layer: `CrossLayerEvaluation`, made by `clt.evaluate`.

Each layer's figures are those of an SAE there: y is what its MLP puts out, r what the features of this layer and of all
before it add up to, f the features of this layer alone. One layer is replaced at a time, the others stay live.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..core import checks
from ..core.sites import Component, unique_sites
from ..core.tokens import TokenBatch
from ..errors import SAEError
from ..sae.cross_layer import CrossLayerTranscoder
from ..sae.cross_layer_places import places_in
from ..viz.lines import LinesView, Table
from .evaluation import SAEEvaluation, evaluation_of_sums
from .subject import batches_of, contexts_of
from .sums import Sums, add_rebuilt, check_varies, means_of, real, rows_at


@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class CrossLayerEvaluation(LinesView):
    """Figures of a cross-layer transcoder; `print` and notebooks show a row for each layer.

    Attributes:
        layers: Layer → the figures there: of the reconstruction by all layers up to it, and of its own features (L0,
            density, dead share).
    """

    layers: Mapping[int, SAEEvaluation]

    @property
    def explained_variance(self) -> float:
        """Mean over layers."""
        return float(np.mean([one.explained_variance for one in self.layers.values()]))

    @property
    def l0(self) -> float:
        """Active features of a token in all layers together, on average."""
        return float(sum(one.l0 for one in self.layers.values()))

    def __repr__(self) -> str:
        return f"CrossLayerEvaluation({len(self.layers)} layers)"

    def to_dict(self) -> dict[str, Any]:
        """For JSON: {layer: its figures}."""
        return {str(layer): one.to_dict() for layer, one in self.layers.items()}

    @property
    def _lines(self) -> Sequence[str]:
        tokens = next(iter(self.layers.values())).tokens
        return (
            f"Cross-layer transcoder over {tokens} tokens",
            f"{self.l0:.1f} active features of a token in all layers, explained variance {self.explained_variance:.3f}"
            " on average over layers. One layer is replaced at a time.",
        )

    @property
    def _tables(self) -> Sequence[Table]:
        heads = (
            "layer", "explained", "cosine", "L0", "dead", "loss", "with it", "mean", "recovered of mean", "of zero",
        )  # fmt: skip
        rows = [
            [
                str(layer), f"{one.explained_variance:.3f}", f"{one.cosine:.3f}", f"{one.l0:.1f}",
                f"{one.dead_share:.1%}", f"{one.loss:.3f}", f"{one.loss_with_sae:.3f}", f"{one.loss_mean:.3f}",
                f"{one.loss_recovered_mean:.3f}", f"{one.loss_recovered_zero:.3f}",
            ]
            for layer, one in self.layers.items()
        ]  # fmt: skip
        return (Table(heads, rows),)


def evaluate_layers(
    anatomy: Anatomy, clt: CrossLayerTranscoder, texts: Any, max_tokens: int
) -> CrossLayerEvaluation:
    """Figures of each layer.

    Raises:
        InputError: No texts, or no text of two tokens.
        SAEError: It is of a model of other layers or widths.
        ComponentError: The model has not what it reads or writes.
    """
    if not isinstance(clt, CrossLayerTranscoder):
        raise SAEError(f"Expected a CrossLayerTranscoder, got {type(clt).__name__}.")
    places, targets = places_in(anatomy, clt)
    most = checks.count(max_tokens, "max_tokens", 2)
    contexts = contexts_of(anatomy, clt.metadata, texts, most)
    means = means_of(anatomy, targets, batches_of(contexts))
    sums = [Sums(mean, n) for mean, n in zip(means, clt.d_hidden, strict=True)]
    for batch in batches_of(contexts):
        _add(anatomy, clt, places, targets, batch, sums)
    for one, target in zip(sums, targets, strict=True):
        check_varies(one, target.name)
    found = {
        layer: evaluation_of_sums(place.name, one)
        for layer, (place, one) in enumerate(zip(places, sums, strict=True))
    }
    return CrossLayerEvaluation(layers=found)


def _add(
    anatomy: Anatomy, clt: CrossLayerTranscoder, places: Sequence[Component], targets: Sequence[Component],
    batch: TokenBatch, sums: Sequence[Sums],
) -> None:  # fmt: skip
    run, mask = anatomy.model.run(batch, unique_sites([*places, *targets])), real(batch)
    read = [rows_at(anatomy, place, run, batch)[mask] for place in places]
    features = {layer: clt.encode_sparse(x, layer) for layer, x in enumerate(read)}
    for layer, target in enumerate(targets):
        rebuilt = clt.decode(features, layer, like=read[layer])
        y = rows_at(anatomy, target, run, batch)
        add_rebuilt(anatomy, target, batch, run, sums[layer], y, features[layer], rebuilt)
