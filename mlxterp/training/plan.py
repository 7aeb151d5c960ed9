"""A run as it will be: what was asked for, fitted to the data at hand.

`run_length` is the rule for batch size and epochs, `config.learning_rate` that for the rate. They were chosen by
`benchmarks/train_defaults.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..errors import warn
from .config import SAETrainConfig, learning_rate

_LONGEST_SILENCE = 10_000_000
_LONGEST_WARM_UP = 1000
_LITTLE, _MOST_EPOCHS, _FALL = 20_000, 16, 0.6
"""Up to so many tokens are seen so often; beyond, how often falls with this power of their number."""
_STEPS = 800
"""About so many steps, where the batch size may be chosen and need not be at its limits."""
_SMALLEST, LARGEST_BATCH = 64, 4096


def run_length(config: SAETrainConfig, rows: int) -> tuple[int, int]:
    """Batch size and epochs of a run on this many tokens: what the config gives, and the rule for what it leaves open.

    Epochs are 16 x (20,000 / tokens)^0.6, rounded, from 16 (little text) to 1 (from 1.04 million tokens on). The batch
    is the power of two, from 64 to 4096, that makes about 800 steps of them all: 512 for 20,000 tokens, 1024 for
    200,000, 4096 from 2.3 million on. Tokens seen again cost a small SAE little; without them a short run ends before
    its features are found, and with fewer, larger steps too. A batch size that is given leaves epochs at 1: such a run
    is planned by hand. Neither k nor d_hidden enters: d_hidden sets the learning rate, and SAEs of one run share their
    batches.
    """
    rows = max(1, rows)
    if config.batch_size is not None:
        return config.batch_size, config.epochs or 1
    epochs = config.epochs or max(1, min(_MOST_EPOCHS, round(_MOST_EPOCHS * (_LITTLE / rows) ** _FALL)))
    batch_size = 2 ** round(math.log2(max(1.0, rows * epochs / _STEPS)))
    return min(rows, max(_SMALLEST, min(LARGEST_BATCH, batch_size))), epochs


def buffered(config: SAETrainConfig, batches: int) -> int:
    """Rows that a mixing buffer of so many batches holds; with a batch size by rule, of the largest batches."""
    return batches * (config.batch_size or LARGEST_BATCH)


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps, sizes and rates of one SAE's run."""

    tokens: int
    """Of all epochs."""
    epochs: int
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
        batch_size, epochs = run_length(config, rows)
        if rows < batch_size:
            warn(
                f"{rows} tokens are fewer than batch_size={batch_size}: each epoch is one step on all of them."
                " Give more tokens, or set a smaller batch_size or more epochs."
            )
            batch_size = rows
        tokens = rows * epochs
        steps = epochs * math.ceil(rows / batch_size)
        silence = max(2 * batch_size, round(config.dead_window * tokens))
        lr = config.lr or learning_rate(d_hidden, steps, config.architecture, epochs)
        return Plan(
            tokens, epochs, batch_size, steps, lr, d_hidden, min(silence, _LONGEST_SILENCE), config.warmup,
            config.decay,
        )  # fmt: skip

    def settings(self, config: SAETrainConfig) -> dict[str, Any]:
        """What the run trains with, and which of it the rule chose, as JSON."""
        numbers = {"batch_size": self.batch_size, "epochs": self.epochs, "lr": self.lr}
        return {**numbers, "by_rule": [name for name in numbers if getattr(config, name) is None]}

    def size(self, step: int) -> int:
        """Rows of a step: all steps are as equal as they can be."""
        return self.tokens * (step + 1) // self.steps - self.tokens * step // self.steps

    def lr_at(self, step: int) -> float:
        """Linear warm-up, and linear decay to 0 at the end."""
        warm_up = max(1, min(_LONGEST_WARM_UP, math.ceil(self.warmup * self.steps)))
        rest = self.steps - step
        return self.lr * min(1.0, (step + 1) / warm_up, rest / max(1.0, self.decay * self.steps))
