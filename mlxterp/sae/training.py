"""Training an SAE on activations: what is the same in every array library.

Initial weights, order of tokens, schedule and checks are made here in NumPy; a backend's
`TrainState` does the steps. Activations are trained on in units in which a typical token has norm
sqrt(d_model), so that one learning rate suits every model; the result is in their own units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends import backend_of, get_backend
from ..backends.base import TrainState
from ..errors import InputError, SAEError, warn
from ..sites import Array
from ..weights import SAEWeights, TopK, TrainRecipe
from .config import SAETrainConfig, learning_rate
from .metrics import explained_variance
from .sae import SAE

_SAMPLE = 8192
"""Rows from which mean, scale and variance are taken."""
_LONGEST_SILENCE = 10_000_000


@dataclass(frozen=True, slots=True)
class _Plan:
    """A run as it will be: what was asked for, fitted to the data at hand."""

    rows: int
    batch_size: int
    steps: int
    lr: float
    d_hidden: int
    dead_after: int

    def lr_at(self, step: int) -> float:
        """Linear warm-up over 5 % of the steps (at most 1000), linear decay over the last 20 %."""
        warm_up = min(1000, math.ceil(0.05 * self.steps))
        rest = self.steps - step
        return self.lr * min(1.0, (step + 1) / warm_up, rest / max(1.0, 0.2 * self.steps))


def train_sae(
    x: Array,
    config: SAETrainConfig | None = None,
    backend: str | None = None,
    *,
    device: str | None = None,
    metadata: dict[str, Any] | None = None,
    progress: bool = True,
) -> SAE:
    """Trains an SAE on activations (n, d_model), one pass over them for each epoch.

    Args:
        x: NumPy (a memory map is read batch by batch), or an array of MLX or PyTorch.
        backend: "mlx" or "torch"; by default MLX where it is installed.
        metadata: Goes into the SAE's; "training" is added.
        progress: Show a bar where the output is a terminal.

    Raises:
        SAEError: x is not (n, d_model), holds NaN or infinite values, k does not fit, or the loss
            stops being finite.
    """
    config = config or SAETrainConfig()
    x = _as_rows(x)
    engine = get_backend(backend)
    plan = _plan(config, *x.shape)
    rng = np.random.default_rng(config.seed)
    order = rng.permutation(len(x))[: plan.rows]
    sample = _float32(x, order[: max(_SAMPLE, plan.batch_size)])
    center, scale = sample.mean(axis=0), _scale(sample)
    recipe = TrainRecipe(
        TopK(config.k), _variance(sample * scale), plan.dead_after, max(1, x.shape[1] // 2), config.aux_weight
    )
    state = engine.train_state(_initial(rng, center * scale, plan.d_hidden), recipe, device)
    last = _run(state, x, _batches(order, plan, config, rng), plan, scale, progress)
    weights = _unscaled(state.weights(), scale)
    sae = SAE(weights, recipe.activation, metadata, backend=backend, device=device)
    sae.metadata["training"] = _facts(sae, sample, last, config, plan, engine.name)
    return sae


def _run(
    state: TrainState, x: np.ndarray, batches: Iterator[np.ndarray], plan: _Plan, scale: float, progress: bool
) -> dict[str, float]:
    """Takes every step; returns the last step's report."""
    from tqdm.auto import tqdm

    report: dict[str, float] = {}
    bar = tqdm(batches, total=plan.steps, desc="Training SAE", disable=None if progress else True)
    for step, rows in enumerate(bar):
        batch = _float32(x, rows) * np.float32(scale)
        report = state.step(batch, plan.lr_at(step))
        if not math.isfinite(report["loss"]) or not math.isfinite(report["aux_loss"]):
            peak = float(np.abs(batch).max()) / scale
            raise SAEError(
                f"The loss is {report['loss']} at step {step + 1} of {plan.steps}. Likely cause: the learning"
                f" rate {plan.lr:.1e} is too high (set lr={plan.lr / 5:.0e}), or outliers: the largest"
                f" |activation| of this batch is {peak:.3g}, a typical token has norm"
                f" {math.sqrt(x.shape[1]) / scale:.3g}."
            )
        bar.set_postfix(loss=f"{report['loss']:.3f}", dead=int(report["dead"]), refresh=False)
    return report


# -- what is asked for, and what there is -------------------------------------------------------


