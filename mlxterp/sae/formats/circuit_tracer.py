"""Transcoders of circuit-tracer: `layer_L.safetensors`, and cross-layer ones as `W_enc_L` + `W_dec_L`.

What is active follows from what a file holds and what `config.yaml` says, as in circuit-tracer 0.5: a threshold makes
JumpReLU, `k` makes TopK (the k largest with their sign, without a ReLU), neither ReLU.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from ...anatomy.names import hook_component
from ...core.tensor_files import check_memory
from ...errors import SAEError
from ...variants import Activation, JumpReLU, ReLU, TopK
from ...weights import SAEWeights
from ..cross_layer_weights import CrossLayerWeights, FeatureRows
from .parts import Parts
from .settings import Settings, check_dtype, one_of, read_config, setting
from .source import Arrays, Files

CONFIG = "config.yaml"
_JUMP = ("jumprelu", "jump_relu")
_THRESHOLDS = ("activation_function.threshold", "threshold")
_FIXED_K = ("facebook/crv-8b-instruct-transcoders", 128)
"""A published set whose k stands in circuit-tracer's source only."""

_SHAPES = {"W_enc": "n d", "b_enc": "n", "W_dec": "n out", "b_dec": "out"}


def _layer_file(files: Files) -> str | None:
    name = files.one(".safetensors")
    return name if name is not None and re.fullmatch(r"layer_\d+\.safetensors", name) else None


def matches(files: Files) -> bool:
    """Whether the files are of this format."""
    name = _layer_file(files)
    return name is not None and {"W_enc", "W_dec"} <= set(files.arrays(name))


def read(files: Files) -> Parts:
    """The SAE that the files hold."""
    name = _layer_file(files) or "layer_0.safetensors"
    arrays, config = files.arrays(name), config_of(files, "transcoder_set")
    a = arrays.take(_SHAPES)
    skip = arrays.optional("W_skip", "out d", a, _SHAPES)
    extra = {} if skip is None else {"W_skip": skip.T}
    activation = _activation(files, config, arrays)
    if isinstance(activation, JumpReLU):
        which = next(n for n in _THRESHOLDS if n in arrays)
        extra["threshold"] = _threshold(arrays, which, a["b_enc"].size)
    weights = SAEWeights(a["W_enc"].T, a["b_enc"], a["W_dec"], a["b_dec"], subtract_b_dec=False, extra=extra)
    return Parts(weights, activation, metadata_of(config, name, "mlp.hook_in"))


def _activation(files: Files, config: Settings, arrays: Arrays) -> Activation:
    """As config.yaml says; where it says nothing, the file does by what it holds."""
    said = one_of(config, "activation", ("relu", "topk", *_JUMP), None, CONFIG)
    has_threshold = any(name in arrays for name in _THRESHOLDS)
    if said in _JUMP and not has_threshold:
        raise SAEError(f"{CONFIG} says activation {said!r}, but {arrays.path} lacks {_THRESHOLDS[0]}.")
    if said == "topk" or (said is None and "k" in arrays):
        return TopK(_k(files, config, arrays), relu=False)
    return JumpReLU() if has_threshold and said != "relu" else ReLU()


def _k(files: Files, config: Settings, arrays: Arrays) -> int:
    """k of the call, or of the file and config.yaml, which must agree."""
    stored = arrays.whole_number("k") if "k" in arrays else None
    said = setting(config, "k", int, None, CONFIG)
    if files.k is not None:
        return files.k
    if stored is not None and said is not None and stored != said:
        raise SAEError(f"{CONFIG} says k {said}, {arrays.path} holds k {stored}. Pass the right one as k=.")
    k = stored if stored is not None else said
    if k is None and (files.hint(_FIXED_K[0]) or _FIXED_K[0] in (config.get("scan"), config.get("repo_id"))):
        k = _FIXED_K[1]
    if k is None:
        raise SAEError(
            f"{CONFIG} says activation 'topk', and neither it nor {arrays.path} says k, the number of features that"
            " are active on a token. Pass it, as in SAE.load(path, k=128)."
        )
    return k


def _threshold(arrays: Arrays, name: str, n: int) -> np.ndarray:
    """One for each feature; a single one is that of all."""
    if arrays.shape(name) in ((), (1,)) and n != 1:
        threshold = np.full(n, arrays.number(name), np.float32)
    else:
        threshold = arrays.take({name: "n"}, {"n": n})[name]
    if (threshold < 0).any():
        raise SAEError(
            f"{arrays.path}: {name} has values below 0, with which circuit-tracer lets negative pre-activations pass;"
            " mlxterp's JumpReLU never does, so its features would be others."
        )
    return threshold


def _cross_layer(files: Files) -> str | None:
    """The layer's number."""
    if files.chosen is not None:
        found = re.fullmatch(r"W_(?:enc|dec)_(\d+)\.safetensors", files.chosen)
        layers = {found[1]} if found else set()
    else:
        layers = {m[1] for n in files.names if (m := re.fullmatch(r"W_enc_(\d+)\.safetensors", n))}
    layers = {
        layer
        for layer in layers
        if {f"W_enc_{layer}.safetensors", f"W_dec_{layer}.safetensors"} <= files.names
    }
    return layers.pop() if len(layers) == 1 else None


