"""Random transcoders of a model, of one layer or across layers, and models of five architectures, in either wing."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from mlxterp import SAE, ConfigWarning, InterpretableModel
from mlxterp.sae import CrossLayerTranscoder, CrossLayerWeights
from mlxterp.variants import Activation, JumpReLU, ReLU, TopK
from mlxterp.weights import SAEWeights
from tests.small import checkpoint

ACTIVATIONS: dict[str, Activation] = {"relu": ReLU(), "jumprelu": JumpReLU(), "topk": TopK(5)}


def transcoder(
    layer: int, width: int, n: int = 24, activation: Activation | None = None, skip: bool = False
) -> SAE:
    """A random transcoder of a layer's MLP, about a third of whose features are active."""
    draw = np.random.default_rng(layer)
    activation = activation or ReLU()
    extra: dict[str, Any] = {}
    if isinstance(activation, JumpReLU):
        extra["threshold"] = np.abs(draw.normal(size=n)) / 4
    if skip:
        extra["W_skip"] = draw.normal(size=(width, width)) / width
    weights = SAEWeights(
        draw.normal(size=(width, n)) / np.sqrt(width), draw.normal(size=n) / 4 - 0.3,
        draw.normal(size=(n, width)) / np.sqrt(width), draw.normal(size=width) / 9, subtract_b_dec=False, extra=extra,
    )  # fmt: skip
    named = {"component": f"layers.{layer}.mlp.input", "component_out": f"layers.{layer}.mlp_out"}
    return SAE(weights.map(lambda x: x.astype(np.float32)), activation, named)


def transcoders(model: InterpretableModel, **options: Any) -> dict[int, SAE]:
    """One for each layer."""
    return {layer: transcoder(layer, model.d_model, **options) for layer in range(model.n_layers)}


def cross_layer(
    layers: int, width: int, n: int = 24, *, jumps: bool = False, skip: bool = False, reads: str = "resid_mid",
    apart: bool = True,
) -> CrossLayerTranscoder:  # fmt: skip
    """A random cross-layer transcoder; `apart` of False gives it nothing to write to later layers."""
    draw, made = np.random.default_rng(7), []
    for layer in range(layers):
        decoder = draw.normal(size=(n, layers - layer, width)) / np.sqrt(width)
        if not apart:
            decoder[:, 1:] = 0
        made.append(
            CrossLayerWeights(
                draw.normal(size=(width, n)) / np.sqrt(width), draw.normal(size=n) / 4 - 0.3, decoder,
                draw.normal(size=width) / 9, np.abs(draw.normal(size=n)) / 4 if jumps else None,
                draw.normal(size=(width, width)) / width if skip else None,
            )
        )  # fmt: skip
    return CrossLayerTranscoder(made, reads)


def layer_by_layer(clt: CrossLayerTranscoder) -> dict[int, SAE]:
    """The same as transcoders that write to their own layers only."""
    found = {}
    for layer, one in enumerate(clt.layers):
        extra: dict[str, Any] = {"threshold": one.threshold, "W_skip": one.W_skip}
        ids = np.arange(one.d_hidden)
        weights = SAEWeights(
            one.W_enc.take(ids).T, one.b_enc, one.W_dec.take(ids, 0), one.b_dec, subtract_b_dec=False,
            extra={name: value for name, value in extra.items() if value is not None},
        )  # fmt: skip
        named = {"component": clt.component(layer), "component_out": clt.component_out(layer)}
        found[layer] = SAE(weights, ReLU() if one.threshold is None else JumpReLU(), named)
    return found


def folder_of(model_type: str, folder: Path, **shape: Any) -> Path:
    """A checkpoint that both wings open."""
    return checkpoint(model_type, folder, **shape)


def opened(folder: Path, backend: str, tokenizer: Any = None) -> InterpretableModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        return InterpretableModel(folder, tokenizer=tokenizer, backend=backend)
