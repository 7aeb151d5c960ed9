"""The transcoders of a model as an attribution graph takes them: one for each layer, or one across all layers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..core.integers import as_integer
from ..core.places import expanded
from ..core.sites import Component
from ..core.sparse import SparseFeatures
from ..errors import InputError, SAEError, warn
from ..sae import SAE, SAECollection
from ..sae.adapt import adapt, check_width
from ..sae.members import layer_of
from ..sae.model_names import same_model
from ..sae.pretrained import is_release
from ..variants import BatchTopK, GroupMax, JumpReLU, ReLU, TopK
from .cross_layer import CrossLayerPart, cross_layer_of, parts_of
from .places import mlp_of

_LINEAR = (ReLU, JumpReLU, TopK, BatchTopK, GroupMax)
"""Activations whose active features are as large as their pre-activations."""


@dataclass(frozen=True, eq=False, slots=True)
class Transcoder:
    """One layer's transcoder, where it stands in the model."""

    sae: SAE
    layer: int
    reads: Component
    predicts: Component

    @property
    def name(self) -> str:
        """What files of graphs call it."""
        return str(self.sae.metadata.get("name") or self.sae.fingerprint[:12])

    @property
    def fingerprint(self) -> str:
        """Of its features, as an index of them has it."""
        return self.sae.fingerprint

    @property
    def d_hidden(self) -> int:
        """Number of features."""
        return self.sae.d_hidden

    @property
    def writes(self) -> tuple[int, ...]:
        """Layers whose MLP outputs its features write to."""
        return (self.layer,)

    @property
    def skip(self) -> np.ndarray | None:
        """float32, (d_in, d_out): its skip connection; None without one."""
        return self.sae.weights.extra.get("W_skip")

    def encode(self, x: np.ndarray) -> SparseFeatures:
        """Active features of what it reads, (positions, d_in)."""
        return self.sae.encode_sparse(x)

    def directions(self, ids: np.ndarray) -> np.ndarray:
        """float32, (n, d_in): what each feature reads, in the units of its activation."""
        scale = self.sae.weights.extra.get("value_scale")
        found = self.sae.W_enc.T[ids]
        return found if scale is None else found * scale[ids][:, None]

    def written(self, ids: np.ndarray, activations: np.ndarray, layer: int | None = None) -> np.ndarray:
        """float32, (n, d_out): what each feature adds at these activations; it writes to its own layer only."""
        return self.sae.W_dec[ids] * activations[:, None].astype(np.float32)

    def rebuilt(self, found: SparseFeatures, x: np.ndarray, layer: int) -> np.ndarray:
        """float32, (positions, d_out): what its features write to its layer, without a skip connection."""
        return self.sae.decode(found) if self.skip is None else self.sae.decode(found, like=x) - x @ self.skip


Placed = Transcoder | CrossLayerPart
"""A layer's transcoder of either kind."""


def transcoders_of(
    anatomy: Anatomy, given: Any, model_name: str | None = None
) -> dict[int, Transcoder] | dict[int, CrossLayerPart]:
    """Layer → transcoder, ascending; of a cross-layer transcoder each layer's part.

    Raises:
        InputError: Nothing that holds transcoders.
        SAEError: One is no transcoder, does not fit, or two are of one layer.
        ComponentError: The model has not what one of them names.
    """
    if (clt := cross_layer_of(given)) is not None:
        _tell_of_model(clt.metadata, model_name)
        return parts_of(anatomy, clt)
    found: dict[int, Transcoder] = {}
    for key, sae in _each(given):
        made = _placed(anatomy, sae, key, model_name)
        if made.layer in found:
            raise SAEError(
                f"Two transcoders are of layer {made.layer}: {found[made.layer].sae!r} and {sae!r}. Give one for each"
                " layer: collection.where(width=…)."
            )
        found[made.layer] = made
    if not found:
        raise InputError("transcoders= holds none. Give at least one, as {layer: transcoder}.")
    return dict(sorted(found.items()))


