"""Where a cross-layer transcoder stands in a model."""

from __future__ import annotations

from ..anatomy.anatomy import Anatomy
from ..core.sites import Component
from ..errors import SAEError
from .cross_layer import CrossLayerTranscoder


def places_in(anatomy: Anatomy, clt: CrossLayerTranscoder) -> tuple[list[Component], list[Component]]:
    """What each layer reads and writes in this model.

    Raises:
        SAEError: It is of a model of other layers or widths.
        ComponentError: The model has not what it reads or writes.
    """
    layers = len(anatomy.model.layers)
    if clt.n_layers != layers:
        raise SAEError(
            f"{clt!r} is of a model of {clt.n_layers} layers, this {anatomy.model.model_type} model has {layers}. Take"
            " the model that it was trained on."
        )
    reads = [anatomy.component(clt.component(layer)) for layer in range(layers)]
    writes = [anatomy.component(clt.component_out(layer)) for layer in range(layers)]
    for place, width, does in (
        *((place, clt.d_model, "takes") for place in reads),
        *((place, clt.d_out, "gives") for place in writes),
    ):
        if (found := anatomy.width(place)) != width:
            raise SAEError(
                f"{place.name} puts out {found} numbers for each token, and {clt!r} {does} {width}. Take the model"
                " that it was trained on."
            )
    return reads, writes