def matches_cross_layer(files: Files) -> bool:
    """Whether the files are of this format."""
    return _cross_layer(files) is not None


def is_decoder(name: str, names: frozenset[str]) -> bool:
    """Whether a file is the other half of a cross-layer transcoder's layer, whose encoder lies beside it."""
    found = re.fullmatch(r"W_dec_(\d+)\.safetensors", name)
    return found is not None and f"W_enc_{found[1]}.safetensors" in names


def read_cross_layer(files: Files) -> Parts:
    """One layer's features; what they write to later layers is summed into one decoder."""
    layer, config = _cross_layer(files) or "0", config_of(files, "cross_layer_transcoder")
    found = layer_weights(files, int(layer), config, skips=False)
    encoder, jumps = f"W_enc_{layer}", found.threshold is not None
    check_memory(4 * found.d_hidden * (found.d_model + found.d_out), files.folder)
    weights = SAEWeights(
        files.arrays(f"{encoder}.safetensors").take({encoder: "n d"})[encoder].T, found.b_enc, found.summed(),
        found.b_dec, subtract_b_dec=False, extra={"threshold": found.threshold} if jumps else {},
    )  # fmt: skip
    metadata = metadata_of(config, f"layer_{layer}.", "hook_resid_mid")
    return Parts(weights, JumpReLU() if jumps else ReLU(), metadata | summed_note(found.reach))


def summed_note(layers: int) -> dict[str, Any]:
    """What the metadata of an SAE say whose decoder is the sum of a cross-layer transcoder's."""
    return {
        "summed_layers": layers,
        "note": "decoders of all layers are summed: features are exact, the reconstruction is their sum."
        " CrossLayerTranscoder.load(folder) keeps them apart",
    }


def layer_weights(files: Files, layer: int, config: Settings, skips: bool = True) -> CrossLayerWeights:
    """One layer of a cross-layer transcoder, its encoder and decoders left in the files.

    Args:
        skips: Whether there may be a skip connection.
    """
    name = f"W_dec_{layer}.safetensors"
    if name not in files.names:
        raise SAEError(f"{files.folder} lacks {name}, what the features of layer {layer} write.")
    arrays, decoder = files.arrays(f"W_enc_{layer}.safetensors"), files.arrays(name)
    a = arrays.take({f"b_enc_{layer}": "n", f"b_dec_{layer}": "out"})
    n, out = a[f"b_enc_{layer}"].size, a[f"b_dec_{layer}"].size
    encoder = arrays.stored(f"W_enc_{layer}", "n d", {"n": n})
    said, threshold = one_of(config, "activation", ("relu", *_JUMP), None, CONFIG), f"threshold_{layer}"
    if said in _JUMP and threshold not in arrays:
        raise SAEError(f"{CONFIG} says activation {said!r}, but {arrays.path} lacks {threshold}.")
    skip = f"W_skip_{layer}"
    return CrossLayerWeights(
        FeatureRows(encoder, f"W_enc_{layer} of {arrays.path}"),
        a[f"b_enc_{layer}"],
        FeatureRows(
            decoder.stored(f"W_dec_{layer}", "n layers out", {"n": n, "out": out}),
            f"W_dec_{layer} of {decoder.path}",
        ),
        a[f"b_dec_{layer}"],
        _threshold(arrays, threshold, n) if threshold in arrays and said != "relu" else None,
        arrays.take({skip: "d out"}, {"d": encoder.shape[1], "out": out})[skip]
        if skips and skip in arrays
        else None,
    )


def config_of(files: Files, kind: str) -> Settings:
    """config.yaml, which lies beside the transcoders or one folder above."""
    above = f"../{CONFIG}"
    name = CONFIG if CONFIG in files.names else above if _is_a_set(files.folder / above) else None
    if name is None:
        return Settings({})
    config = files.config(name)
    one_of(config, "model_kind", (kind,), None, CONFIG)
    check_dtype(config, CONFIG)
    return config


def _is_a_set(path: Path) -> bool:
    """Whether a config.yaml is one of circuit-tracer's; another's is none of our business."""
    try:
        return path.is_file() and "model_kind" in read_config(path)
    except (SAEError, OSError):
        return False


def metadata_of(config: Settings, name: str, default_input: str) -> dict[str, Any]:
    """What config.yaml says of a layer, whose number a file's name holds."""
    layer = re.search(r"layer_(\d+)\.", name)
    found: dict[str, Any] = {"model": config.get("model_name"), "prepend_bos": True}
    if layer:
        hook = f"blocks.{layer[1]}.{config.get('feature_input_hook') or default_input}"
        found["hook"] = hook
        hook = hook.replace("mlp.hook_in", "mlp.input")  # after its norm, with the gain
        found["component"] = hook_component(hook)
        out = config.get("feature_output_hook") or "hook_mlp_out"
        found["component_out"] = hook_component(f"blocks.{layer[1]}.{out}")
    return {key: value for key, value in found.items() if value is not None}
