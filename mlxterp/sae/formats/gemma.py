"""Gemma Scope 1 (`params.npz`) and 2 (`params.safetensors`), JumpReLU SAEs and transcoders of Google DeepMind.

No config in the first; its path says the site (`gemma-scope-2b-pt-res/layer_3/width_16k/…`). The b_dec of
these SAEs is not subtracted from the input.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ...anatomy.names import hook_component
from ...variants import InputForm, JumpReLU
from ...weights import SAEWeights
from .circuit_tracer import summed_note
from .parts import Parts
from .settings import Settings, check_dtype, one_of, setting
from .source import Files

_NPZ, _CONFIG = "params.npz", "config.json"
_TYPES = ("sae", "transcoder", "skip_transcoder", "clt", "cross_layer_transcoder", "multi_layer_sae")
_EMBEDDING = r"/embedding/width_\w+/[^/]+/[^/]*$"
_SITES = {"res": "resid_post", "mlp": "mlp_out", "att": "attn.z", "transcoders": "mlp.input"}


def matches_npz(files: Files) -> bool:
    """Whether the files are of this format."""
    return files.has(_NPZ)


def read_npz(files: Files) -> Parts:
    """The SAE that the files hold."""
    arrays = files.arrays(_NPZ)
    a = arrays.take({"W_enc": "d n", "W_dec": "n out", "b_enc": "n", "b_dec": "out", "threshold": "n"})
    if files.hint(_EMBEDDING):  # trained on embeddings before Gemma multiplies them by sqrt(d_model)
        root = np.float32(np.sqrt(a["W_enc"].shape[0]))
        a["W_enc"], a["W_dec"] = a["W_enc"] / root, a["W_dec"] * root
    extra = {"threshold": a.pop("threshold")}
    component, metadata = _place(files)
    heads = component is None or component.endswith(".z")  # the file alone does not say
    weights = SAEWeights(**a, subtract_b_dec=False, extra=extra)
    return Parts(weights, JumpReLU(), metadata, InputForm(heads=heads))


def _place(files: Files) -> tuple[str | None, dict[str, Any]]:
    """The component, as far as the path says, and what else it says."""
    repo = files.hint(r"gemma[-_]scope[-_]?(\d+b)?[-_]?(pt|it)?[-_]?(res|mlp|att|transcoders?)\b")
    layer = files.hint(r"/layer_(\d+)/")
    l0 = files.hint(r"/average_l0_(\d+)")
    found: dict[str, Any] = {"prepend_bos": True}
    if repo and repo[1]:
        found["model"] = f"google/gemma-2-{repo[1]}{'-it' if repo[2] == 'it' else ''}"
    if l0:
        found["l0"] = int(l0[1])
    component = None
    if files.hint(_EMBEDDING):
        component = "embed"
    elif repo and layer:
        site = "transcoders" if repo[3].startswith("transcoder") else repo[3]
        component = f"layers.{layer[1]}.{_SITES[site]}"
        if site == "transcoders":
            found["component_out"] = f"layers.{layer[1]}.mlp_out"
            found["hook"] = f"blocks.{layer[1]}.ln2.hook_normalized"  # the norm's output without its gain
    if component:
        found["component"] = component
    return component, found


def _params(files: Files) -> str | None:
    name = files.one("params.safetensors")
    if name is None:
        name = next(
            (n for n in [files.chosen or ""] if re.fullmatch(r"params_layer_\d+\.safetensors", n)), None
        )
    if name is None and files.chosen is None:
        layers = sorted(n for n in files.names if re.fullmatch(r"params_layer_\d+\.safetensors", n))
        name = layers[0] if len(layers) == 1 else None
    return name


def matches_safetensors(files: Files) -> bool:
    """Whether the files are of this format."""
    if files.chosen == _CONFIG and "params.safetensors" in files.names:
        return True
    return _params(files) is not None


def read_safetensors(files: Files) -> Parts:
    """The SAE that the files hold."""
    name = _params(files) or "params.safetensors"
    config = files.config(_CONFIG) if _CONFIG in files.names else Settings({})
    check_config(config)
    arrays = files.arrays(name)
    cross_layer = len(arrays.shape("w_dec") or ()) == 3
    shapes = {
        "w_enc": "d n",
        "w_dec": "n layers out" if cross_layer else "n out",
        "b_enc": "n",
        "b_dec": "out",
    }
    a = arrays.take({**shapes, "threshold": "n"}, {"n": setting(config, "width", int, None, _CONFIG)})
    extra = {"threshold": a["threshold"]}
    if setting(config, "affine_connection", bool, "affine_skip_connection" in arrays, _CONFIG):
        extra |= {"W_skip": arrays.take({"affine_skip_connection": "d out"})["affine_skip_connection"]}
    W_dec = a["w_dec"].sum(axis=1) if cross_layer else a["w_dec"]
    note = summed_note(a["w_dec"].shape[1]) if cross_layer else {}
    weights = SAEWeights(a["w_enc"], a["b_enc"], W_dec, a["b_dec"], subtract_b_dec=False, extra=extra)
    return Parts(weights, JumpReLU(), metadata_of(config, files, name) | note)


def check_config(config: Settings) -> None:
    """Raises SAEError where the settings are of another kind."""
    one_of(config, "architecture", ("jump_relu",), None, _CONFIG)
    one_of(config, "type", _TYPES, None, _CONFIG)
    check_dtype(config, _CONFIG)


def metadata_of(config: Settings, files: Files, name: str) -> dict[str, Any]:
    """What the settings and the path say of a layer's file."""
    layer = files.hint(r"layer_(\d+)", name)
    kind = files.hint(r"/(resid_post|mlp_out|attn_out|transcoder|clt)(?=[/_])", name)
    hook, out = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
    if hook is None and layer and kind:
        block = f"model.layers.{layer[1]}"
        points = {
            "resid_post": "output", "mlp_out": "post_feedforward_layernorm.output",
            "attn_out": "self_attn.o_proj.input", "transcoder": "pre_feedforward_layernorm.output",
            "clt": "pre_feedforward_layernorm.output",
        }  # fmt: skip
        hook = f"{block}.{points[kind[1]]}"
        out = f"{block}.post_feedforward_layernorm.output" if kind[1] in ("transcoder", "clt") else None
    found = {
        "model": config.get("model_name"),
        "hook": hook,
        "component": hook_component(hook),
        "component_out": hook_component(out) if out != hook else None,
        "l0": config.get("l0"),
        "prepend_bos": True,
    }
    return {name: value for name, value in found.items() if value is not None}
