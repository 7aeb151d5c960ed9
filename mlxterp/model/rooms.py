"""Verbs of lower values that need an `InterpretableModel`, for `core.rooms` to open.

Each takes what the method takes, checks that the model is one, and asks it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ..anatomy.session import Model
from ..errors import ComponentError, InputError
from ..evaluation.check import SAECheck
from ..evaluation.cross_layer import CrossLayerEvaluation, evaluate_layers
from ..evaluation.evaluation import SAEEvaluation
from ..index import FeatureIndex
from ..sae import SAE, CrossLayerTranscoder, SAECollection
from ..sae.adapt import trained_elsewhere
from ..sae.manifest import Key
from .interpretable import InterpretableModel


def check_sae(
    sae: SAE, model: Model, texts: Sequence[str], component: str | None = None, **options: Any
) -> SAECheck:
    """`sae.check`: what `model.check_sae` finds.

    Raises:
        InputError: `model` is no InterpretableModel.
    """
    return _checked(model).check_sae(sae, texts, component=component, **options)


def evaluate_sae(
    sae: SAE, model: Model, texts: Sequence[str], component: str | None = None, **options: Any
) -> SAEEvaluation:
    """`sae.evaluate`: what `model.evaluate_sae` measures.

    Raises:
        InputError: `model` is no InterpretableModel.
    """
    return _checked(model).evaluate_sae(sae, texts, component=component, **options)


def evaluate_cross_layer(
    clt: CrossLayerTranscoder, model: Model, texts: Any, max_tokens: int = 8192
) -> CrossLayerEvaluation:
    """`clt.evaluate`: its figures at each layer, and a warning where something acts on the model.

    Raises:
        InputError: `model` is no InterpretableModel, or there are no texts.
    """
    session = _checked(model).session
    session.refresh()
    session.warn_of_acts("a transcoder is evaluated")
    return evaluate_layers(session.anatomy, clt, texts, max_tokens)


def is_compatible(sae: SAE, model: Model, layer: int, component: str = "mlp") -> bool:
    """`sae.is_compatible`: whether the place is there, as wide as the SAE's input, and not another than its own.

    Raises:
        InputError: `model` is no InterpretableModel.
    """
    anatomy = _checked(model).session.anatomy
    try:
        place = anatomy.component(f"layers.{anatomy.names.layer(layer)}.{component}")
        wide = anatomy.width(place) == sae.d_model
    except ComponentError:
        return False
    return wide and trained_elsewhere(anatomy, sae, place.name) is None


def build_indexes(
    collection: SAECollection, model: Model, texts: Any, path: str | os.PathLike, **options: Any
) -> dict[Key, FeatureIndex]:
    """`collection.build_indexes`: `model.build_indexes` of its SAEs.

    Raises:
        InputError: `model` is no InterpretableModel, `path` is no folder, or there are no texts.
    """
    return _checked(model).build_indexes(collection, texts, path, **options)


def _checked(model: Model) -> InterpretableModel:
    if not isinstance(model, InterpretableModel):
        raise InputError(f"Expected an InterpretableModel, got {type(model).__name__}.")
    return model
