"""From a trained state to an `SAE`: the threshold of the batch's selection, units, and what is known of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from ..backends.base import Backend
from ..errors import warn
from ..sae import SAE, explained_variance
from ..variants import Activation, Gated, JumpReLU, ReLU, TopK
from ..weights import SAEWeights
from .config import TrainRecipe
from .initial import Units
from .losses import above

CALIBRATION_TOKENS = 200_000
"""Tokens from which a threshold is taken."""
_ROWS, _FEW_ROWS = 4096, 1024


def finished(
    weights: SAEWeights,
    recipe: TrainRecipe,
    units: Units,
    backend: Backend,
    device: str | None,
    rows: Callable[[], Iterable[np.ndarray]],
    level: float,
    metadata: dict[str, Any],
) -> SAE:
    """The SAE for activations in their own units.

    Args:
        rows: Gives activations (n, d_model), float32, from which a batch's threshold is calibrated; used only by the
            architectures that select over a batch.
        level: What the last batch's weakest active feature had.
    """
    activation: Activation
    kind = (
        "" if weights.subtract_b_dec else "_skip_transcoder" if "W_skip" in weights.extra else "_transcoder"
    )
    metadata = {**metadata, "architecture": recipe.architecture + kind}
    if recipe.architecture == "topk":
        activation = TopK(recipe.k)
    elif recipe.architecture == "relu":
        activation = ReLU()
    elif recipe.architecture == "gated":
        activation = Gated()
    else:
        activation = JumpReLU()
    if recipe.architecture in ("batchtopk", "matryoshka_batchtopk"):
        level, tokens = calibrated(weights, recipe.k, units.x, backend, device, rows, level)
        threshold = np.full(weights.W_enc.shape[1], level, dtype=np.float32)
        weights = replace(weights, extra={**weights.extra, "threshold": threshold})
        metadata |= {"k": recipe.k, "threshold_tokens": tokens}
    if recipe.prefixes:
        metadata["prefixes"] = list(recipe.prefixes)
    return SAE(units.undone(weights), activation, metadata, backend=backend.name, device=device)


def calibrated(
    weights: SAEWeights,
    k: int,
    scale: float,
    backend: Backend,
    device: str | None,
    rows: Callable[[], Iterable[np.ndarray]],
    level: float,
) -> tuple[float, int]:
    """The threshold that k pre-activations of a token exceed on average, and the number of tokens it is from.

    Exact: of n tokens the k x n largest lie above it.

    Args:
        rows: Gives blocks of activations (n, d_model), the same ones each time.
        level: About where it lies; what is below half of it is looked at only where that is not enough.
    """
    native = backend.put_weights(replace(weights, extra={}), device)
    for floor in (level / 2, level / 8, 0.0):
        values, tokens = _values_above(native, floor, scale, backend, rows())
        below = len(values) - k * tokens
        if below > 0:
            values.partition((below - 1, below))
            return float((values[below - 1] + values[below]) / 2), tokens
    warn(
        f"On {tokens} tokens only {len(values) / max(1, tokens):.1f} pre-activations are positive on average, not"
        f" k={k}: all of them are active."
    )
    return 0.0, tokens


def _values_above(
    weights: SAEWeights, floor: float, scale: float, backend: Backend, rows: Iterable[np.ndarray]
) -> tuple[np.ndarray, int]:
    """Every pre-activation above `floor`, and the number of tokens."""
    kept: list[np.ndarray] = [np.zeros(0, dtype=np.float32)]
    tokens = 0
    for block in rows:
        for i in range(0, len(block), _ROWS):
            x = backend.put(block[i : i + _ROWS] * np.float32(scale), like=weights.b_enc)
            kept.append(above(backend, x, weights, floor).values)
            tokens += len(x)
        if tokens >= CALIBRATION_TOKENS:
            break
    return np.concatenate(kept), tokens


def facts(sae: SAE, x: np.ndarray, y: np.ndarray | None) -> dict[str, Any]:
    """Figures of a finished SAE on a sample of what it was trained on."""
    wanted = x if y is None else y
    varied = bool((wanted != wanted[0]).any())
    active = sum(len(sae.encode_sparse(x[i : i + _FEW_ROWS]).values) for i in range(0, len(x), _FEW_ROWS))
    return {
        "explained_variance": explained_variance(sae, x, y) if varied else None,
        "l0": active / len(x),
    }
