"""dictionary_learning (and SAEBench): `ae.pt` + `config.json`, one folder for each trainer."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ...anatomy.names import hook_component
from ...errors import SAEError
from ...variants import Activation, BatchTopK, Gated, JumpReLU, ReLU, TopK
from ...weights import SAEWeights
from . import fold
from .parts import Parts
from .settings import Settings, one_of, setting
from .source import Arrays, Files

_CONFIG = "config.json"
_LINEAR = {"encoder.weight": "n d", "encoder.bias": "n", "decoder.weight": "d n"}
_MATRICES = {"W_enc": "d n", "b_enc": "n", "W_dec": "n d", "b_dec": "d"}
_WITH_K = ("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE")
_HOOKS = {
    "resid_post": "resid_post",
    "mlp_out": "mlp_out",
    "attention_out": "attn_out",
    "attn_out": "attn_out",
}

Sizes = dict[str, int | None]
Read = tuple[SAEWeights, Activation, dict[str, Any]]


def _weights_name(files: Files) -> str | None:
    if files.chosen == _CONFIG:
        return "ae.pt" if "ae.pt" in files.names else None
    return "ae.pt" if files.has("ae.pt") else files.one(".pt") if _is_ae(files.one(".pt")) else None


def _is_ae(name: str | None) -> bool:
    return name is not None and re.fullmatch(r"ae(_\d+)?\.pt", name) is not None


def _config_of(files: Files) -> Files | None:
    """Where config.json is: here, or above `checkpoints/`."""
    if _CONFIG in files.names:
        return files
    if files.folder.name != "checkpoints":
        return None
    above = files.at(files.folder.parent)
    return above if _CONFIG in above.names else None


def matches(files: Files) -> bool:
    """Whether the files are of this format."""
    return _weights_name(files) is not None


def read(files: Files) -> Parts:
    """As `load_dictionary` reads it: an AutoEncoder's features come in units of decoder rows of length 1."""
    return _read(files, unit_decoder=True)


def read_unnormalized(files: Files) -> Parts:
    """An AutoEncoder's features as they were trained (`normalize_decoder=False`)."""
    return _read(files, unit_decoder=False)


def _read(files: Files, unit_decoder: bool) -> Parts:
    name, above = _weights_name(files), _config_of(files)
    if name is None or above is None:
        raise SAEError(
            f"{files.path}: expected ae.pt and {_CONFIG}, which says what kind of dictionary it is; found"
            f" {', '.join(sorted(files.names)[:6]) or 'nothing'}. Put the trainer's {_CONFIG} beside it."
        )
    config = above.config(_CONFIG)
    trainer = setting(config, "trainer", dict, ..., _CONFIG)
    kind = setting(trainer, "dict_class", str, ..., f"{_CONFIG}: trainer")
    if kind not in _READERS:
        raise SAEError(f"{_CONFIG}: unknown dict_class {kind!r}. Known: {', '.join(sorted(_READERS))}.")
    sizes: Sizes = {
        "d": setting(trainer, "activation_dim", int, None, f"{_CONFIG}: trainer"),
        "n": setting(trainer, "dict_size", int, None, f"{_CONFIG}: trainer"),
    }
    arrays = files.arrays(name)
    if kind in _WITH_K:
        _check_k(trainer, arrays, files.k)
    weights, activation, facts = _READERS[kind](arrays, sizes, files.k)
    if kind == "AutoEncoder" and unit_decoder:
        weights = fold.decoder_norm(weights)
    return Parts(weights, activation, {**_metadata(config, trainer), "architecture": kind, **facts})


def _check_k(trainer: Settings, arrays: Arrays, given: int | None) -> None:
    """The settings' k and the file's are the same, as `from_pretrained` demands."""
    said = setting(trainer, "k", int, None, f"{_CONFIG}: trainer")
    if said is None or "k" not in arrays:
        return
    stored = arrays.whole_number("k")
    if given is None and said != stored:
        raise SAEError(f"{_CONFIG} says k {said}, {arrays.path} holds k {stored}. Pass the right one as k=.")


# -- one reader for each class ------------------------------------------------------------------


def _linear(a: dict[str, np.ndarray], bias: np.ndarray, subtracts: bool, **extra: np.ndarray) -> SAEWeights:
    return SAEWeights(a["encoder.weight"].T, a["encoder.bias"], a["decoder.weight"].T, bias, subtracts, extra)


def _auto_encoder(arrays: Arrays, sizes: Sizes, k: int | None) -> Read:
    a = arrays.take({**_LINEAR, "bias": "d"}, sizes)
    return _linear(a, a["bias"], True), ReLU(), {}


