"""SAELens: `cfg.json` + `sae_weights.safetensors`, version 6 and what came before, checkpoints included.

Follows sae-lens 6.54 (MIT) for version 6 and 5.11 for the flat settings of before. BatchTopK and Matryoshka
checkpoints are read as the JumpReLU SAEs that SAELens exports them as.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np

from ...anatomy.names import hook_component
from ...core.integers import is_number
from ...errors import SAEError, warn
from ...variants import (
    AbsTopK,
    Activation,
    Gated,
    InputForm,
    JumpReLU,
    MatchingPursuit,
    ReLU,
    TanhReLU,
    Temporal,
    TopK,
)
from ...weights import SAEWeights
from . import fold
from .attention import temporal_k, temporal_weights
from .parts import Parts
from .settings import NORMALISATIONS, Settings, check_dtype, one_of, plain, setting
from .source import Arrays, Files

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_SCALER, _WHITENING = "activation_scaler.json", "activation_whitening.safetensors"

_SHAPES = {"W_enc": "d n", "b_enc": "n", "W_dec": "n d", "b_dec": "d"}
_TRANSCODER = {"W_enc": "d n", "b_enc": "n", "W_dec": "n out", "b_dec": "out"}
_OLD_NAMES = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "hook_point_layer": "hook_layer",
    "activation_fn": "activation_fn_str",
}
_ONLY_OF = {
    "finetuning_scaling_factor": ("standard", "tanh-relu", "gated", "jumprelu", "topk", "abstopk", "batchtopk",
                                  "matryoshka_batchtopk"),
    "rescale_acts_by_decoder_norm": ("topk", "abstopk", "batchtopk", "matryoshka_batchtopk"),
}  # fmt: skip
"""Settings that mean something with these architectures only."""
_NORMALISATIONS = {
    **NORMALISATIONS,
    "covariance_whitening": "none",
    "constant_scalar_rescale": "none",  # temporal SAEs scale by themselves
    "expected_average_only_in": "none",
}


def matches(files: Files) -> bool:
    """Whether the files are of this format."""
    return files.has(CONFIG, WEIGHTS)


def read(files: Files) -> Parts:
    """The SAE that the files hold."""
    config = files.config(CONFIG)
    facts = config if config.peek("metadata") is None else setting(config, "metadata", dict, ..., CONFIG)
    modern = facts is not config and _version(facts.get("sae_lens_version")) >= 6
    if not modern:
        config = facts = _modernised(config)
        files.replace_config(CONFIG, config)
    architecture = setting(config, "architecture", str, "standard" if not modern else ..., CONFIG)
    reader = _READERS.get(architecture)
    if reader is None:
        raise SAEError(
            f"{CONFIG}: unknown architecture {architecture!r}. Known: {', '.join(sorted(_READERS))}."
        )
    check_dtype(config, CONFIG)
    normalise = one_of(config, "normalize_activations", tuple(_NORMALISATIONS), "none", CONFIG)
    _check_meaningless(config, architecture)
    weights, activation = reader(files.arrays(WEIGHTS), config, files.k)
    if normalise == "expected_average_only_in":
        weights = _scaled(weights, _scale(files))
    if normalise == "covariance_whitening":
        _check_whitening(files)
    if normalise == "constant_scalar_rescale" and architecture != "temporal":
        raise SAEError(f"{CONFIG}: {normalise} is known for temporal SAEs only, not for {architecture}.")
    heads = one_of(config, "reshape_activations", ("none", "hook_z"), "none", CONFIG) == "hook_z"
    form = InputForm(_NORMALISATIONS[normalise], heads=heads, restore="transcoder" not in architecture)
    return Parts(weights, activation, _metadata(config, facts, architecture), form)


def _check_meaningless(config: Settings, architecture: str) -> None:
    """Passes over settings that say no to what an architecture does not have, and refuses those that say yes."""
    for name, having in _ONLY_OF.items():
        if architecture not in having and setting(config, name, bool, False, CONFIG):
            raise SAEError(
                f"{CONFIG}: {name} is not known of {architecture} SAEs. Known: {', '.join(having)}."
            )


def _version(text: Any) -> int:
    """The number before the first point; settings with metadata that name no version are of version 6."""
    if text is None:
        return 6
    found = re.match(r"\s*(\d{1,4})\b", text) if isinstance(text, str) else None
    if found is None:
        raise SAEError(f"{CONFIG}: sae_lens_version is {text!r}, expected a version such as '6.1.0'.")
    return int(found[1])


def _modernised(config: Settings) -> Settings:
    """Flat settings of before version 6, by their names of today."""
    new: dict[str, Any] = dict(plain(config.peek("metadata")) or {})
    for name, value in config.items():
        today = str(_OLD_NAMES.get(name, name))
        if name != "metadata" and (new.get(today) is None or name == today):
            new[today] = value
    names = [name for name in ("activation_fn", "activation_fn_str") if config.peek(name) is not None]
    if len({str(config.peek(name)) for name in names}) > 1:
        raise SAEError(
            f"{CONFIG} says two activations: {', '.join(str(config.peek(name)) for name in names)}."
        )
    normalise = new.get("normalize_activations")
    if normalise is None or isinstance(normalise, bool):
        new["normalize_activations"] = "expected_average_only_in" if normalise else "none"
    hook = new.get("hook_name")
    new.setdefault("reshape_activations", "hook_z" if isinstance(hook, str) and "hook_z" in hook else "none")
    found = Settings(new)
    one_of(found, "architecture", tuple(_READERS), "standard", CONFIG)
    activation = one_of(found, "activation_fn_str", ("relu", "tanh-relu", "topk"), "relu", CONFIG)
    kwargs = setting(found, "activation_fn_kwargs", dict, Settings({}), CONFIG)
    if activation == "topk":
        found["architecture"] = "topk"
        if found.peek("k") is None:
            found["k"] = kwargs.get("k")
    elif activation == "tanh-relu":
        found["architecture"] = "tanh-relu"
    return found


def _scale(files: Files) -> float | None:
    """What activations are multiplied by: as the call says, or `activation_scaler.json` of a checkpoint."""
    if files.scale is not None or _SCALER not in files.names:
        return files.scale
    scaler = files.config(_SCALER)
    scaler.pass_over("has_whitening")
    return setting(scaler, "scaling_factor", float, None, _SCALER)


def _check_whitening(files: Files) -> None:
    """Says that activations are to be whitened first; SAELens folds that into the weights when training ends."""
    if _WHITENING in files.names:
        raise SAEError(
            f"{files.path} is a checkpoint whose activations are whitened by {_WHITENING} before they are encoded."
            " Let SAELens finish it (it folds the whitening into the weights), and load what it saves."
        )
    warn(
        "This SAE expects whitened activations (covariance_whitening), and its files do not hold how, so its features"
        " are off unless the activations are whitened already. SAELens folds it into the weights when training ends."
    )


def _scaled(weights: SAEWeights, scale: float | None) -> SAEWeights:
    if scale is not None:
        return fold.input_scale(weights, scale)
    warn(
        "This SAE expects activations times a number (expected_average_only_in) that its files do not hold, so its"
        " features are off unless the activations are scaled already. Load it with SAE.from_pretrained, which"
        " knows the published ones, or pass norm_scaling_factor=."
    )
    return weights


# -- one reader for each architecture -----------------------------------------------------------


def _sizes(config: Settings) -> dict[str, int | None]:
    return {
        "d": setting(config, "d_in", int, None, CONFIG),
        "n": setting(config, "d_sae", int, None, CONFIG),
        "out": setting(config, "d_out", int, None, CONFIG),
    }


def _subtracts(config: Settings) -> bool:
    return setting(config, "apply_b_dec_to_input", bool, True, CONFIG)


def _common(arrays: Arrays, config: Settings) -> SAEWeights:
    taken = arrays.take(_SHAPES, _sizes(config))
    weights = SAEWeights(
        taken["W_enc"], taken["b_enc"], taken["W_dec"], taken["b_dec"], subtract_b_dec=_subtracts(config)
    )
    return _finetuned(weights, arrays, config)


def _finetuned(weights: SAEWeights, arrays: Arrays, config: Settings) -> SAEWeights:
    """Features times a number each, before the decoder; numbers that are all 1 were written for a while."""
    said = setting(config, "finetuning_scaling_factor", bool, False, CONFIG)
    for name in ("finetuning_scaling_factor", "scaling_factor"):
        factor = arrays.optional(name, "n", {"W_dec": weights.W_dec}, {"W_dec": "n d"})
        if factor is not None and said:
            return replace(weights, W_dec=weights.W_dec * factor[:, None])
        if factor is not None and not np.allclose(factor, 1):
            raise SAEError(
                f"{arrays.path} holds {name}, and {CONFIG} does not say finetuning_scaling_factor: true. Settings and"
                " weights do not belong together."
            )
    if said:
        raise SAEError(f"{arrays.path} lacks finetuning_scaling_factor, which {CONFIG} says it has.")
    return weights


def _standard(arrays: Arrays, config: Settings, k: int | None) -> tuple[SAEWeights, Activation]:
    return _common(arrays, config), ReLU()


def _tanh_relu(arrays: Arrays, config: Settings, k: int | None) -> tuple[SAEWeights, Activation]:
    return _common(arrays, config), TanhReLU()


def _gated(arrays: Arrays, config: Settings, k: int | None) -> tuple[SAEWeights, Activation]:
    shapes = {"W_enc": "d n", "b_gate": "n", "b_mag": "n", "r_mag": "n", "W_dec": "n d", "b_dec": "d"}
    arrays.pass_over("b_enc")  # a gated SAE has b_gate and b_mag instead; no formula of one has b_enc
    a = arrays.take(shapes, _sizes(config))
    extra = {"gate_scale": np.exp(a["r_mag"]), "b_mag": a["b_mag"]}
    weights = SAEWeights(a["W_enc"], a["b_gate"], a["W_dec"], a["b_dec"], _subtracts(config), extra)
    return _finetuned(weights, arrays, config), Gated()


def _jumprelu(arrays: Arrays, config: Settings, k: int | None) -> tuple[SAEWeights, Activation]:
    weights = _common(arrays, config)
    return replace(weights, extra=_threshold(arrays, weights)), JumpReLU()


def _threshold(arrays: Arrays, weights: SAEWeights) -> dict[str, np.ndarray]:
    """The thresholds, given as they are or, in older checkpoints, by their logarithms."""
    n = weights.W_enc.shape[1]
    if "threshold" not in arrays and "log_threshold" in arrays:
        return {"threshold": np.exp(arrays.take({"log_threshold": "n"}, {"n": n})["log_threshold"])}
    return arrays.take({"threshold": "n"}, {"n": n})


def _k(config: Settings, k: int | None) -> int:
    if k is not None:
        config.get("k")  # what the user says is instead of it
        return k
    return setting(config, "k", int, ..., CONFIG)


def _topk(arrays: Arrays, config: Settings, k: int | None) -> tuple[SAEWeights, Activation]:
    weights = _common(arrays, config)
    rescale = setting(config, "rescale_acts_by_decoder_norm", bool, False, CONFIG)
    return fold.decoder_norm(weights) if rescale else weights, TopK(_k(config, k))


def _abs_topk(arrays: Arrays, config: Settings, k: int | None) -> tuple[SAEWeights, Activation]:
    weights, activation = _topk(arrays, config, k)
    assert isinstance(activation, TopK)
    return weights, AbsTopK(activation.k)


def _batch_topk(arrays: Arrays, config: Settings, k: int | None) -> tuple[SAEWeights, Activation]:
    weights = _common(arrays, config)
    if setting(config, "rescale_acts_by_decoder_norm", bool, True, CONFIG):
        weights = fold.decoder_norm(weights)
    threshold = np.full(weights.W_enc.shape[1], arrays.number("topk_threshold"), dtype=np.float32)
    return replace(weights, extra={"threshold": threshold}), JumpReLU()


def _matching_pursuit(arrays: Arrays, config: Settings, k: int | None) -> tuple[SAEWeights, Activation]:
    a = arrays.take({"W_dec": "n d", "b_dec": "d"}, _sizes(config))
    subtracts = _subtracts(config)
    b_dec = a["b_dec"] if subtracts else np.zeros_like(a["b_dec"])
    n, d = a["W_dec"].shape
    weights = SAEWeights(a["W_dec"].T, np.zeros(n, np.float32), a["W_dec"], b_dec, subtracts)
    return weights, MatchingPursuit(
        setting(config, "max_iterations", int, d, CONFIG),
        setting(config, "residual_threshold", float, 0.01, CONFIG),
        setting(config, "stop_on_duplicate_support", bool, True, CONFIG),
    )


def _temporal(arrays: Arrays, config: Settings, k: int | None) -> tuple[SAEWeights, Activation]:
    subtracts = _subtracts(config)
    tied = setting(config, "tied_weights", bool, True, CONFIG)
    scaled = config.get("normalize_activations") == "constant_scalar_rescale"
    scale = setting(config, "activation_normalization_factor", float, 1.0, CONFIG)
    activation = Temporal(
        setting(config, "n_heads", int, 8, CONFIG),
        setting(config, "n_attn_layers", int, 1, CONFIG),
        temporal_k(config, k, "topk", CONFIG),
        scale if scaled else 1.0,
    )
    names = {"W_dec": "W_dec", "b_dec": "b_dec", **({} if tied else {"W_enc": "W_enc"})}
    weights = temporal_weights(arrays, names, activation, _sizes(config), subtracts)
    if tied and not subtracts:
        weights = replace(weights, b_dec=np.zeros_like(weights.b_dec))
    return weights, activation


def _transcoder(arrays: Arrays, config: Settings, k: int | None) -> tuple[SAEWeights, Activation]:
    if _subtracts(config) and "apply_b_dec_to_input" in config:
        raise SAEError(f"{CONFIG}: a transcoder cannot subtract b_dec from its input (apply_b_dec_to_input).")
    architecture = config["architecture"]
    shapes = dict(_TRANSCODER)
    if "skip" in architecture:
        shapes["W_skip"] = "out d"
    if "jumprelu" in architecture:
        shapes["threshold"] = "n"
    a = arrays.take(shapes, _sizes(config))
    extra = {name: a.pop(name) for name in ("W_skip", "threshold") if name in a}
    if "W_skip" in extra:
        extra["W_skip"] = extra["W_skip"].T
    return SAEWeights(**a, subtract_b_dec=False, extra=extra), JumpReLU() if "threshold" in extra else ReLU()


_READERS = {
    "standard": _standard,
    "tanh-relu": _tanh_relu,
    "gated": _gated,
    "jumprelu": _jumprelu,
    "topk": _topk,
    "abstopk": _abs_topk,
    "batchtopk": _batch_topk,
    "matryoshka_batchtopk": _batch_topk,
    "matching_pursuit": _matching_pursuit,
    "temporal": _temporal,
    "transcoder": _transcoder,
    "skip_transcoder": _transcoder,
    "jumprelu_transcoder": _transcoder,
    "jumprelu_skip_transcoder": _transcoder,
}


def _metadata(config: Settings, facts: Settings, architecture: str) -> dict[str, Any]:
    hook, out = facts.get("hook_name"), facts.get("hook_name_out")
    kwargs = facts.get("model_from_pretrained_kwargs")
    found = {
        "model": facts.get("model_name"),
        "hook": hook,
        "component": hook_component(hook),
        "component_out": hook_component(out) if "transcoder" in architecture else None,
        "hook_head_index": facts.get("hook_head_index"),
        "context_size": facts.get("context_size"),
        "prepend_bos": facts.get("prepend_bos"),
        "dataset": facts.get("dataset_path"),
        "center_writing_weights": (kwargs or {}).get("center_writing_weights")
        if isinstance(kwargs, dict)
        else None,
        "training_architecture": facts.get("training_architecture"),
        "architecture": architecture,
        "l0": facts.get("l0"),
        "k": _trained_k(config, facts, architecture),
    }
    return {name: value for name, value in found.items() if value is not None}


def _trained_k(config: Settings, facts: Settings, architecture: str) -> int | None:
    """k of a BatchTopK SAE, which is read as JumpReLU."""
    details = facts.get("training_architecture_details")
    k = details.get("k") if isinstance(details, Settings) else None
    if config.peek("k") is not None and "topk" in f"{architecture} {facts.get('training_architecture')}":
        k = config.get("k")
    if not is_number(k) or not 1 <= k < 2**31:
        return None
    return int(k)