def _each(given: Any) -> Iterator[tuple[Any, SAE]]:
    """Every transcoder with its key: a layer, where a dictionary names one."""
    if isinstance(given, SAE):
        yield None, given
        return
    if isinstance(given, (str, os.PathLike)):
        is_path = expanded(given).exists() or not is_release(str(given))
        given = SAECollection.load(given) if is_path else SAECollection.from_release(str(given))
    named = isinstance(given, Mapping) and not isinstance(given, SAECollection)
    if not isinstance(given, SAECollection):
        if not isinstance(given, Iterable):
            raise InputError(
                f"transcoders= is {type(given).__name__}; expected an SAECollection, {{layer: transcoder}}, a list of"
                " transcoders, a CrossLayerTranscoder, or a folder or release of them."
            )
        if not (given := given if isinstance(given, Mapping) else list(given)):
            return
        given = SAECollection(given)
    for key, sae in given.items():
        yield (key if named else None), sae


def _placed(anatomy: Anatomy, sae: SAE, key: Any, model_name: str | None) -> Transcoder:
    _tell_of_model(sae.metadata, model_name)
    layer = as_integer(key)
    if sae.component is None:
        if layer is None:
            raise SAEError(
                f"{sae!r} names no component, so its layer is not known. Give transcoders as {{layer: transcoder}}."
            )
        sae = adapt(anatomy, _named(sae, layer))
    else:
        sae = adapt(anatomy, sae)
    _check(sae)
    own = layer_of(sae.component)
    if own is None or (layer is not None and layer != own):
        raise SAEError(f"{sae!r} reads {sae.component}, which is not in layer {key!r}.")
    reads, predicts = anatomy.component(str(sae.component)), anatomy.component(_output_of(sae, own))
    check_width(anatomy, sae, predicts, gives=True)
    return Transcoder(sae, own, reads, predicts)


def _tell_of_model(metadata: Mapping[str, Any], model_name: str | None) -> None:
    said = metadata.get("model")
    if model_name and isinstance(said, str) and not same_model(model_name, said):
        warn(f"This transcoder was trained on {said}, and this model is {model_name}.")


def _named(sae: SAE, layer: int) -> SAE:
    """The same with the usual place of a transcoder of this layer in its metadata."""
    made = sae.replace()
    made.metadata |= {"component": f"layers.{layer}.mlp.input", "component_out": f"layers.{layer}.mlp_out"}
    return made


def _output_of(sae: SAE, layer: int) -> str:
    said = sae.metadata.get("component_out")
    found = said if isinstance(said, str) else f"layers.{layer}.mlp_out"
    if layer_of(found) != layer:
        raise SAEError(f"{sae!r} reads layer {layer} and predicts {found}. A graph takes those of one layer.")
    return found


def _check(sae: SAE) -> None:
    """Raises SAEError where a graph cannot be made of such a transcoder."""
    if not sae.is_transcoder:
        raise SAEError(
            f"{sae!r} reconstructs what it reads. A graph takes transcoders, which predict an MLP's output of its"
            " input: train one with model.train_sae(3, texts, 'mlp.input', target='layers.3.mlp_out')."
        )
    if (as_integer(sae.metadata.get("summed_layers")) or 1) > 1:
        raise SAEError(
            f"{sae!r} is one layer of a cross-layer transcoder, with what it writes to several layers in one sum. Give"
            " all of it: mlxterp.CrossLayerTranscoder.load(folder), or the folder's path."
        )
    if not isinstance(sae.activation, _LINEAR):
        known = ", ".join(cls.__name__ for cls in _LINEAR)
        raise SAEError(
            f"The features of {sae!r} are not linear in what it reads where they are active, so there are no edges into"
            f" them. A graph takes {known}."
        )
    if not sae.form.trivial:
        raise SAEError(
            f"{sae!r} normalises what it reads token by token, which a graph does not hold constant. A graph takes"
            " transcoders that read the activations as they are."
        )


def missing_layers(anatomy: Anatomy, transcoders: Mapping[int, Placed]) -> list[int]:
    """Layers with an MLP that no transcoder predicts: their whole output is an error node."""
    layers = range(len(anatomy.model.layers))
    return [n for n in layers if n not in transcoders and mlp_of(anatomy, n) is not None]
