"""Models that patching is tried on, and its methods as functions of any `InterpretableModel`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mlxterp import ConfigWarning, InterpretableModel
from tests.small import checkpoint

CLEAN = [3, 14, 15, 92, 65, 35, 89]
CORRUPTED = [3, 14, 77, 92, 65, 11, 89]

activation: Callable[..., Any] = InterpretableModel.activation_patching
attribution: Callable[..., Any] = InterpretableModel.attribution_patching
lens: Callable[..., Any] = InterpretableModel.logit_lens


@cache
def opened(model_type: str, folder: Path, backend: str) -> InterpretableModel:
    """A random model of `small.SHAPES`, written to `folder` once."""
    if not (folder / "config.json").is_file():
        checkpoint(model_type, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        return InterpretableModel(folder, backend=backend)


def numpy_of(model: InterpretableModel, array: Any) -> np.ndarray:
    return model.language_model.backend.get(array).astype(np.float64)


def logits_of(model: InterpretableModel, tokens: Any, changes: dict | None = None) -> np.ndarray:
    return numpy_of(model, model.trace(tokens, changes, capture=[]).output)


def activations_of(model: InterpretableModel, tokens: Any, name: str) -> np.ndarray:
    return numpy_of(model, model.trace(tokens, capture=[name]).activations[name])


def without_final_norm(model: InterpretableModel) -> InterpretableModel:
    """The same Llama with the identity for its final norm: the logits are linear in the last residual stream."""
    inner = model.language_model.model.model  # type: ignore[attr-defined]
    if model.language_model.backend.name == "mlx":
        import mlx.nn as nn

        inner.norm = nn.Identity()
    else:
        import torch

        inner.norm = torch.nn.Identity()
    return model
