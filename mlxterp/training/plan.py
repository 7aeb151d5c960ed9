"""A run as it will be: what was asked for, fitted to the data at hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import warn
from .config import SAETrainConfig, learning_rate

_LONGEST_SILENCE = 10_000_000
_LONGEST_WARM_UP = 1000


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps, sizes and rates of one SAE's run."""

    tokens: int
    """Of all epochs."""
    batch_size: int
    steps: int
    lr: float
    d_hidden: int
    dead_after: int
    warmup: float
    decay: float

    @staticmethod
    def of(config: SAETrainConfig, rows: int, d_model: int) -> Plan:
        """For this many rows in an epoch."""
        d_hidden = config.width(d_model)
        batch_size = config.batch_size
        if rows < batch_size:
            warn(
                f"{rows} tokens are fewer than batch_size={batch_size}: each epoch is one step on all of them."
                " Give more tokens, or set a smaller batch_size or more epochs."
            )
            batch_size = rows
        tokens = rows * config.epochs
        steps = config.epochs * math.ceil(rows / batch_size)
        silence = max(2 * batch_size, round(config.dead_window * tokens))
        lr = config.lr or learning_rate(d_hidden, steps, config.architecture)
        return Plan(
            tokens, batch_size, steps, lr, d_hidden, min(silence, _LONGEST_SILENCE), config.warmup, config.decay
        )  # fmt: skip

    def size(self, step: int) -> int:
        """Rows of a step: all steps are as equal as they can be."""
        return self.tokens * (step + 1) // self.steps - self.tokens * step // self.steps

    def lr_at(self, step: int) -> float:
        """Linear warm-up, and linear decay to 0 at the end."""
        warm_up = max(1, min(_LONGEST_WARM_UP, math.ceil(self.warmup * self.steps)))
        rest = self.steps - step
        return self.lr * min(1.0, (step + 1) / warm_up, rest / max(1.0, self.decay * self.steps))
