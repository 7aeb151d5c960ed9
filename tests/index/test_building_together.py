"""Indexes of several SAEs from one pass: the files of single builds, however often it was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlxterp import SAE, FeatureIndex, InputError, InterpretableModel, SAECollection
from mlxterp.index import encode
from mlxterp.variants import JumpReLU, TopK
from tests.index.small import TEXTS, files_of, random_sae
from tests.index.test_building import Interrupted, stopping

WINDOWS = "ignore:.*longer than the model.*:mlxterp.MlxterpWarning"


def saes_of(model: InterpretableModel) -> dict[Any, SAE]:
    """Two at one component, the third a layer below."""
    below = random_sae(JumpReLU(), model.d_model, 16, seed=2)
    below.metadata["component"] = "layers.0.mlp"
    return {
        "narrow": random_sae(TopK(4), model.d_model, 32),
        64: random_sae(TopK(8), model.d_model),
        "below": below,
    }


def runs_of_model(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one number, of components, for each batch that the model runs over."""
    runs: list[int] = []

    def run_batch(model: Any, batch: Any, components: Any) -> Any:
        runs.append(len(components))
        return whole(model, batch, components)

    whole = encode.run_batch
    monkeypatch.setattr(encode, "run_batch", run_batch)
    return runs


def test_one_pass_writes_the_files_of_single_builds(model, tmp_path, monkeypatch):
    saes = saes_of(model)
    runs = runs_of_model(monkeypatch)
    found = model.build_indexes(saes, iter(TEXTS), tmp_path / "all", shard_tokens=40, verbose=False)
    together = list(runs)
    assert list(found) == ["narrow", 64, "below"] and set(together) == {2}
    for key, sae in saes.items():
        runs.clear()
        model.build_index(sae, TEXTS, tmp_path / str(key), shard_tokens=40)
        assert len(runs) == len(together)
        assert files_of(tmp_path / "all" / str(key)) == files_of(tmp_path / str(key))
        assert found[key].d_hidden == sae.d_hidden and found[key].n_texts == len(TEXTS)


@pytest.mark.filterwarnings(WINDOWS)
@pytest.mark.parametrize("at", [4, 13, 25])
def test_a_build_that_stopped_goes_on_to_the_same_files(embedded, tmp_path, monkeypatch, at):
    saes = {key: sae for key, sae in saes_of(embedded).items() if key != 64}
    texts, size = [TEXTS[0], " ".join(TEXTS * 7), TEXTS[1]], 300  # a text of several shards
    for key, sae in saes.items():
        embedded.build_index(sae, texts, tmp_path / key, shard_tokens=size)
    with monkeypatch.context() as patch:
        stopping(patch, at)
        with pytest.raises(Interrupted):
            embedded.build_indexes(saes, texts, tmp_path / "all", shard_tokens=size, verbose=False)
    embedded.build_indexes(saes, texts, tmp_path / "all", shard_tokens=size, verbose=False)
    for key in saes:
        assert files_of(tmp_path / "all" / key) == files_of(tmp_path / key)


def test_those_that_are_there_are_not_made_again(embedded, tmp_path, monkeypatch):
    saes = saes_of(embedded)
    first = embedded.build_index(saes["narrow"], TEXTS, tmp_path / "narrow")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "narrow").iterdir()}
    runs = runs_of_model(monkeypatch)
    found = SAECollection(saes).build_indexes(embedded, TEXTS, tmp_path, exclude=("bos", "sinks"))
    assert runs and {path: path.stat().st_mtime_ns for path in (tmp_path / "narrow").iterdir()} == times
    assert found["narrow"].top_texts(3) == first.top_texts(3)
    runs.clear()
    embedded.build_indexes(saes, TEXTS, tmp_path)
    assert not runs


def test_the_more_saes_the_smaller_is_a_shard(embedded, tmp_path, monkeypatch):
    monkeypatch.setattr("mlxterp.index.building._SHARD_PAIRS", 24 * 3000)
    saes = {key: random_sae(TopK(8), embedded.d_model, seed=key) for key in (1, 2, 3)}
    sizes = [
        index._meta.shard_tokens
        for index in embedded.build_indexes(saes, TEXTS, tmp_path / "three", verbose=False).values()
    ]
    alone = embedded.build_index(saes[1], TEXTS, tmp_path / "one")._meta.shard_tokens
    assert sizes == [3000] * 3 and alone == 9000


def test_bad_input_is_refused_before_the_model_runs(embedded, tmp_path, monkeypatch):
    runs = runs_of_model(monkeypatch)
    for saes, path, message in (
        ({}, tmp_path, "no SAE|is empty|at least one"), (saes_of(embedded), "memory://indexes", "built in a folder"),
        (saes_of(embedded), None, "built in a folder"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            embedded.build_indexes(saes, TEXTS, path)
    assert not runs and list(Path(tmp_path).iterdir()) == []
    assert isinstance(
        embedded.build_indexes({"a": saes_of(embedded)[64]}, TEXTS, tmp_path)["a"], FeatureIndex
    )
