"""EleutherAI sparsify: `cfg.json` + `sae.safetensors` in a folder named by the module it was trained on."""

from __future__ import annotations

import re
from typing import Any

from ...anatomy.names import hook_component
from ...errors import SAEError
from ...variants import AbsTopK, Activation, GroupMax, TopK
from ...weights import SAEWeights
from .parts import Parts
from .settings import Settings, one_of, setting
from .source import Files, the_k

_CONFIG, _WEIGHTS = "cfg.json", "sae.safetensors"
_HOOK = re.compile(
    r"^((model|transformer|gpt_neox|backbone)\.)?((layers|h|blocks)\.\d+(\.[\w.]+)?|embed\w*|wte)$"
)


def matches(files: Files) -> bool:
    """Whether the files are of this format."""
    return files.has(_CONFIG, _WEIGHTS)


def read(files: Files) -> Parts:
    """The SAE that the files hold."""
    config = files.config(_CONFIG)
    d = setting(config, "d_in", int, ..., _CONFIG)
    n = setting(config, "num_latents", int, 0, _CONFIG)
    if not n and config.peek("expansion_factor") is not None:
        n = round(min(d * setting(config, "expansion_factor", float, ..., _CONFIG), 2.0**62))
    transcode = setting(config, "transcode", bool, False, _CONFIG)
    shapes = {"encoder.weight": "n d", "encoder.bias": "n", "W_dec": "n out", "b_dec": "out"}
    skip = setting(config, "skip_connection", bool, False, _CONFIG)
    if skip:
        shapes["W_skip"] = "out d"
    a = files.arrays(_WEIGHTS).take(shapes, {"d": d, "n": n or None})
    weights = SAEWeights(
        a["encoder.weight"].T, a["encoder.bias"], a["W_dec"], a["b_dec"],
        subtract_b_dec=not transcode, extra={"W_skip": a["W_skip"].T} if skip else {},
    )  # fmt: skip
    k = the_k(files, config, where=_CONFIG)
    return Parts(weights, _activation(config, k), _metadata(files, transcode))


def _activation(config: Settings, k: int) -> Activation:
    kind = one_of(config, "activation", ("topk", "groupmax"), "topk", _CONFIG)
    signed = setting(config, "signed", bool, False, _CONFIG)
    if kind == "groupmax" and signed:
        raise SAEError(f"{_CONFIG}: signed is known with activation 'topk' only, not with 'groupmax'.")
    return GroupMax(k) if kind == "groupmax" else AbsTopK(k) if signed else TopK(k)


def _metadata(files: Files, transcode: bool) -> dict[str, Any]:
    """The folder's name, or its parent's where the folder is a seed, is the path of a module."""
    folder = files.folder.absolute()
    name = folder.parent.name if re.fullmatch(r"seed_?\d+", folder.name) else folder.name
    if not _HOOK.match(name):
        return {}
    hook = hook_component(name)
    if not transcode:
        return {"hook": name, "component": hook}
    whole_block = hook is not None and hook.endswith("resid_post")
    source = re.sub(r"resid_post$", "resid_pre", hook or name) if whole_block else f"{hook}.input"
    return {"hook": name, "component": source, "component_out": hook}
