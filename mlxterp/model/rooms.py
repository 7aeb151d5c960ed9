"""Verbs of lower values that need an `InterpretableModel`, for `core.rooms` to open.

Each takes what the method takes, checks that the model is one, and asks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from ..evaluation.check import SAECheck
from ..evaluation.evaluation import SAEEvaluation
from ..sae import SAE
from .interpretable import InterpretableModel


def check_sae(
    sae: SAE, model: Any, texts: Sequence[str], component: str | None = None, **options: Any
) -> SAECheck:
    """`sae.check`: what `model.check_sae` finds.

    Raises:
        InputError: `model` is no InterpretableModel.
    """
    return _checked(model).check_sae(sae, texts, component=component, **options)


def evaluate_sae(
    sae: SAE, model: Any, texts: Sequence[str], component: str | None = None, **options: Any
) -> SAEEvaluation:
    """`sae.evaluate`: what `model.evaluate_sae` measures.

    Raises:
        InputError: `model` is no InterpretableModel.
    """
    return _checked(model).evaluate_sae(sae, texts, component=component, **options)


def _checked(model: Any) -> InterpretableModel:
    if not isinstance(model, InterpretableModel):
        raise InputError(f"Expected an InterpretableModel, got {type(model).__name__}.")
    return model
