"""What the tests of Mi-Crow's guides start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import mlxterp
from mlxterp import LocalStore
from mlxterp.compat.mi_crow import LanguageModel


@pytest.fixture
def sae(demo: mlxterp.demo.Demo) -> mlxterp.SAE:
    """The same SAE, with concepts of its own."""
    return demo.sae.replace()


@pytest.fixture
def lm(demo: mlxterp.demo.Demo, tmp_path: Path) -> Iterator[LanguageModel]:
    """Mi-Crow's model; whatever was attached is taken away afterwards."""
    yield LanguageModel(demo.model, store=LocalStore(base_path=tmp_path / "store"))
    for thing in demo.model.session.attachments.attached:
        demo.model.session.attachments.detach(thing)
