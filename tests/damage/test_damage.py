"""Copies of an index, a store and a checkpoint, damaged in every way: no wrong answer, no foreign error, and repair."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import (
    ActivationStore,
    FeatureIndex,
    MlxterpError,
    MlxterpWarning,
    SAETrainConfig,
    collect_activations,
    train_sae,
)
from mlxterp.variants import TopK
from tests.damage.damages import damage
from tests.index.small import TEXTS, files_of, random_sae
from tests.training.interrupted import data

FEW = 25
"""Copies in the usual run; 100 under `-m slow`."""
AT = ["layers.1.resid_post", "layers.2.mlp"]


@dataclass(frozen=True, slots=True)
class Artefact:
    """A folder, what it answers, and the call that made it."""

    folder: Path
    other: Path
    ask: Callable[[Path], Any]
    make: Callable[[Path], Any]
    again: bool = True
    """Whether the same call makes again what is damaged; else it says what to remove."""


def copies(artefact: Artefact, place: Path, seeds: range) -> None:
    expected, files = artefact.ask(artefact.folder), files_of(artefact.folder)
    for seed in seeds:
        copy = place / str(seed)
        shutil.copytree(artefact.folder, copy)
        done = damage(copy, artefact.other, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MlxterpWarning)
            seen = _check_answers(artefact, copy, expected, done)
            if artefact.again:
                artefact.make(copy)
                assert artefact.ask(copy) == expected, done
                if seen:
                    assert files_of(copy) == files, done
        shutil.rmtree(copy)


def _check_answers(artefact: Artefact, copy: Path, expected: Any, done: str) -> bool:
    """Whether the damage is told; where it is not, the answers are those of before."""
    try:
        assert artefact.ask(copy) == expected, f"silently wrong: {done}"
    except MlxterpError as error:
        assert str(copy) in str(error), f"{done}: {error}"
        return True
    return False


# -- an index -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Artefact:
    model = mlxterp.load_demo().model
    place, sae = tmp_path_factory.mktemp("index"), random_sae(TopK(8), model.d_model)

    def make(folder: Path, texts: list[str] = TEXTS) -> FeatureIndex:
        return model.build_index(sae, texts, folder, shard_tokens=40)

    def ask(folder: Path) -> Any:
        found = FeatureIndex.open(folder)
        answers: list[Any] = [
            found.n_texts,
            found.n_tokens,
            found.excluded,
            found.component,
            found.fingerprint,
        ]
        answers.append([array.tolist() for array in found.strongest_tokens(2)])
        for feature in range(found.d_hidden):
            stats = found.stats(feature)
            answers.append(found.top_texts(feature, 20))
            answers.append([(e.text_id, e.position, e.tokens, e.activation) for e in found.examples(feature)])
            answers.append([stats.count, stats.n_texts, stats.maximum, stats.mean, stats.top_tokens])
            answers.append(found.coactivation(feature))
        return answers

    make(place / "one")
    make(place / "other", TEXTS[::-1])
    return Artefact(place / "one", place / "other", ask, make)


def test_a_damaged_index_is_told_or_answers_as_before_and_is_made_again(index, tmp_path):
    copies(index, tmp_path, range(FEW))


@pytest.mark.slow
def test_a_hundred_damaged_indexes_are_told_or_answer_as_before(index, tmp_path):
    copies(index, tmp_path, range(FEW, 125))


# -- a store ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Artefact:
    demo = mlxterp.load_demo()
    place = tmp_path_factory.mktemp("store")

    def make(folder: Path, seed: int = 0) -> ActivationStore:
        return collect_activations(
            demo.model, demo.texts[:6], AT, folder, batch_tokens=200, tokens=600, seed=seed, progress=False
        )

    def ask(folder: Path) -> Any:
        found = ActivationStore.open(folder)
        answers: list[Any] = [found.meta, found.components, found.counts]
        for i in range(len(found.counts)):
            answers += [{name: array.tolist() for name, array in sorted(found.tokens(i).items())}]
            answers += [found.read(i, name).tobytes() for name in found.components]
        return answers

    make(place / "one")
    make(place / "other", 1)
    return Artefact(place / "one", place / "other", ask, make)


def test_a_damaged_store_is_told_or_answers_as_before_and_is_made_again(store, tmp_path):
    copies(store, tmp_path, range(FEW))


@pytest.mark.slow
def test_a_hundred_damaged_stores_are_told_or_answer_as_before(store, tmp_path):
    copies(store, tmp_path, range(FEW, 125))


# -- a checkpoint -------------------------------------------------------------------------------


class Stopped(Exception):
    """Where a run stops."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Artefact:
    place, x = tmp_path_factory.mktemp("run"), data()[:2000]

    def train(folder: Path, log: Any = None, resume: bool = True, k: int = 2) -> Any:
        config = SAETrainConfig(d_hidden=16, k=k, batch_size=100, seed=3)
        return train_sae(
            x, config, run_dir=folder, resume=resume, checkpoint_every=5, progress=False, log=log
        )

    def stop(row: dict[str, float]) -> None:
        if row["step"] == 12:
            raise Stopped

    for name, k in (("one", 2), ("other", 3)):
        with pytest.raises(Stopped):
            train(place / name, stop, resume=False, k=k)

    def ask(folder: Path) -> Any:
        """What a run that goes on from a copy ends with."""
        sae = train(folder)
        return [{name: array.tobytes() for name, array in sae.weights.arrays().items()}]

    # ask changes the folder it is given, so the one that is copied is asked through a copy of it
    def ask_a_copy(folder: Path) -> Any:
        copy = folder.with_name(folder.name + "-asked")
        shutil.copytree(folder, copy)
        try:
            return ask(copy)
        finally:
            shutil.rmtree(copy)

    return Artefact(place / "one", place / "other", ask_a_copy, train, again=False)


def test_a_damaged_checkpoint_is_told_or_goes_on_to_the_same_weights(checkpoint, tmp_path):
    copies(checkpoint, tmp_path, range(FEW))


@pytest.mark.slow
def test_a_hundred_damaged_checkpoints_are_told_or_go_on_to_the_same_weights(checkpoint, tmp_path):
    copies(checkpoint, tmp_path, range(FEW, 125))


def test_a_run_whose_damaged_checkpoint_is_removed_starts_over(checkpoint, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(checkpoint.folder, copy)
    path = copy / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(mlxterp.SAEError, match=r"checkpoint\.safetensors .* Remove it to start over"):
        checkpoint.make(copy)
    path.unlink()
    assert np.isfinite(checkpoint.make(copy).W_dec).all()
