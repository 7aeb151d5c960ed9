"""`Trainer`: one SAE of a run, from its first weights to the finished `SAE`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.base import Backend
from ..backends.host.memory import free_bytes
from ..core import checks
from ..errors import SAEError
from ..sae import SAE
from .config import SAETrainConfig, TrainRecipe
from .finish import facts, finished
from .history import ROWS, History, Row
from .initial import Units, first_weights, variance
from .plan import Plan
from .state import StepReport, TrainState
from .summary import summary

SAMPLE = 8192
"""Rows from which means, scales and variances are taken."""
_DIVERGED, _PATIENCE = 10.0, 25
"""A loss that stays above so much for so many steps is not coming back."""


@dataclass(frozen=True, slots=True)
class Job:
    """One SAE to train."""

    config: SAETrainConfig
    source: str
    """Which of the rows' components it reads."""
    target: str | None = None
    """Which one it predicts; None for its own."""
    metadata: dict[str, Any] = field(default_factory=dict)
    save_path: Path | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """How far a run has come."""

    steps: int
    tokens: int
    """Of all epochs."""
    interrupted: bool = False


class Trainer:
    """One SAE of a run.

    Args:
        total: Rows of an epoch.
        sample: Rows of each component, from which the units are taken.
        logs: Functions of a row of figures.
    """

    def __init__(
        self, name: str, job: Job, total: int, sample: Mapping[str, np.ndarray], backend: Backend,
        device: str | None, logs: list[Callable[[Row], Any]],
    ):  # fmt: skip
        self.name, self.job, self._backend, self._device = name, job, backend, device
        config = job.config
        x = sample[job.source]
        y = None if job.target is None else sample[job.target]
        self.plan = Plan.of(config, total, x.shape[1])
        _check_room(self.plan.d_hidden, x.shape[1] + (x if y is None else y).shape[1])
        self.units = Units.of(x, y, config.normalize)
        self._sample = x[:SAMPLE], None if y is None else y[:SAMPLE]
        inside = x * np.float32(self.units.x)
        outside = None if y is None else y * np.float32(self.units.y)
        wanted = inside if outside is None else outside
        self.recipe = TrainRecipe(
            config.architecture, config.k, variance(wanted), self.plan.dead_after, max(1, wanted.shape[1] // 2),
            config.auxk, config.prefixes_of(self.plan.d_hidden), config.sparsity, config.bandwidth,
        )  # fmt: skip
        rng = np.random.default_rng([config.seed, 2])
        weights = first_weights(rng, inside, outside, self.plan.d_hidden, config)
        self.state = TrainState(backend, weights, self.recipe, device)
        self.history = History(max(1, self.plan.steps // ROWS), logs)
        self.last: StepReport | None = None
        self._bad = 0

    def train(self, batch: Mapping[str, np.ndarray], step: int, tokens: int) -> None:
        """One step on this process's share of a batch.

        Args:
            step: Steps taken before.
            tokens: Tokens seen, this batch included.

        Raises:
            SAEError: The loss is not finite, or grows without end.
        """
        x = batch[self.job.source] * np.float32(self.units.x)
        y = None if self.job.target is None else batch[self.job.target] * np.float32(self.units.y)
        lr = self.plan.lr_at(step)
        report = self.last = self.state.step(x, lr, y)
        self._bad = self._bad + 1 if report.loss > _DIVERGED else 0
        if not report.finite or self._bad >= _PATIENCE:
            self._stop(report, x if y is None else y, step)
        figures = {
            "loss": report.loss + report.penalty,
            "explained_variance": 1 - report.loss,
            "l0": report.l0,
            "dead_share": report.dead / self.plan.d_hidden,
            "aux_loss": report.aux_loss,
        }
        self.history.add(step + 1, tokens, lr, figures, step + 1 == self.plan.steps)

    def finish(
        self, rows: Callable[[], Iterator[np.ndarray]], metadata: Mapping[str, Any], seen: Seen
    ) -> SAE:
        """The SAE, in the activations' own units.

        Args:
            rows: Gives what it reads, to calibrate a threshold on.
            metadata: What is known of the rows.
        """
        config = self.job.config
        sae = finished(
            self.state.weights(), self.recipe, self.units, self._backend, self._device, rows, self.state.level,
            {**metadata, **self.job.metadata},
        )  # fmt: skip
        sae.metadata["training"] = {
            "tokens": seen.tokens if seen.interrupted else seen.tokens // self.plan.epochs,
            "steps": seen.steps,
            **self.plan.settings(config),
            "seed": config.seed,
            "backend": self._backend.name,
            "final_loss": self.last.loss if self.last else None,
            "dead_features": self.last.dead if self.last else None,
            **({"interrupted": True} if seen.interrupted else {}),
            **facts(sae, *self._sample),
        }
        sae.metadata["training"]["summary"] = summary(sae, self.plan, self.recipe, *self._sample)
        return sae

    def _stop(self, report: StepReport, batch: np.ndarray, step: int) -> None:
        """Raises SAEError with the likely cause."""
        checks.finite_rows(batch, self.job.target or self.job.source)
        scale, width = self.units.y, batch.shape[1]
        peak = float(np.abs(batch).max()) / scale
        what = (
            f"is {report.loss}"
            if not report.finite
            else f"has been above {_DIVERGED:g} for {_PATIENCE} steps"
        )
        raise SAEError(
            f"The loss of {self.name!r} {what} at step {step + 1} of {self.plan.steps}. Likely cause: the learning rate"
            f" {self.plan.lr:.1e} is too high (set lr={self.plan.lr / 5:.0e}), or outliers: the largest |activation|"
            f" of this batch is {peak:.3g}, a typical token lies {math.sqrt(width) / scale:.3g} from the mean. A"
            " checkpoint that was written before is still there."
        )


def _check_room(d_hidden: int, width: int) -> None:
    """Raises SAEError where not even the weights have room: `width` numbers of each feature, float32."""
    needed, free = 4 * d_hidden * width, free_bytes()
    if needed > free:
        raise SAEError(
            f"{d_hidden} features of {width} numbers each need {needed / 1e9:,.1f} GB for their weights alone, and"
            f" {free / 1e9:,.1f} GB are free. Choose a smaller d_hidden."
        )
