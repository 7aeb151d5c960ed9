"""Whole cross-layer transcoders: circuit-tracer's folder of `W_enc_L` and `W_dec_L`, and Gemma Scope 2's of
`params_layer_L`. Encoders and decoders stay in the files; `SAE.load` reads the features of one layer alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ...anatomy.names import hook_component, hook_name
from ...errors import SAEError
from ..cross_layer_weights import CrossLayerWeights, FeatureRows
from . import circuit_tracer, gemma
from .settings import Settings
from .source import Files

_TRACER = re.compile(r"W_enc_(0|[1-9]\d{0,5})\.safetensors")
_GEMMA = re.compile(r"params_layer_(0|[1-9]\d{0,5})\.safetensors")
_SHOWN = 8


@dataclass(frozen=True, eq=False, slots=True)
class CrossLayerParts:
    """A cross-layer transcoder, taken apart.

    Attributes:
        layers: Of each layer, from 0 on.
        reads, writes: The part of a layer that its features read, and that they write to.
        metadata: What else the files say.
    """

    layers: Sequence[CrossLayerWeights]
    reads: str
    writes: str
    metadata: dict[str, Any]


def layers_of(names: frozenset[str], least: int = 2) -> list[int]:
    """Numbers of the layers whose files these are, ascending; none where there are fewer than `least`.

    A folder of one layer is an SAE, that layer's features.
    """
    for pattern in (_TRACER, _GEMMA):
        found = sorted(int(match[1]) for name in names if (match := pattern.fullmatch(name)))
        if len(found) >= least:
            return found
    return []


def read_layers(files: Files) -> CrossLayerParts:
    """All layers of the folder.

    Raises:
        SAEError: A layer is missing, or they do not belong together.
    """
    numbers = layers_of(files.names, 1)
    if missing := [n for n in range(numbers[-1] + 1) if n not in numbers]:
        raise SAEError(
            f"{files.folder} lacks layer{'s' * (len(missing) > 1)} {_listed(missing)} of a cross-layer transcoder. What"
            " a layer's MLP puts out is the sum of all layers before it, so all are needed: get their files too."
        )
    tracer = any(_TRACER.fullmatch(name) for name in files.names)
    read = _tracer_layers if tracer else _gemma_layers
    return read(files, len(numbers))


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:_SHOWN])) + (", …" if len(numbers) > _SHOWN else "")


def _tracer_layers(files: Files, n: int) -> CrossLayerParts:
    config = circuit_tracer.config_of(files, "cross_layer_transcoder")
    layers = [circuit_tracer.layer_weights(files, layer, config) for layer in range(n)]
    found = circuit_tracer.metadata_of(config, "layer_0.", "hook_resid_mid")
    return CrossLayerParts(
        layers, _leaf(found.pop("component")), _leaf(found.pop("component_out")), _kept(found)
    )


def _gemma_layers(files: Files, n: int) -> CrossLayerParts:
    config = files.config("config.json") if "config.json" in files.names else Settings({})
    gemma.check_config(config)
    layers = []
    for layer in range(n):
        name = f"params_layer_{layer}.safetensors"
        arrays = files.arrays(name)
        a = arrays.take({"b_enc": "n", "b_dec": "out", "threshold": "n"})
        sizes = {"n": a["b_enc"].size, "out": a["b_dec"].size}
        encoder = FeatureRows(arrays.stored("w_enc", "d n", sizes), f"w_enc of {arrays.path}", by_column=True)
        decoder = arrays.stored("w_dec", "n layers out", sizes)
        before = layer if decoder.shape[1] == n else 0  # it may hold zeros for the layers before its own
        skip = arrays.take({"affine_skip_connection": "d out"})["affine_skip_connection"] if (
            "affine_skip_connection" in arrays
        ) else None  # fmt: skip
        layers.append(
            CrossLayerWeights(
                encoder, a["b_enc"], FeatureRows(decoder, f"w_dec of {arrays.path}", first=before), a["b_dec"],
                a["threshold"], skip,
            )
        )  # fmt: skip
    found = gemma.metadata_of(config, files, "params_layer_0.safetensors")
    reads, writes = found.pop("component", None), found.pop("component_out", None)
    return CrossLayerParts(
        layers, _leaf(reads or "layers.0.mlp.input"), _leaf(writes or "layers.0.mlp_out"), _kept(found)
    )


def _leaf(component: str) -> str:
    """The part below a layer: "resid_mid" of "layers.0.resid_mid"."""
    found = re.fullmatch(r"layers\.\d+\.(.+)", component)
    if found is None:
        raise SAEError(f"This cross-layer transcoder names {component!r}, which is no part of a layer.")
    return found[1]


def _kept(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key not in ("hook", "note", "l0")}


# -- writing ------------------------------------------------------------------------------------


def write_layers(folder: Path, parts: CrossLayerParts, dtype: str) -> None:
    """Fills an empty folder with circuit-tracer's files, layer by layer."""
    config = {
        "model_kind": "cross_layer_transcoder", "model_name": parts.metadata.get("model"),
        "feature_input_hook": _hook(parts.reads), "feature_output_hook": _hook(parts.writes),
        "scan": parts.metadata.get("name"),
    }  # fmt: skip
    lines = [f"{key}: {json.dumps(value)}\n" for key, value in config.items() if value is not None]
    (folder / circuit_tracer.CONFIG).write_text("".join(lines), encoding="utf-8", newline="\n")
    kind = np.dtype(dtype)
    for number, one in enumerate(_alike(parts.layers)):
        small = {"b_enc": one.b_enc, "b_dec": one.b_dec, "threshold": one.threshold, "W_skip": one.W_skip}
        arrays = {f"{name}_{number}": value for name, value in small.items() if value is not None}
        arrays[f"W_enc_{number}"] = _whole(one.W_enc, kind)
        _save(arrays, folder / f"W_enc_{number}.safetensors", kind)
        _save({f"W_dec_{number}": _whole(one.W_dec, kind)}, folder / f"W_dec_{number}.safetensors", kind)


