"""Llama Scope, its R1 variant, and llamascopium: SAEs of OpenMOSS, which train on scaled activations.

Read as their own library (lm_saes, llamascopium) computes them, in units of the raw activations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...anatomy.names import hook_component
from ...errors import SAEError, warn
from ...variants import Activation, InputForm, JumpReLU, ReLU, TopK
from ...weights import SAEWeights
from . import fold
from .parts import Parts
from .settings import Settings, check_dtype, one_of, setting
from .source import Files, the_k

_HYPER, _FINAL = "hyperparams.json", "final.safetensors"
_CONFIG, _WEIGHTS = "config.json", "sae_weights.safetensors"
_LINEAR = {"encoder.weight": "n d", "encoder.bias": "n", "decoder.weight": "d n", "decoder.bias": "d"}
_ONLY_WITH = {"top_k": "topk", "jump_relu_threshold": "jumprelu"}
"""Settings that stand in every file and mean something with one act_fn only."""


def _linear(a: Mapping[str, np.ndarray], extra: dict[str, np.ndarray] | None = None) -> SAEWeights:
    return SAEWeights(
        a["encoder.weight"].T, a["encoder.bias"], a["decoder.weight"].T, a["decoder.bias"],
        subtract_b_dec=False, extra=extra or {},
    )  # fmt: skip


def _check_common(config: Settings, where: str) -> None:
    """Refuses what no reader here computes, and passes over what other settings make meaningless."""
    if setting(config, "use_glu_encoder", bool, False, where):
        raise SAEError(f"{where}: a gated linear encoder (use_glu_encoder) is not known to mlxterp.")
    check_dtype(config, where)
    act_fn = config.get("act_fn")
    config.pass_over(*(name for name, kind in _ONLY_WITH.items() if kind != act_fn))
    if config.get("norm_activation") != "dataset-wise":
        config.pass_over("dataset_average_activation_norm")


# -- Llama Scope --------------------------------------------------------------------------------


def _llama_scope_files(files: Files) -> tuple[Files, Files] | None:
    """Where the config and where the weights are: beside each other or in `checkpoints/`."""
    above = files.at(files.folder.parent) if files.folder.name == "checkpoints" else files
    below = above.folder / "checkpoints"
    if _HYPER not in above.names or not (below / _FINAL).is_file():
        return None
    if files.chosen not in (None, _HYPER, _FINAL):
        return None
    return above, files.at(below)


def matches_llama_scope(files: Files) -> bool:
    """Whether the files are of this format."""
    return _llama_scope_files(files) is not None


def read_llama_scope(files: Files) -> Parts:
    """The SAE that the files hold."""
    found = _llama_scope_files(files)
    if found is None:
        raise SAEError(f"{files.path}: expected {_HYPER} and checkpoints/{_FINAL}.")
    config = found[0].config(_HYPER)
    sizes = {
        "d": setting(config, "d_model", int, None, _HYPER),
        "n": setting(config, "d_sae", int, None, _HYPER),
    }
    _check_common(config, _HYPER)
    a = (
        found[1]
        .arrays(_FINAL)
        .take({name: shape for name, shape in _LINEAR.items() if name != "decoder.bias"}, sizes)
    )
    d = a["encoder.weight"].shape[1]
    a["decoder.bias"] = np.zeros(d, np.float32)
    if setting(config, "use_decoder_bias", bool, True, _HYPER):
        a |= found[1].arrays(_FINAL).take({"decoder.bias": "d"}, {"d": d})
    kind = one_of(
        config, "norm_activation", ("dataset-wise", "token-wise", "inference", "none"), None, _HYPER
    )
    s_in, s_out = _norms(config, d)
    weights = _linear(a)
    weights = replace(
        weights, b_enc=weights.b_enc / s_in, W_dec=weights.W_dec * (s_in / s_out), b_dec=weights.b_dec / s_out
    )
    if setting(config, "sparsity_include_decoder_norm", bool, True, _HYPER):
        weights = fold.decoder_norm(weights)
    if setting(config, "apply_decoder_bias_to_pre_encoder", bool, False, _HYPER):
        weights = replace(weights, subtract_b_dec=True)
    activation: Activation
    form = InputForm("constant_norm") if kind == "token-wise" else InputForm()
    kind = setting(config, "act_fn", str, ..., _HYPER)
    if kind == "jumprelu":
        theta = setting(config, "jump_relu_threshold", float, ..., _HYPER)
        if theta < 0:
            raise SAEError(f"{_HYPER}: jump_relu_threshold is {theta}; below 0 negative features would pass.")
        weights = replace(weights, extra={"threshold": np.full(weights.b_enc.size, theta, np.float32)})
        activation = JumpReLU()
    elif kind == "topk":
        activation = TopK(the_k(files, config, "top_k", _HYPER))
    elif kind == "relu":
        activation = ReLU()
    else:
        raise SAEError(f"{_HYPER}: unknown act_fn {kind!r}. Known: jumprelu, topk, relu.")
    return Parts(weights, activation, _metadata(config), form)


def _norms(config: Settings, d: int) -> tuple[np.float32, np.float32]:
    """What activations are multiplied by on the way in and out."""
    if config.get("norm_activation") != "dataset-wise":
        return np.float32(1), np.float32(1)
    average = setting(config, "dataset_average_activation_norm", dict, ..., _HYPER)
    norms = [
        setting(average, side, float, ..., f"{_HYPER}: dataset_average_activation_norm")
        for side in ("in", "out")
    ]
    if min(norms) <= 0:
        raise SAEError(f"{_HYPER}: dataset_average_activation_norm is {average}; norms must be positive.")
    return np.float32(math.sqrt(d) / norms[0]), np.float32(math.sqrt(d) / norms[1])


# -- the R1 variant and llamascopium ------------------------------------------------------------


def matches_r1(files: Files) -> bool:
    """Whether the files are of this format."""
    return files.has(_CONFIG, _WEIGHTS) and "encoder.weight" in files.arrays(_WEIGHTS)


def read_r1(files: Files) -> Parts:
    """The SAE that the files hold."""
    config = files.config(_CONFIG)
    _check_common(config, _CONFIG)
    one_of(config, "sae_type", ("sae",), "sae", _CONFIG)
    one_of(config, "act_fn", ("jumprelu",), "jumprelu", _CONFIG)
    config.pass_over("jump_relu_threshold")  # each feature's is in the weights
    one_of(config, "norm_activation", ("dataset-wise", "inference"), None, _CONFIG)
    biased = setting(config, "use_decoder_bias", bool, True, _CONFIG)
    shapes = {**_LINEAR, "log_jumprelu_threshold": "n"}
    if not biased:
        del shapes["decoder.bias"]
    a = files.arrays(_WEIGHTS).take(shapes, {"d": setting(config, "d_model", int, None, _CONFIG)})
    if not biased:
        a["decoder.bias"] = np.zeros(len(a["decoder.weight"]), np.float32)
    weights = _linear(a)
    theta = np.exp(a["log_jumprelu_threshold"])
    if setting(config, "sparsity_include_decoder_norm", bool, False, _CONFIG):
        theta = _over_norms(theta, fold.row_norms(weights.W_dec))
    weights = replace(weights, extra={"threshold": theta})
    if setting(config, "apply_decoder_bias_to_pre_encoder", bool, False, _CONFIG):
        weights = replace(weights, subtract_b_dec=True)
    scale = (
        files.scale
        if files.scale is not None
        else setting(config, "norm_scaling_factor", float, None, _CONFIG)
    )
    if scale is not None:
        weights = fold.input_scale(weights, scale)
    elif config.get("norm_activation") == "dataset-wise":
        warn(
            "This SAE expects activations times a number (norm_activation dataset-wise) that its files do not hold,"
            " so its features are off unless the activations are scaled already. Load it with"
            " SAE.from_pretrained, which knows the published ones, or pass norm_scaling_factor=."
        )
    return Parts(weights, JumpReLU(), _metadata(config))


def matches_llamascopium(files: Files) -> bool:
    """Whether the files are of this format."""
    return files.has(_CONFIG, _WEIGHTS) and "W_E" in files.arrays(_WEIGHTS)


def read_llamascopium(files: Files) -> Parts:
    """The SAE that the files hold."""
    config, arrays = files.config(_CONFIG), files.arrays(_WEIGHTS)
    one_of(config, "sae_type", ("sae", "transcoder"), "sae", _CONFIG)
    _check_common(config, _CONFIG)
    if setting(config, "apply_decoder_bias_to_pre_encoder", bool, False, _CONFIG):
        raise SAEError(f"{_CONFIG}: apply_decoder_bias_to_pre_encoder is not known of SAEs with W_E and W_D.")
    a = arrays.take(
        {"W_E": "d n", "b_E": "n", "W_D": "n out"}, {"d": setting(config, "d_model", int, None, _CONFIG)}
    )
    biased = setting(config, "use_decoder_bias", bool, True, _CONFIG)
    out = a["W_D"].shape[1]
    b_dec = arrays.take({"b_D": "out"}, {"out": out})["b_D"] if biased else np.zeros(out, np.float32)
    weights = SAEWeights(a["W_E"], a["b_E"], a["W_D"], b_dec, subtract_b_dec=False)
    rescaled = setting(config, "sparsity_include_decoder_norm", bool, True, _CONFIG)
    norms = fold.row_norms(a["W_D"]) if rescaled else np.ones(len(a["W_D"]), np.float32)
    weights, activation = _activated(weights, norms, config, files)
    weights, form = _scaled(weights, config, files)
    return Parts(weights, activation, _metadata(config), form)


def _activated(
    weights: SAEWeights, norms: np.ndarray, config: Settings, files: Files
) -> tuple[SAEWeights, Activation]:
    """act(n h) / n, with n the decoder norms."""
    kind = setting(config, "act_fn", str, ..., _CONFIG)
    if kind == "relu":
        return weights, ReLU()
    if kind in ("jumprelu", "batchtopk"):
        name = "activation_function.log_jumprelu_threshold"
        theta = np.exp(files.arrays(_WEIGHTS).take({name: "n"}, {"n": norms.size})[name])
        return replace(weights, extra={"threshold": _over_norms(theta, norms)}), JumpReLU()
    if kind == "topk":
        k = the_k(files, config, "top_k", _CONFIG)
        inverse = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
        ranked = replace(weights, W_enc=weights.W_enc * norms, b_enc=weights.b_enc * norms)
        return replace(ranked, extra={"value_scale": inverse}), TopK(k)
    raise SAEError(f"{_CONFIG}: unknown act_fn {kind!r}. Known: relu, topk, jumprelu, batchtopk.")


def _over_norms(theta: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Thresholds of n h, as thresholds of h."""
    with np.errstate(divide="ignore"):
        found = np.where(norms > 0, theta / norms, np.float32(np.finfo(np.float32).max))
    return found.astype(np.float32)


