"""The transcoders of a model as an attribution graph takes them: one for each layer, or one across all layers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..anatomy.names import hook_component
from ..core.frozen import FrozenPlaces, Hold
from ..core.integers import as_integer
from ..core.places import expanded
from ..core.sites import Component
from ..core.sparse import SparseFeatures
from ..errors import ComponentError, InputError, SAEError, warn
from ..sae import SAE, SAECollection
from ..sae.adapt import adapt, check_width, resolve
from ..sae.members import layer_of
from ..sae.model_names import same_model
from ..sae.pretrained import is_release
from ..sae.pretrained.sets import fetch_set, hub_place
from ..variants import BatchTopK, GroupMax, JumpReLU, ReLU, TopK
from .cross_layer import CrossLayerPart, cross_layer_of, parts_of
from .places import mlp_of, places_of
from .unrolled import Unrolled

_LINEAR = (ReLU, JumpReLU, TopK, BatchTopK, GroupMax)
"""Activations whose active features are as large as their pre-activations."""


@dataclass(frozen=True, eq=False, slots=True)
class Transcoder:
    """One layer's transcoder, where it stands in a pass.

    Attributes:
        sae: The transcoder; of a looped model its metadata names the call that it reads.
        layer: Its layer, as `Unrolled` numbers them.
        reads, predicts: The components, in all calls.
        at: Where an edit changes what it predicts, in this call alone; None where no name says that.
    """

    sae: SAE
    layer: int
    reads: Component
    predicts: Component
    at: str | None

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
    anatomy: Anatomy, order: Unrolled, given: Any, model_name: str | None = None
) -> dict[int, Transcoder] | dict[int, CrossLayerPart]:
    """Layer of the pass → transcoder, ascending; of a cross-layer transcoder each layer's part.

    In a looped model one that names a call ("layers.0.mlp.input#1") stands there alone, any other in all other calls.

    Raises:
        InputError: Nothing that holds transcoders.
        SAEError: One is no transcoder, does not fit, or two are of one layer.
        ComponentError: The model has not what one of them names, or is looped and the transcoder is a cross-layer one.
    """
    given = _brought(given)
    if (clt := cross_layer_of(given)) is not None:
        _tell_of_model(clt.metadata, model_name)
        return parts_of(anatomy, order, clt)
    found: dict[int, Transcoder] = {}
    named: set[int] = set()
    for key, sae in _each(given):
        _tell_of_model(sae.metadata, model_name)
        sae = _named(anatomy, sae, key)
        numbers, of_one_call = _numbers(anatomy, order, sae)
        for number in numbers:
            if number in found and (number in named) == of_one_call:
                raise SAEError(
                    f"Two transcoders are of layer {number}: {found[number].sae!r} and {sae!r}. Give one for each"
                    " layer: collection.where(width=…)."
                )
            if number not in named:
                found[number] = _placed(anatomy, order, sae, number)
        named |= set(numbers) if of_one_call else set()
    if not found:
        raise InputError("transcoders= holds none. Give at least one, as {layer: transcoder}.")
    _check_alike(order, found)
    return dict(sorted(found.items()))


def _brought(given: Any) -> Any:
    """What is given; of the name of a repository the folder that holds its files, or a collection of what it lists."""
    place = None if isinstance(given, str) and is_release(given) else hub_place(given)
    if place is None:
        return given
    found = fetch_set(place)
    return found if isinstance(found, Path) else SAECollection.from_release(str(place))


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
                " transcoders, a CrossLayerTranscoder, or a folder, release or repository of them."
            )
        if not (given := given if isinstance(given, Mapping) else list(given)):
            return
        given = SAECollection(given)
    for key, sae in given.items():
        yield (key if named else None), sae


def _tell_of_model(metadata: Mapping[str, Any], model_name: str | None) -> None:
    said = metadata.get("model")
    if model_name and isinstance(said, str) and not same_model(model_name, said):
        warn(f"This transcoder was trained on {said}, and this model is {model_name}.")


def _named(anatomy: Anatomy, sae: SAE, key: Any) -> SAE:
    """The same with the components that it reads and predicts in its metadata, as this model names them.

    Raises:
        SAEError: It names no layer, or another than its key or its output, or predicts nothing.
        ComponentError: The model has not what it names.
    """
    said, given = as_integer(key), sae.component
    if given is None and said is None:
        raise SAEError(
            f"{sae!r} names no component, so its layer is not known. Give transcoders as {{layer: transcoder}}."
        )
    if given is not None and not sae.is_transcoder:
        raise SAEError(
            f"{sae!r} reconstructs what it reads. A graph takes transcoders, which predict an MLP's output of its"
            " input: train one with model.train_sae(3, texts, 'mlp.input', target='layers.3.mlp_out')."
        )
    name = f"layers.{said}.mlp.input" if given is None else hook_component(given) or given
    reads = resolve(anatomy, sae, name).name
    own = layer_of(reads)
    if own is None or (said is not None and said != own):
        raise SAEError(f"{sae!r} reads {reads}, which is not in layer {key!r}.")
    out = sae.metadata.get("component_out") if given is not None else None
    predicts = (
        _output(anatomy, own)
        if not isinstance(out, str)
        else resolve(anatomy, sae, hook_component(out) or out)
    )
    if layer_of(predicts.name) != own:
        raise SAEError(
            f"{sae!r} reads layer {own} and predicts {predicts.name}. A graph takes those of one layer."
        )
    made = sae.replace()
    made.metadata |= {"component": reads, "component_out": predicts.name}
    return made


def _output(anatomy: Anatomy, layer: int) -> Component:
    """What the MLP of a layer adds."""
    return mlp_of(anatomy, layer) or anatomy.component(f"layers.{layer}.mlp_out")


def _numbers(anatomy: Anatomy, order: Unrolled, sae: SAE) -> tuple[list[int], bool]:
    """The layers of the pass where a transcoder stands, and whether it names one call.

    Raises:
        SAEError: It reads one call and predicts another.
        ComponentError: There is no such call.
    """
    reads, predicts = (anatomy.component(str(sae.metadata[name])) for name in ("component", "component_out"))
    layer, call = layer_of(reads.name), reads.call
    assert layer is not None
    if predicts.call not in (None, call):
        raise SAEError(
            f"{sae!r} reads {reads.name} and predicts {predicts.name}. A graph takes those of one call."
        )
    if call is None:
        return order.of(layer), False
    if (layer, call) not in order.keys:
        calls = len(order.of(layer))
        raise ComponentError(
            f"{reads.name}: there were {calls} calls of layer {layer}, none numbered {call}."
        )
    return [order.number((layer, call))], True


def _placed(anatomy: Anatomy, order: Unrolled, sae: SAE, number: int) -> Transcoder:
    """The transcoder in one layer of the pass."""
    call, names = order.keys[number][1], [str(sae.metadata[name]) for name in ("component", "component_out")]
    reads, predicts = (anatomy.component(name.partition("#")[0]) for name in names)
    at: str | None = predicts.name
    if order.looped:
        source, at = _of_call(reads, call), _of_call(predicts, call)
        sae, at = sae.replace(), at if source is not None else None
        sae.metadata |= {"component": source or reads.name, "component_out": at or predicts.name}
    sae = adapt(anatomy, sae)
    _check(sae)
    check_width(anatomy, sae, anatomy.component(at or predicts.name), gives=True)
    return Transcoder(sae, number, reads, predicts, at)


def _of_call(component: Component, call: int) -> str | None:
    """The name of a component in one call; None where it is no module's input or output."""
    site = component.sites[0]
    if not component.plain or site.port not in ("input", "output"):
        return None
    return f"{site.module}{'.input' if site.port == 'input' else ''}#{call}"


