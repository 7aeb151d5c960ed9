"""Transcoders of circuit-tracer: `layer_L.safetensors`, and cross-layer ones as `W_enc_L` + `W_dec_L`."""

from __future__ import annotations

import re
from typing import Any

from ...components import hook_component
from ...variants import JumpReLU, ReLU
from ...weights import SAEWeights
from .source import Files, Parts

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
    arrays = files.arrays(name)
    a = arrays.take(_SHAPES)
    extra = {}
    for other, shape in (("threshold", "n"), ("W_skip", "out d")):
        found = arrays.optional(other, shape, a, _SHAPES)
        if found is not None:
            extra[other] = found.T if other == "W_skip" else found
    weights = SAEWeights(a["W_enc"].T, a["b_enc"], a["W_dec"], a["b_dec"], subtract_b_dec=False, extra=extra)
    activation = JumpReLU() if "threshold" in extra else ReLU()
    return Parts(weights, activation, _metadata(files, name, "mlp.hook_in"))


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


def read_cross_layer(files: Files) -> Parts:
    """One layer's features; what they write to later layers is summed into one decoder."""
    layer = _cross_layer(files) or "0"
    a = files.arrays(f"W_enc_{layer}.safetensors").take(
        {f"W_enc_{layer}": "n d", f"b_enc_{layer}": "n", f"b_dec_{layer}": "out"}
    )
    n, out = a[f"W_enc_{layer}"].shape[0], a[f"b_dec_{layer}"].size
    decoder = files.arrays(f"W_dec_{layer}.safetensors")
    W_dec = decoder.take({f"W_dec_{layer}": "n layers out"}, {"n": n, "out": out})[f"W_dec_{layer}"]
    weights = SAEWeights(
        a[f"W_enc_{layer}"].T,
        a[f"b_enc_{layer}"],
        W_dec.sum(axis=1),
        a[f"b_dec_{layer}"],
        subtract_b_dec=False,
    )
    metadata = _metadata(files, f"layer_{layer}.", "hook_resid_mid")
    metadata["note"] = (
        "decoders of all layers are summed: features are exact, the reconstruction is their sum"
    )
    return Parts(weights, ReLU(), metadata)


def _metadata(files: Files, name: str, default_input: str) -> dict[str, Any]:
    config = files.config("config.yaml") if "config.yaml" in files.names else {}
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
