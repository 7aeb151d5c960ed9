"""The state that a pass needs and puts back: evaluation mode."""

from __future__ import annotations

from contextlib import AbstractContextManager

import mlx.nn as nn

from ..host.modes import EvaluationMode
from .tree import ModuleTree


def _set_training(module: nn.Module, training: bool) -> None:
    module._training = training


_EVALUATION: EvaluationMode[nn.Module] = EvaluationMode(
    lambda modules: [module for module in modules if vars(module).get("_training")], _set_training
)


def settled(tree: ModuleTree) -> AbstractContextManager[None]:
    """Runs the model without dropout. MLX builds the graph at the call, so this need not last until it is computed."""
    return _EVALUATION.of(tree.every)
