"""An SAE as SAELens 6 stores it: settings and arrays that give equal features and reconstructions there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...anatomy.names import hook_name
from ...errors import SAEError, warn
from ...variants import AbsTopK, Activation, Gated, JumpReLU, MatchingPursuit, ReLU, Temporal, TopK
from ...weights import SAEWeights
from .fold import without_subtraction
from .parts import Parts, Stored
from .saelens import CONFIG, WEIGHTS
from .settings import SAELENS_NORMALISATIONS, as_json

_VERSION = "6.54.12"
"""Of the SAELens whose layout this is."""

Arrays = dict[str, np.ndarray]
Settings = dict[str, Any]


def stored(sae: Parts, dtype: str) -> Stored:
    """The files `cfg.json` and `sae_weights.safetensors`.

    Raises:
        SAEError: SAELens has no architecture that computes this, or the dtype is another than float32.
    """
    if dtype != "float32":
        raise SAEError(f"{dtype} is for format='mlxterp'; SAELens's folders are written in float32.")
    settings, arrays = _as_saelens(sae)
    config = as_json(settings)
    if sae.names:
        warn(
            f"SAELens's folders have no place for names: those of {len(sae.names)} features are not saved with this"
            " SAE. sae.concepts.export_json(path) writes them; names=False says that they are not wanted."
        )
    return Stored(WEIGHTS, arrays, {CONFIG: config})


def _as_saelens(sae: Parts) -> tuple[Settings, Arrays]:
    writer = _WRITERS.get(type(sae.activation))
    if not sae.is_transcoder and not sae.form.trivial and not sae.form.restore:
        raise SAEError("SAELens 6 always undoes an SAE's normalisation. Save it with format='mlxterp'.")
    if writer is None or sae.form.center or "value_scale" in sae.weights.extra:
        what = "centred input" if sae.form.center else f"{sae.activation.name} features like these"
        raise SAEError(f"SAELens 6 has no architecture with {what}. Save it with format='mlxterp'.")
    settings, arrays = writer(sae.activation, sae.weights)
    unfinished = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if unfinished:
        raise SAEError(f"{unfinished[0]} has no finite form in SAELens. Save it with format='mlxterp'.")
    if sae.is_transcoder or "W_skip" in sae.weights.extra:
        settings, arrays = _transcoder(sae, settings, arrays)
    common = {
        "d_in": sae.d_model,
        "d_sae": sae.d_hidden,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.weights.subtract_b_dec,
        "normalize_activations": SAELENS_NORMALISATIONS[sae.form.normalize],
        "reshape_activations": "hook_z" if sae.form.heads and sae.component else "none",
        "metadata": _metadata(sae),
    }
    return {**common, **settings}, arrays


def _plain(weights: SAEWeights) -> Arrays:
    return {"W_enc": weights.W_enc, "b_enc": weights.b_enc, "W_dec": weights.W_dec, "b_dec": weights.b_dec}


def _relu(activation: Activation, weights: SAEWeights) -> tuple[Settings, Arrays]:
    return {"architecture": "standard"}, _plain(weights)


def _jumprelu(activation: Activation, weights: SAEWeights) -> tuple[Settings, Arrays]:
    return {"architecture": "jumprelu"}, {**_plain(weights), "threshold": weights.extra["threshold"]}


def _topk(activation: Activation, weights: SAEWeights) -> tuple[Settings, Arrays]:
    assert isinstance(activation, (TopK, AbsTopK))
    if isinstance(activation, TopK) and not activation.relu:
        raise SAEError("SAELens 6 has no TopK without ReLU. Save it with format='mlxterp'.")
    name = "topk" if isinstance(activation, TopK) else "abstopk"
    return {"architecture": name, "k": activation.k, "rescale_acts_by_decoder_norm": False}, _plain(weights)


def _gated(activation: Activation, weights: SAEWeights) -> tuple[Settings, Arrays]:
    arrays = {
        "W_enc": weights.W_enc, "b_gate": weights.b_enc, "b_mag": weights.extra["b_mag"],
        "r_mag": _log(weights.extra["gate_scale"]), "W_dec": weights.W_dec, "b_dec": weights.b_dec,
    }  # fmt: skip
    return {"architecture": "gated"}, arrays


def _log(x: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):  # refused by name if not finite
        return np.log(x)


def _matching_pursuit(activation: Activation, weights: SAEWeights) -> tuple[Settings, Arrays]:
    assert isinstance(activation, MatchingPursuit)
    settings = {
        "architecture": "matching_pursuit",
        "max_iterations": activation.max_iterations,
        "residual_threshold": activation.residual_threshold,
        "stop_on_duplicate_support": activation.stop_on_duplicate_support,
    }
    return settings, {"W_dec": weights.W_dec, "b_dec": weights.b_dec}


def _temporal(activation: Activation, weights: SAEWeights) -> tuple[Settings, Arrays]:
    assert isinstance(activation, Temporal)
    tied = bool(np.array_equal(weights.W_enc, weights.W_dec.T))
    width = weights.extra["attention.0.q_target.bias"].size
    settings = {
        "architecture": "temporal",
        "n_heads": activation.n_heads,
        "n_attn_layers": activation.n_attn_layers,
        "bottleneck_factor": weights.W_dec.shape[0] // width,
        "sae_diff_type": "relu" if activation.k is None else "topk",
        "kval_topk": activation.k,
        "tied_weights": tied,
        "activation_normalization_factor": activation.scale,
        "normalize_activations": "constant_scalar_rescale",
    }
    arrays = {"W_dec": weights.W_dec, "b_dec": weights.b_dec}
    if not tied:
        arrays["W_enc"] = weights.W_enc
    attention = {n.replace("attention", "attn_layers"): a for n, a in weights.extra.items()}
    return settings, {**arrays, **attention}


_WRITERS: dict[type, Callable[[Activation, SAEWeights], tuple[Settings, Arrays]]] = {
    ReLU: _relu,
    JumpReLU: _jumprelu,
    TopK: _topk,
    AbsTopK: _topk,
    Gated: _gated,
    MatchingPursuit: _matching_pursuit,
    Temporal: _temporal,
}


def _transcoder(sae: Parts, settings: Settings, arrays: Arrays) -> tuple[Settings, Arrays]:
    skip = "W_skip" in sae.weights.extra
    if settings["architecture"] not in ("standard", "jumprelu"):
        raise SAEError(
            f"SAELens 6 has no transcoder with {sae.activation.name} features. Save it with format='mlxterp'."
        )
    if sae.form.undone:
        raise SAEError(
            "SAELens 6 does not undo a transcoder's normalisation, as this SAE does. Save it with format='mlxterp'."
        )
    arrays = {
        **arrays,
        "b_enc": without_subtraction(sae.weights).b_enc,
    }  # a transcoder there does not subtract
    prefix = "jumprelu_" if settings["architecture"] == "jumprelu" else ""
    new = {
        "architecture": f"{prefix}{'skip_' * skip}transcoder",
        "d_out": sae.d_out,
        "apply_b_dec_to_input": False,
    }
    return new, {**arrays, "W_skip": sae.weights.extra["W_skip"].T} if skip else arrays


def _metadata(sae: Parts) -> Settings:
    facts = sae.metadata
    component, out = facts.get("component"), facts.get("component_out")
    found = {
        "sae_lens_version": _VERSION,
        "sae_lens_training_version": None,
        "model_name": facts.get("model"),
        "hook_name": hook_name(component) or component or facts.get("hook"),
        "hook_name_out": hook_name(out) or out,
        "hook_head_index": facts.get("hook_head_index"),
        "context_size": facts.get("context_size"),
        "prepend_bos": facts.get("prepend_bos", True),
        "seqpos_slice": [None],
        "dataset_path": facts.get("dataset"),
        "model_from_pretrained_kwargs": {"center_writing_weights": True}
        if facts.get("center_writing_weights")
        else {},
        "training_architecture": facts.get("training_architecture"),
    }
    return {name: value for name, value in found.items() if value is not None or name == "hook_head_index"}
