"""What a training run of an SAE is asked to do, checked when it is written down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..errors import SAEError

ARCHITECTURES = ("topk",)
"""What `train_sae` can train."""

_DEFAULT_EXPANSION = 16


@dataclass(frozen=True, slots=True)
class SAETrainConfig:
    """Settings of `train_sae`. The defaults suit a laptop: up to some millions of tokens.

    Raises:
        SAEError: A setting cannot be used; the message says what can.
    """

    d_hidden: int | None = None
    """Number of features; None takes `expansion_factor` x d_model."""
    expansion_factor: float | None = None
    """d_hidden / d_model, where d_hidden is not given; None means 16."""
    k: int = 32
    """Features active on each token."""
    architecture: str = "topk"
    tokens: int | None = None
    """At most this many tokens (rows) are used; None uses all."""
    epochs: int = 1
    """How often each token is seen."""
    batch_size: int = 4096
    """Tokens in one step."""
    lr: float | None = None
    """Peak learning rate of Adam; None takes it from width and length of the run (`learning_rate`)."""
    seed: int = 0
    """Decides initial weights and the order of tokens."""
    aux_weight: float = 1 / 32
    """Weight of the error that dead features are asked to explain; 0 leaves them dead."""
    dead_after: int | None = None
    """A feature silent for this many tokens is dead; None means 5 % of the run, at most 10 million."""

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise SAEError(
                f"Unknown architecture {self.architecture!r}."
                f" This version trains: {', '.join(ARCHITECTURES)}."
            )
        for name in ("d_hidden", "k", "tokens", "epochs", "batch_size", "dead_after"):
            _check_count(name, getattr(self, name))
        if not _is_int(self.seed) or self.seed < 0:
            raise SAEError(f"seed is {self.seed!r}; it must be an integer of at least 0.")
        if self.d_hidden is not None and self.expansion_factor is not None:
            raise SAEError(
                f"d_hidden={self.d_hidden} and expansion_factor={self.expansion_factor} say the same thing"
                " in two ways. Give one of them."
            )
        for name in ("expansion_factor", "lr"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and value > 0):
                raise SAEError(f"{name} is {value!r}; it must be a positive number.")
        if not (_is_number(self.aux_weight) and self.aux_weight >= 0):
            raise SAEError(f"aux_weight is {self.aux_weight!r}; it must be 0 or a positive number.")
        if self.d_hidden is not None:
            self._check_k(self.d_hidden)

    def width(self, d_model: int) -> int:
        """d_hidden for activations of this width.

        Raises:
            SAEError: k is larger.
        """
        if self.d_hidden is not None:
            return int(self.d_hidden)
        width = max(1, round((self.expansion_factor or _DEFAULT_EXPANSION) * d_model))
        self._check_k(width)
        return width

    def _check_k(self, d_hidden: int) -> None:
        if self.k > d_hidden:
            raise SAEError(
                f"k={self.k} is larger than d_hidden={d_hidden}: no more features can be active than there"
                " are. Choose a smaller k or more features."
            )


def learning_rate(d_hidden: int, steps: int) -> float:
    """Peak learning rate of Adam that was measured to work: narrower SAEs and shorter runs take more.

    2e-4 / sqrt(d_hidden / 16384) * (20000 / steps)^0.6, for 200 to 20,000 steps; beyond, as at the end. In
    shorter runs a smaller rate leaves more unexplained, a larger one leaves features dead.
    """
    return 2e-4 * math.sqrt(16_384 / d_hidden) * (20_000 / min(max(steps, 200), 20_000)) ** 0.6


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_count(name: str, value: Any) -> None:
    optional = name in ("d_hidden", "tokens", "dead_after")
    if value is None and optional:
        return
    if value is None or not _is_int(value) or value < 1:
        raise SAEError(f"{name} is {value!r}; it must be an integer of at least 1{' or None' * optional}.")