def _auto_encoder_new(arrays: Arrays, sizes: Sizes, k: int | None) -> Read:
    a = arrays.take({**_LINEAR, "decoder.bias": "d"}, sizes)
    return _linear(a, a["decoder.bias"], False), ReLU(), {}


def _gated(arrays: Arrays, sizes: Sizes, k: int | None) -> Read:
    shapes = {
        "encoder.weight": "n d", "decoder.weight": "d n", "decoder_bias": "d", "r_mag": "n",
        "gate_bias": "n", "mag_bias": "n",
    }  # fmt: skip
    a = arrays.take(shapes, sizes)
    extra = {"gate_scale": np.exp(a["r_mag"]), "b_mag": a["mag_bias"]}
    weights = SAEWeights(
        a["encoder.weight"].T, a["gate_bias"], a["decoder.weight"].T, a["decoder_bias"], True, extra
    )
    return weights, Gated(), {}


def _top_k(arrays: Arrays, sizes: Sizes, k: int | None) -> Read:
    a = arrays.take({**_LINEAR, "b_dec": "d"}, sizes)
    threshold = arrays.number("threshold") if "threshold" in arrays else -1.0
    facts = {"threshold": threshold} if threshold >= 0 else {}
    return _linear(a, a["b_dec"], True), TopK(k if k is not None else _k(arrays)), facts


def _batch_top_k(arrays: Arrays, sizes: Sizes, k: int | None) -> Read:
    a = arrays.take({**_LINEAR, "b_dec": "d"}, sizes)
    return *_by_threshold(_linear(a, a["b_dec"], True), arrays, k), {"k": _k(arrays)}


def _matryoshka(arrays: Arrays, sizes: Sizes, k: int | None) -> Read:
    a = arrays.take(_MATRICES, sizes)
    weights = SAEWeights(a["W_enc"], a["b_enc"], a["W_dec"], a["b_dec"])
    facts: dict[str, Any] = {"k": _k(arrays)}
    if "group_sizes" in arrays:
        facts["group_sizes"] = np.ravel(arrays["group_sizes"]).tolist()
    return *_by_threshold(weights, arrays, k), facts


def _jump_relu(arrays: Arrays, sizes: Sizes, k: int | None) -> Read:
    a = arrays.take({**_MATRICES, "threshold": "n"}, sizes)
    extra = {"threshold": a.pop("threshold")}
    return SAEWeights(**a, subtract_b_dec=False, extra=extra), JumpReLU(), {}


_READERS: dict[str, Callable[[Arrays, Sizes, int | None], Read]] = {
    "AutoEncoder": _auto_encoder,
    "AutoEncoderNew": _auto_encoder_new,
    "GatedAutoEncoder": _gated,
    "AutoEncoderTopK": _top_k,
    "BatchTopKSAE": _batch_top_k,
    "MatryoshkaBatchTopKSAE": _matryoshka,
    "JumpReluAutoEncoder": _jump_relu,
}


def _k(arrays: Arrays) -> int:
    return arrays.whole_number("k")


def _by_threshold(weights: SAEWeights, arrays: Arrays, k: int | None) -> tuple[SAEWeights, Activation]:
    """One threshold for all features; where training ended before there was one (-1), the batch decides."""
    value = arrays.number("threshold")
    if not value >= 0:
        return weights, BatchTopK(k if k is not None else _k(arrays))
    extra = {"threshold": np.full(weights.b_enc.size, value, dtype=np.float32)}
    return replace(weights, extra=extra), JumpReLU()


def _metadata(config: Settings, trainer: Settings) -> dict[str, Any]:
    buffer = config.get("buffer")
    buffer = buffer if isinstance(buffer, dict) else {}
    name, layer = trainer.get("submodule_name"), trainer.get("layer")
    place = re.fullmatch(r"(\w+?)_layer_(\d+)", name) if isinstance(name, str) else None
    component: str | None = None
    if place and place[1] in _HOOKS:
        component = f"layers.{place[2]}.{_HOOKS[place[1]]}"
    elif isinstance(name, str) and "." in name:
        component = hook_component(name)
    elif isinstance(layer, int):
        component = f"layers.{layer}.resid_post"
    io = one_of(buffer, "io", ("in", "out", "in_and_out"), "out", f"{_CONFIG}: buffer")
    found = {
        "model": trainer.get("lm_name"),
        "hook": name,
        "component": f"{component}.input" if component and io != "out" and not place else component,
        "component_out": component if io == "in_and_out" else None,
        "context_size": buffer.get("ctx_len"),
    }
    return {key: value for key, value in found.items() if value is not None}
