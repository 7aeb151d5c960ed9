"""Whether weights and activation of an SAE belong together, and are numbers; the fingerprint of what they compute."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from ..errors import SAEError
from ..variants import (
    EXTRA,
    Activation,
    InputForm,
    MatchingPursuit,
    Temporal,
    activation_to_dict,
    check_activation,
)
from ..weights import SAEWeights


def check_weights(weights: SAEWeights, activation: Activation) -> None:
    """Raises SAEError where the activation does not fit the weights, or a number is not finite."""
    check_activation(activation, weights.W_enc.shape[1])
    missing = [name for name in EXTRA.get(activation.name, ()) if name not in weights.extra]
    if isinstance(activation, Temporal):
        _check_attention(weights, activation)
    if isinstance(activation, MatchingPursuit) and weights.W_dec.shape[1] != weights.W_enc.shape[0]:
        raise SAEError("Matching pursuit reconstructs its own input, so d_out must be d_model.")
    if missing:
        raise SAEError(f"A {activation.name} SAE needs {', '.join(missing)} in SAEWeights.extra.")
    for name, array in weights.arrays().items():
        bad = array.size - int(np.isfinite(array).sum())
        if bad:
            raise SAEError(
                f"{bad} of {array.size} numbers in {name} are not finite. The file is damaged or training"
                " diverged; train again with a smaller lr."
            )


def _check_attention(weights: SAEWeights, activation: Temporal) -> None:
    """Raises SAEError where a temporal SAE's attention is missing, or has shapes that do not fit."""
    n, heads = weights.W_enc.shape[1], activation.n_heads
    if activation.n_attn_layers > len(weights.extra):
        raise SAEError(
            f"A temporal SAE of {activation.n_attn_layers} layers lacks attention in SAEWeights.extra."
        )
    for layer in range(activation.n_attn_layers):
        width = getattr(weights.extra.get(f"attention.{layer}.q_target.bias"), "size", 0)
        rows = {"q_target": width, "k_ctx": width, "v_ctx": n, "c_proj": n}
        for part, m in rows.items():
            for kind, shape in (("weight", (m, n)), ("bias", (m,))):
                name = f"attention.{layer}.{part}.{kind}"
                found = getattr(weights.extra.get(name), "shape", None)
                if found != shape or not m:
                    raise SAEError(
                        f"{name} has shape {found}, expected {shape}, of a temporal SAE of {n} features."
                    )
        if width % heads or n % heads:
            raise SAEError(f"{heads} heads do not divide attention of width {width} over {n} features.")


def fingerprint(weights: SAEWeights, activation: Activation, form: InputForm) -> str:
    """sha256 of everything that features depend on."""
    facts = [activation_to_dict(activation), weights.subtract_b_dec, repr(form)]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for name, array in weights.arrays().items():
        digest.update(f"{name} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
