"""The hand-written circuit in each backend."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from mlxterp import InterpretableModel
from tests.attention.circuit import opened, written


@pytest.fixture(scope="session")
def circuit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("circuit"))


@cache
def _opened(folder: Path, backend: str) -> InterpretableModel:
    return opened(folder, backend)


@pytest.fixture
def circuit(circuit_folder: Path, backend: str) -> InterpretableModel:
    """Opened once in each backend; nothing changes it."""
    return _opened(circuit_folder, backend)
