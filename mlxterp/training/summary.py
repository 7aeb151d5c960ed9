"""The last line of a run: how good its SAE is, and what would make it better, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..sae import SAE
from ..sae.untrained import untrained_variance
from .config import TOPK_FAMILY, TrainRecipe
from .plan import Plan

_ROWS = 1024
_FEW_STEPS = 200
_FEW_TOKENS = 100
"""Tokens for each feature, below which more text helps more than anything else."""
_MANY_DEAD = 0.1
_NEAR_UNTRAINED = 0.7
_CUT_SHORT = 0.5
"""A stream that gave less than this share of its tokens made the plan a wrong one."""


def summary(sae: SAE, plan: Plan, recipe: TrainRecipe, x: np.ndarray, y: np.ndarray | None) -> str:
    """Explained variance beside that of the mean and of an untrained SAE, L0, dead features, and advice.

    Args:
        sae: As it came out, with the facts of its run in its metadata.
        x: Some activations that it was trained on (n, d_model).
        y: What a transcoder predicts of them, (n, d_out).
    """
    facts = sae.metadata["training"]
    value, dead = facts["explained_variance"], (facts["dead_features"] or 0) / sae.d_hidden
    place = sae.component or "activations"
    times = f", {plan.epochs} times each" if plan.epochs > 1 and not facts.get("interrupted") else ""
    run = f"{facts['steps']:,} step{'s' * (facts['steps'] != 1)} on {facts['tokens']:,} tokens{times}"
    if value is None:
        return f"SAE of {place}: all activations are equal, so there is nothing to explain. {run}."
    l0, untrained = (
        facts["l0"],
        untrained_variance(x[:_ROWS], None if y is None else y[:_ROWS], sae.d_hidden, facts["l0"]),
    )
    found = (
        f"SAE of {place}: explained variance {value:.2f} on tokens it was trained on (the mean explains 0, an untrained"
        f" SAE {untrained:.2f}), {l0:.1f} of {sae.d_hidden:,} features active on a token, {dead:.0%} dead; {run}."
    )
    advice = _advice(
        facts, plan, recipe, sae.d_hidden, dead, near=1 - value > _NEAR_UNTRAINED * (1 - untrained)
    )
    if plan.epochs > 1:
        advice.append("On other text it explains less: sae.evaluate(model, texts).")
    return " ".join([found, *advice])


def _advice(
    facts: Mapping[str, Any], plan: Plan, recipe: TrainRecipe, d_hidden: int, dead: float, near: bool
) -> list[str]:
    """What would help, the most likely first."""
    advice, tokens, planned = [], facts["tokens"], plan.tokens // plan.epochs
    if facts.get("interrupted"):
        advice.append("It was interrupted; resume=True goes on.")
    elif tokens < _CUT_SHORT * planned:
        advice.append(
            f"The data ended after {tokens:,} of {planned:,} tokens, for which the run was planned; tokens={tokens}"
            " makes a plan for what is there."
        )
    if near:
        advice.append("It is poor: hardly better than untrained.")
    if facts["steps"] < _FEW_STEPS:
        few = "1 step is" if facts["steps"] == 1 else f"{facts['steps']} steps are"
        advice.append(
            f"{few} few: more text, more epochs or a smaller batch_size would help (left out of the config, epochs and"
            " batch_size follow the amount of text)."
        )
    elif tokens < _FEW_TOKENS * d_hidden:
        each = max(1, round(tokens / d_hidden))
        advice.append(
            f"More text would help most ({each} tokens for each feature are few), or fewer features (d_hidden)."
        )
    if dead > _MANY_DEAD:
        advice.append("Fewer features (d_hidden) or a smaller lr would leave fewer dead.")
    if recipe.architecture not in TOPK_FAMILY and not 0.5 <= facts["l0"] / recipe.k <= 2:
        advice.append(f"L0 is far from k={recipe.k}: a longer run or another sparsity would bring it nearer.")
    return advice or ["Nothing stands out; a larger k, more features or more text would explain more."]