def _check_alike(order: Unrolled, found: Mapping[int, Transcoder]) -> None:
    """Raises SAEError where transcoders of one layer of the model have different places in its calls."""
    first: dict[int, Transcoder] = {}
    for number, one in found.items():
        other = first.setdefault(order.keys[number][0], one)
        if (one.reads.name, one.predicts.name) != (other.reads.name, other.predicts.name):
            raise SAEError(
                f"{other.sae!r} and {one.sae!r} are of two calls of one layer, and read or predict different"
                " components of it. Give transcoders that read and predict the same."
            )


def _check(sae: SAE) -> None:
    """Raises SAEError where a graph cannot be made of such a transcoder."""
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


def missing_layers(anatomy: Anatomy, order: Unrolled, transcoders: Mapping[int, Placed]) -> list[int]:
    """Layers of the pass with an MLP that no transcoder predicts: their whole output is an error node."""
    return [
        number
        for number, (layer, _) in enumerate(order.keys)
        if number not in transcoders and mlp_of(anatomy, layer) is not None
    ]


def frozen_places(
    anatomy: Anatomy, order: Unrolled, transcoders: Mapping[int, Placed], hold: Hold = "all", *, final: bool = False
) -> FrozenPlaces:  # fmt: skip
    """The places of a pass with these transcoders; see `places_of`."""
    layer = {number: order.keys[number][0] for number in transcoders}
    return places_of(
        anatomy,
        {layer[number]: one.reads for number, one in transcoders.items()},
        {layer[number]: one.predicts for number, one in transcoders.items()},
        {order.keys[number]: one.skip for number, one in transcoders.items() if one.skip is not None},
        hold,
        final=final,
    )
