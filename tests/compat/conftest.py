"""Fixtures of the tests of `mlxterp.compat.saelens`."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxterp.compat.saelens import HookedSAETransformer
from tests.compat.lens import opened
from tests.small import checkpoint


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    return {kind: checkpoint(kind, tmp_path_factory.mktemp(kind)) for kind in ("gpt2", "llama")}


@pytest.fixture(params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest, folders: dict[str, Path], backend: str) -> HookedSAETransformer:
    return opened(folders[request.param], backend)


@pytest.fixture
def gpt2(folders: dict[str, Path], backend: str) -> HookedSAETransformer:
    return opened(folders["gpt2"], backend)
