"""Random transcoders of a model, and the models of five architectures, in either wing."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from mlxterp import SAE, ConfigWarning, InterpretableModel
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


def folder_of(model_type: str, folder: Path, **shape: Any) -> Path:
    """A checkpoint that both wings open."""
    return checkpoint(model_type, folder, **shape)


def opened(folder: Path, backend: str, tokenizer: Any = None) -> InterpretableModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        return InterpretableModel(folder, tokenizer=tokenizer, backend=backend)