def _scaled(weights: SAEWeights, config: Settings, files: Files) -> tuple[SAEWeights, InputForm]:
    kind = config.get("norm_activation")
    if kind == "token-wise":
        return weights, InputForm("constant_norm")
    if kind in (None, "inference"):
        return weights, InputForm()
    if kind != "dataset-wise":
        raise SAEError(
            f"{_CONFIG}: unknown norm_activation {kind!r}. Known: dataset-wise, token-wise, inference."
        )
    hook = setting(config, "hook_point_in", str, ..., _CONFIG)
    out = setting(config, "hook_point_out", str, hook, _CONFIG)
    scales = [
        math.sqrt(width) / _average(files, point)
        for width, point in ((weights.W_enc.shape[0], hook), (weights.W_dec.shape[1], out))
    ]
    return fold.input_scale(weights, *scales), InputForm()


def _average(files: Files, hook: str) -> float:
    average = files.arrays(_WEIGHTS).number(f"dataset_average_activation_norm.{hook}")
    if not average > 0:
        raise SAEError(
            f"{files.path}: the average activation norm at {hook} is {average}; it must be positive."
        )
    return average


def _metadata(config: Settings) -> dict[str, Any]:
    hook, out = config.get("hook_point_in"), config.get("hook_point_out")
    found = {
        "model": config.get("model_name"),
        "hook": hook,
        "component": hook_component(hook),
        "component_out": hook_component(out) if out != hook else None,
        "prepend_bos": True,
    }
    return {name: value for name, value in found.items() if value is not None}
