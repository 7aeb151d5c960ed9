"""The embedded model on each backend, and an index of a few texts."""

from __future__ import annotations

import pytest

import mlxterp
from mlxterp import FeatureIndex, InterpretableModel
from mlxterp.variants import TopK
from tests.index.small import TEXTS, random_sae

_MODELS: dict[str, InterpretableModel] = {}


@pytest.fixture
def model(backend: str) -> InterpretableModel:
    """The embedded model."""
    if backend not in _MODELS:
        _MODELS[backend] = mlxterp.load_demo(backend).model
    return _MODELS[backend]


@pytest.fixture(scope="session")
def embedded() -> InterpretableModel:
    """The embedded model on the default backend."""
    return mlxterp.load_demo().model


@pytest.fixture(scope="session")
def index(embedded: InterpretableModel) -> FeatureIndex:
    """An index of `TEXTS` with a random TopK SAE, every token but BOS counted."""
    return embedded.build_index(random_sae(TopK(8), embedded.d_model), TEXTS)
