"""Whatever is written where there is no room: one kind of error that names the place, and what was there stays."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import (
    SAE,
    FeatureIndex,
    FeatureRegistry,
    InputError,
    SAEError,
    SAETrainConfig,
    WriteError,
    collect_activations,
    train_sae,
)
from mlxterp.steering import SteeringVector, save_vectors
from mlxterp.variants import TopK
from tests.index.small import TEXTS, files_of, random_sae
from tests.training.interrupted import data


@contextmanager
def no_room(monkeypatch: pytest.MonkeyPatch, how: str) -> Iterator[None]:
    """Writing fails: when it is forced to disk, or in the middle of a file."""
    if how == "fsync":

        def full(_handle: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            yield
        return
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Any]:
    """Values that can be written."""
    demo = mlxterp.load_demo()
    sae = random_sae(TopK(8), demo.model.d_model)
    sae.concepts.load_concepts({3: "ball"})
    folder = tmp_path_factory.mktemp("index")
    index = demo.model.build_index(sae, TEXTS, folder / "index", shard_tokens=40)
    return {
        "demo": demo, "sae": sae, "index": index, "card": index.feature(int(index.live[0])),
        "view": demo.model.visualize_feature_activations(TEXTS[0], sae, feature_ids=[1]),
    }  # fmt: skip


def _plot(_made: dict[str, Any], path: Path) -> Any:
    pytest.importorskip("matplotlib")
    from mlxterp.viz.plotting import finished, new_figure

    return finished(new_figure(2, 2), path)


WRITERS: dict[str, tuple[str, Callable[[dict[str, Any], Path], Any]]] = {
    "sae": ("sae", lambda m, path: m["sae"].save(path)),
    "saelens": ("sae", lambda m, path: m["sae"].save(path, format="saelens", names=False)),
    "card": ("card.html", lambda m, path: m["card"].to_html(path)),
    "view": ("view.html", lambda m, path: m["view"].to_html(path)),
    "plot": ("plot.png", _plot),
    "svg": ("plot.svg", _plot),
    "names": ("names.json", lambda m, path: m["sae"].concepts.export_json(path)),
    "csv": ("names.csv", lambda m, path: m["sae"].concepts.export_csv(path)),
    "registry": ("registry.json", lambda m, path: FeatureRegistry({1: {"name": "one"}}).save(path)),
    "vectors": (
        "v.safetensors", lambda m, path: save_vectors([SteeringVector("layers.1.mlp", np.ones(4, np.float32))], path)
    ),
    "index": ("index", lambda m, path: m["index"].save(path)),
    "merged": ("merged", lambda m, path: FeatureIndex.merge([m["index"], m["index"]], path)),
    "index json": ("all.json", lambda m, path: m["index"].export_json(path)),
    "index csv": ("all.csv", lambda m, path: m["index"].export_csv(path)),
}  # fmt: skip


@pytest.mark.parametrize("how", ["fsync", "write"])
@pytest.mark.parametrize("what", WRITERS)
def test_no_room_is_told_by_name_and_the_advised_retry_works(made, tmp_path, monkeypatch, what, how):
    name, write = WRITERS[what]
    message = r"cannot be written: .*(No space|too large|File).*again"
    with pytest.raises(WriteError, match=message) as told, no_room(monkeypatch, how):
        write(made, tmp_path / name)
    assert str(tmp_path / name) in str(told.value)
    assert os.listdir(tmp_path) == []
    write(made, tmp_path / name)
    before = files_of(tmp_path)
    if what not in ("index", "merged"):  # these write to new places only
        with pytest.raises(WriteError), no_room(monkeypatch, how):
            write(made, tmp_path / name)
    assert files_of(tmp_path) == before


def test_the_error_is_also_that_of_what_was_written(made, tmp_path, monkeypatch):
    for what, kind in (("sae", SAEError), ("card", InputError), ("merged", mlxterp.FeatureIndexError)):
        with pytest.raises(kind) as told, no_room(monkeypatch, "fsync"):
            WRITERS[what][1](made, tmp_path / what)
        assert isinstance(told.value, OSError)


@pytest.mark.parametrize("how", ["fsync", "write"])
def test_a_store_and_a_run_that_had_no_room_go_on(made, tmp_path, monkeypatch, how):
    demo = made["demo"]

    def collect() -> Any:
        return collect_activations(
            demo.model, demo.texts[:2], ["layers.1.mlp"], tmp_path / "store", tokens=100, progress=False
        )

    def train() -> Any:
        config = SAETrainConfig(d_hidden=16, k=2, batch_size=500)
        return train_sae(
            data(), config, progress=False, save_path=tmp_path / "sae", resume=True, checkpoint_every=3
        )

    for call in (collect, train):
        with pytest.raises(SAEError, match="cannot be written") as told, no_room(monkeypatch, how):
            call()
        assert str(tmp_path) in str(told.value) and isinstance(told.value, WriteError)
        call()
    assert SAE.load(tmp_path / "sae").d_hidden == 16


def test_a_picture_of_an_unknown_form_is_refused_by_name(made, tmp_path):
    with pytest.raises(InputError, match=r"'plot.xyz' is of no form that matplotlib writes: .*png"):
        _plot(made, tmp_path / "plot.xyz")
    _plot(made, tmp_path / "plot")
    assert os.listdir(tmp_path) == ["plot.png"]
