"""One index in each wing for all tests of this folder. No test changes it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

import mlxterp
from mlxterp.index import FeatureIndex

STORIES, LETTERS = 60, 600


@pytest.fixture(scope="session")
def in_wing(tmp_path_factory) -> Callable[[str], SimpleNamespace]:
    """By wing: the demo's model and SAE, their index of some stories (a few of them twice), and the other stories."""
    made: dict[str, SimpleNamespace] = {}

    def one(backend: str) -> SimpleNamespace:
        if backend not in mlxterp.available_backends():
            pytest.skip(f"{backend} is not installed")
        if backend not in made:
            model, sae, texts = mlxterp.load_demo(backend)
            stories = [text[:LETTERS] for text in (*texts[:STORIES], *texts[:6], texts[3] + " ")]
            path = tmp_path_factory.mktemp("index") / backend
            index = model.build_index(sae, stories, path=path, verbose=False)
            made[backend] = SimpleNamespace(index=index, model=model, sae=sae, texts=texts[STORIES:])
        return made[backend]

    return one


@pytest.fixture(scope="session")
def index(in_wing) -> FeatureIndex:
    """In the wing that is taken where none is named."""
    return in_wing(mlxterp.available_backends()[0]).index