def _plan(config: SAETrainConfig, n: int, d_model: int) -> _Plan:
    d_hidden = config.width(d_model)
    rows = min(n, config.tokens or n)
    if config.tokens is not None and config.tokens > n:
        warn(f"tokens={config.tokens} asked for, {n} are there: training on {n}.")
    batch_size = config.batch_size
    if rows < batch_size:
        warn(
            f"{rows} tokens are fewer than batch_size={batch_size}: each epoch is one step on all of them."
            " Give more tokens, or set a smaller batch_size or more epochs."
        )
        batch_size = rows
    steps = config.epochs * math.ceil(rows / batch_size)
    silence = config.dead_after or max(2 * batch_size, rows * config.epochs // 20)
    return _Plan(
        rows, batch_size, steps, config.lr or learning_rate(d_hidden, steps), d_hidden,
        min(silence, _LONGEST_SILENCE),
    )  # fmt: skip


def _as_rows(x: Array) -> np.ndarray:
    if not isinstance(x, np.ndarray):
        try:
            engine = backend_of(x)
        except InputError as error:
            raise SAEError(f"Expected an array (n, d_model), got {type(x).__name__}.") from error
        x = engine.get(x)
    if x.ndim != 2 or 0 in x.shape or x.dtype.kind not in "fiu":
        raise SAEError(
            f"Expected numbers (n, d_model), got {x.dtype} of shape {x.shape}. Give one row for each token."
        )
    for start in range(0, len(x), _SAMPLE):
        bad = np.flatnonzero(~np.isfinite(_float32(x, slice(start, start + _SAMPLE))).all(axis=1))
        if bad.size:
            raise SAEError(
                f"Row {start + int(bad[0])} of the activations holds NaN or infinite values (in float32)."
                " Drop such rows: x[np.isfinite(x).all(axis=1)]; or run the model in bfloat16 or float32."
            )
    return x


def _float32(x: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
    with np.errstate(over="ignore"):  # what becomes infinite is reported by name
        return np.asarray(x[rows], dtype=np.float32)


def _batches(
    order: np.ndarray, plan: _Plan, config: SAETrainConfig, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Row numbers of each step: every row once an epoch, batches as equal as they can be."""
    for epoch in range(config.epochs):
        if epoch:
            order = rng.permutation(order)
        for rows in np.array_split(order, plan.steps // config.epochs):
            yield np.sort(rows)  # a memory map reads faster in order; within a batch it does not matter


# -- units and first weights --------------------------------------------------------------------


def _scale(sample: np.ndarray) -> float:
    """Brings the typical (median) distance from the mean to sqrt(d_model); outliers do not count."""
    distances = np.linalg.norm((sample - sample.mean(axis=0)).astype(np.float64), axis=1)
    typical = float(np.median(distances)) or float(distances.mean())
    return math.sqrt(sample.shape[1]) / typical if typical > 0 else 1.0


def _variance(sample: np.ndarray) -> float:
    return float(sample.astype(np.float64).var(axis=0).sum()) or 1.0


def _initial(rng: np.random.Generator, center: np.ndarray, d_hidden: int) -> SAEWeights:
    """Random decoder rows of norm 1, the encoder their transpose, b_dec the mean."""
    decoder = rng.standard_normal((d_hidden, len(center)), dtype=np.float32)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    b_enc = np.zeros(d_hidden, dtype=np.float32)
    return SAEWeights(decoder.T, b_enc, decoder, center.astype(np.float32))


def _unscaled(weights: SAEWeights, scale: float) -> SAEWeights:
    """The same SAE for activations in their own units: its features come out `scale` times smaller."""
    return SAEWeights(
        weights.W_enc, weights.b_enc / np.float32(scale), weights.W_dec, weights.b_dec / np.float32(scale),
        weights.subtract_b_dec,
    )  # fmt: skip


def _facts(
    sae: SAE, sample: np.ndarray, last: dict[str, float], config: SAETrainConfig, plan: _Plan, backend: str
) -> dict[str, Any]:
    varied = bool((sample != sample[0]).any())
    return {
        "tokens": plan.rows,
        "epochs": config.epochs,
        "steps": plan.steps,
        "batch_size": plan.batch_size,
        "lr": plan.lr,
        "seed": config.seed,
        "backend": backend,
        "final_loss": last["loss"],
        "dead_features": int(last["dead"]),
        "explained_variance": explained_variance(sae, sample[:_SAMPLE]) if varied else None,
    }
