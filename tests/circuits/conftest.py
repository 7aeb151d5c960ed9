"""Checkpoints that the tests of circuits share."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxterp import InterpretableModel
from tests.circuits.making import folder_of, opened

IDS = [3, 17, 4, 4, 29, 8]


@pytest.fixture(scope="package")
def one_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of one layer."""
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 50}
    return folder_of("llama", tmp_path_factory.mktemp("one"), **shape)


@pytest.fixture(scope="package")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of three layers."""
    return folder_of("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture
def model(llama: Path, backend: str) -> InterpretableModel:
    return opened(llama, backend)
