"""The Llama that edits are tried on, in each backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxterp import InterpretableModel
from tests.small import llama_folder, open_llama


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    return llama_folder(tmp_path_factory)


@pytest.fixture
def model(folder: Path | None, backend: str) -> InterpretableModel:
    return open_llama(folder, backend)
