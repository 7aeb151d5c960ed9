"""What a training step needs to know besides weights and data: a small value."""

from __future__ import annotations

from dataclasses import dataclass

TOPK_FAMILY = ("topk", "batchtopk", "matryoshka_batchtopk")
"""Architectures whose number of active features is given."""
ARCHITECTURES = (*TOPK_FAMILY, "jumprelu", "relu", "gated")
"""What can be trained."""


@dataclass(frozen=True, slots=True)
class TrainRecipe:
    """One SAE's objective. Squared errors are divided by `variance`, so that the loss is near 1 at first."""

    architecture: str
    """One of `ARCHITECTURES`."""
    k: int
    """Active features of a token: exactly (topk), on average (batchtopk, matryoshka_batchtopk), or what the
    penalty aims at (jumprelu, relu, gated)."""
    variance: float
    """Mean squared distance of the targets from their mean."""
    dead_after: int
    """A feature that has not fired for this many tokens is dead."""
    aux_k: int
    """At most this many dead features per token explain what the others left over."""
    aux_weight: float
    """Weight of that second error; 0 leaves it out."""
    prefixes: tuple[int, ...] = ()
    """matryoshka_batchtopk: numbers of first features that reconstruct on their own, ascending; the last is
    d_hidden."""
    sparsity: float | None = None
    """Weight of the penalty on active features; None lets it follow k (relu, gated) or takes 1 (jumprelu)."""
    bandwidth: float = 2.0
    """jumprelu: width of the window around a threshold in which it feels the loss."""