def _alike(layers: Sequence[CrossLayerWeights]) -> list[CrossLayerWeights]:
    """The same, all with thresholds and skip connections where one has them: circuit-tracer wants it so."""
    jumps = any(one.threshold is not None for one in layers)
    skips = any(one.W_skip is not None for one in layers)
    return [
        replace(
            one,
            threshold=np.zeros(one.d_hidden) if jumps and one.threshold is None else one.threshold,
            W_skip=np.zeros((one.d_model, one.d_out)) if skips and one.W_skip is None else one.W_skip,
        )
        for one in layers
    ]


def _whole(rows: FeatureRows, kind: np.dtype) -> np.ndarray:
    found = np.empty(rows.shape, kind)
    with np.errstate(over="ignore"):  # refused by name by `_save`
        for ids, part in rows.blocks():
            found[ids] = part
    return found


def _save(arrays: Mapping[str, np.ndarray], path: Path, kind: np.dtype) -> None:
    with np.errstate(over="ignore"):
        rounded = {name: np.ascontiguousarray(value, dtype=kind) for name, value in arrays.items()}
    for name, value in rounded.items():
        if not np.isfinite(value).all():
            raise SAEError(f"{name} has numbers outside {kind}'s range. Save it with dtype='float32'.")
    save_file(rounded, path)


def _hook(leaf: str) -> str:
    """What circuit-tracer calls a part of a layer.

    Raises:
        SAEError: It has no name for it.
    """
    ours = _GEMMA_LEAVES.get(leaf, leaf)
    hook = hook_name(f"layers.0.{ours}")
    if hook is None or hook_component(hook) != f"layers.0.{ours}":
        raise SAEError(
            f"circuit-tracer has no name for {leaf!r}, which this transcoder reads or writes, so it cannot be saved in"
            " its format."
        )
    return hook.removeprefix("blocks.0.")


_GEMMA_LEAVES = {
    "pre_feedforward_layernorm.output": "mlp.input", "post_feedforward_layernorm.output": "mlp_out",
    "pre_feedforward_layernorm": "mlp.input", "post_feedforward_layernorm": "mlp_out",
}  # fmt: skip
"""Norms of Gemma, whose outputs have names in any model."""
