"""Transcoders as circuit-tracer stores them: `layer_<L>.safetensors` for each layer, and one `config.yaml`.

What is active stands in the layer's file: a threshold makes JumpReLU, `k` TopK, neither ReLU. A release that does not
know `k` refuses such a file, as it has one array too many, and does not take it for ReLU.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ...anatomy.names import hook_name
from ...errors import SAEError, warn
from ...variants import JumpReLU, ReLU, TopK
from .fold import without_subtraction
from .own import as_float16
from .parts import Parts, Stored

CONFIG = "config.yaml"
_MARK = "# Written by mlxterp, in the layout of circuit-tracer."
_LAYER_FILE = re.compile(r"layer_\d+\.safetensors")
_HINT = "Save it with format='mlxterp'."

Settings = dict[str, Any]


def stored(sae: Parts, dtype: str) -> Stored:
    """The files of one layer's transcoder.

    Raises:
        SAEError: It is no transcoder of one layer, circuit-tracer cannot compute it, or a weight lies outside
            float16's range.
    """
    layer, settings, arrays = _layer(sae, dtype)
    return Stored(_name(layer), arrays, {CONFIG: _yaml(settings)})


def stored_set(saes: Iterable[Parts], dtype: str) -> Iterable[Stored]:
    """The files of each layer's transcoder, and at last, in the last one's, those of all.

    Raises:
        SAEError: As `stored` says; or two are of one layer, or differ in what one `config.yaml` says of all.
    """
    said: Settings = {}
    widths: dict[int, int] = {}
    last: Stored | None = None
    for sae in saes:
        layer, settings, arrays = _layer(sae, dtype)
        if layer in widths:
            raise SAEError(
                f"Two transcoders are of layer {layer}. Choose one for each layer with collection.where(…)."
            )
        if said and said != settings:
            name = next(n for n in {**said, **settings} if said.get(n) != settings.get(n))
            raise SAEError(
                f"Transcoders of one {CONFIG} agree in {name}: layer {layer} has {settings.get(name)!r}, those before"
                f" have {said.get(name)!r}. Save them with format='mlxterp'."
            )
        said, widths[layer] = settings, sae.d_hidden
        if last is not None:
            yield last
        last = Stored(_name(layer), arrays, {})
    if last is not None:
        _warn_of_gaps(widths)
        yield Stored(last.weights, last.arrays, {CONFIG: _yaml(said)})


def is_ours(folder: Path) -> bool:
    """Whether a folder holds what was written here, and nothing else."""
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if CONFIG not in names or any(n != CONFIG and not _LAYER_FILE.fullmatch(n) for n in names):
        return False
    with (folder / CONFIG).open("rb") as file:
        return file.read(len(_MARK)) == _MARK.encode()


def _name(layer: int) -> str:
    return f"layer_{layer}.safetensors"


def _warn_of_gaps(widths: dict[int, int]) -> None:
    if sorted(widths) != list(range(len(widths))) or len(set(widths.values())) > 1:
        warn(
            "circuit-tracer opens sets with a transcoder for each layer from 0 on, all equally wide; this one has"
            f" layers {sorted(widths)} with {sorted(set(widths.values()))} features. mlxterp opens it."
        )


def _layer(sae: Parts, dtype: str) -> tuple[int, Settings, dict[str, np.ndarray]]:
    """Number of the layer, what `config.yaml` says of it, and the arrays of its file."""
    layer, reads, predicts = _hooks(sae)
    if not sae.form.trivial or "value_scale" in sae.weights.extra:
        raise SAEError(
            f"circuit-tracer has no transcoder that normalises its input or scales features. {_HINT}"
        )
    if sae.names:
        warn(
            f"circuit-tracer's folders have no place for names: those of {len(sae.names)} features are not saved with"
            " this transcoder. sae.concepts.export_json(path) writes them; names=False says that they are not wanted."
        )
    weights = without_subtraction(sae.weights)
    activation, extra = _activation(sae)
    weights = as_float16(weights) if dtype == "float16" else weights
    if "threshold" in weights.extra:
        extra["activation_function.threshold"] = np.maximum(weights.extra["threshold"], 0)
    if "W_skip" in weights.extra:
        extra["W_skip"] = weights.extra["W_skip"].T
    arrays = {
        "W_enc": weights.W_enc.T, "b_enc": weights.b_enc, "W_dec": weights.W_dec, "b_dec": weights.b_dec, **extra
    }  # fmt: skip
    settings = {
        "model_name": sae.metadata.get("model"), "model_kind": "transcoder_set", "feature_input_hook": reads,
        "feature_output_hook": predicts, **activation,
    }  # fmt: skip
    return layer, {name: value for name, value in settings.items() if value is not None}, arrays


def _hooks(sae: Parts) -> tuple[int, str, str]:
    """The layer, and what circuit-tracer calls the places that are read and predicted."""
    found = []
    for name in ("component", "component_out"):
        component = sae.metadata.get(name)
        hook = hook_name(component) if isinstance(component, str) else None
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook or "")
        if block is None or str(component).endswith(".mlp"):
            raise SAEError(
                f"A transcoder of circuit-tracer predicts what a layer's MLP adds to the stream (mlp_out) of what it"
                f" reads (mlp.input); the metadata of this SAE say {name} {component!r}. {_HINT}"
            )
        found.append((int(block[1]), block[2]))
    (layer, reads), (other, predicts) = found
    if layer != other:
        raise SAEError(
            f"It reads layer {layer} and predicts layer {other}; circuit-tracer has no such transcoder."
        )
    return layer, reads, predicts


def _activation(sae: Parts) -> tuple[Settings, dict[str, np.ndarray]]:
    """What `config.yaml` says of it, and the arrays that say it in the file."""
    activation = sae.activation
    if isinstance(activation, ReLU):
        return {"activation": "relu"}, {}
    if isinstance(activation, JumpReLU):
        return {"activation": "jump_relu"}, {}
    if isinstance(activation, TopK):
        if activation.relu:
            warn(
                f"circuit-tracer's TopK keeps the k largest of a token with their sign: where fewer than {activation.k}"
                " are positive, features there are negative which here are 0. Train with architecture='batchtopk' for"
                " features that are the same in both."
            )
        return {"activation": "topk", "k": activation.k}, {"k": np.array(activation.k, np.int64)}
    raise SAEError(f"circuit-tracer has no {activation.name} features. {_HINT}")


def _yaml(settings: Settings) -> str:
    """Texts and numbers as YAML, whose texts may be written as JSON's."""
    lines = [f"{name}: {json.dumps(value)}" for name, value in settings.items()]
    return "\n".join([_MARK, *lines, ""])
