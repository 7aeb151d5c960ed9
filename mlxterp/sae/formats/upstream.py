"""Folders `*.mlx` of the existing mlxterp library: `config.json` + `weights.safetensors`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...anatomy.names import hook_component
from ...errors import SAEError
from ...variants import Activation, BatchTopK, TopK
from ...weights import SAEWeights
from . import fold
from .parts import Parts
from .settings import Settings, setting
from .source import Files, the_k

_CONFIG, _WEIGHTS = "config.json", "weights.safetensors"
_CLASSES: dict[str, type[TopK] | type[BatchTopK]] = {"SAE": TopK, "BatchTopKSAE": BatchTopK}


def matches(files: Files) -> bool:
    """Whether the files are of this format."""
    return files.has(_CONFIG, _WEIGHTS) and "class" in files.config(_CONFIG)


def read(files: Files) -> Parts:
    """The SAE that the files hold."""
    config, arrays = files.config(_CONFIG), files.arrays(_WEIGHTS)
    kind = setting(config, "class", str, ..., _CONFIG)
    if kind not in _CLASSES:
        raise SAEError(f"{_CONFIG}: unknown class {kind!r}. Known: {', '.join(_CLASSES)}.")
    tied = setting(config, "tied_weights", bool, False, _CONFIG)
    bias = "decoder_bias" if tied else "decoder.bias"
    shapes = {"encoder.weight": "n d", "encoder.bias": "n", bias: "d"}
    if not tied:
        shapes["decoder.weight"] = "d n"
    normalized = setting(config, "normalize_input", bool, False, _CONFIG)
    if normalized:
        shapes |= {"input_mean": "d", "input_std": "d"}
    else:
        arrays.pass_over("input_mean", "input_std")  # measured all the same
    sizes = {
        "d": setting(config, "d_model", int, None, _CONFIG),
        "n": setting(config, "d_hidden", int, None, _CONFIG),
    }
    a = arrays.take(shapes, sizes)
    W_dec = a["encoder.weight"] if tied else a["decoder.weight"].T
    weights = SAEWeights(a["encoder.weight"].T, a["encoder.bias"], W_dec, a[bias], subtract_b_dec=False)
    if normalized:
        weights = fold.affine_input(weights, a["input_mean"], a["input_std"] + np.float32(1e-8))
    activation: Activation = _CLASSES[kind](the_k(files, config, where=_CONFIG))
    return Parts(weights, activation, _metadata(config))


def _metadata(config: Settings) -> dict[str, Any]:
    facts = config.whole("metadata")
    facts = facts if isinstance(facts, dict) else {}
    layer, component = facts.get("layer"), facts.get("component")
    found: dict[str, Any] = {"model": facts.get("model_name"), "training": facts.get("config")}
    if isinstance(layer, int) and isinstance(component, str):
        found["component"] = hook_component(f"layers.{layer}.{component}")
    return {key: value for key, value in found.items() if value is not None}
