"""The Llama that patching is tried on, in each backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxterp import InterpretableModel
from tests.patching.asking import opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return tmp_path_factory.mktemp("llama")


@pytest.fixture
def model(backend: str, folder: Path) -> InterpretableModel:
    return opened("llama", folder, backend)
