"""Activations on disk are those of the model, come back from an interruption, and are refused where they do not fit."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mlxterp
from mlxterp import (
    ActivationStore,
    ComponentError,
    InputError,
    LocalStore,
    SAEError,
    SAETrainConfig,
    collect_activations,
    load_demo,
    train_sae,
)
from mlxterp.core.activation_files import as_float32, as_stored
from mlxterp.core.digests import sealed
from mlxterp.training.rows import StoreRows

AT = ["layers.1.resid_post", "layers.2.mlp"]


@pytest.fixture(scope="module")
def opened():
    return load_demo("torch" if mlxterp.available_backends() == ("torch",) else None)


def collected(demo, path: Path, **options) -> ActivationStore:
    settings = {"at": AT, "batch_tokens": 500, "tokens": 2000, "progress": False, **options}
    return collect_activations(demo.model, demo.texts[:20], path=path, **settings)


def test_stored_activations_are_those_of_the_model(backend, tmp_path):
    demo = load_demo(backend)
    store = collected(demo, tmp_path / "store", dtype="float32", context_length=64, exclude=())
    assert store.components == tuple(AT) and len(store) == 2000 and len(store.counts) == 4
    model, found = demo.model, 0
    for index in range(len(store.counts)):
        rows = store.tokens(index)
        for context in np.unique(rows["contexts"])[:3]:
            mine = np.flatnonzero(rows["contexts"] == context)
            mine = mine[np.argsort(rows["positions"][mine])]
            ids = rows["tokens"][mine].tolist()
            with model.trace(ids, capture=AT) as t:
                pass
            for name in AT:
                wanted = np.asarray(model.language_model.backend.get(t.activations[name]))[0]
                np.testing.assert_allclose(store.read(index, name, mine), wanted, rtol=1e-5, atol=2e-5)
            found += 1
    assert found >= 8


@pytest.mark.parametrize(("dtype", "share"), [("float16", 5e-4), ("bfloat16", 4e-3), ("float32", 0)])
def test_each_dtype_keeps_its_precision(opened, tmp_path, dtype, share):
    exact = collected(opened, tmp_path / "exact", dtype="float32")
    store = collected(opened, tmp_path / "store", dtype=dtype)
    assert store.dtype == dtype
    wanted = exact.read(0, AT[0])
    assert (np.abs(store.read(0, AT[0]) - wanted) <= share * np.abs(wanted) + 1e-7).all()
    assert isinstance(store.batch(0, AT[0]), np.memmap)


def test_bfloat16_rounds_to_the_nearest():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    expected = torch.tensor(x).bfloat16().float().numpy()
    np.testing.assert_array_equal(as_float32(as_stored(x, "bfloat16", "x"), "bfloat16"), expected)


def test_other_libraries_can_read_the_files(opened, tmp_path):
    from safetensors.numpy import load_file

    store = collected(opened, tmp_path / "store")
    arrays = load_file(tmp_path / "store/batch_0" / AT[0] / "activations.safetensors")
    np.testing.assert_array_equal(arrays["activations"], store.batch(0, AT[0]))
    meta = json.loads((tmp_path / "store/meta.json").read_text())
    assert meta["complete"] and meta["rows"] == 2000 - sum(meta["excluded"].values())
    assert meta["context_length"] == 128


def test_first_tokens_can_be_left_out_and_are_counted(opened, tmp_path):
    store = collected(opened, tmp_path / "store", exclude=("first",), context_length=50)
    left = store.meta["excluded"]["first"]
    assert left >= 40 and len(store) == 2000 - left
    assert min(store.tokens(0)["positions"]) == 1
    with pytest.raises(InputError, match="exclude='last'; there are: bos, first, sinks"):
        collected(opened, tmp_path / "other", exclude=("last",))


def test_the_same_call_opens_a_complete_store_and_another_is_refused(opened, tmp_path):
    store = collected(opened, tmp_path / "store")
    written = (tmp_path / "store/batch_0/rows.safetensors").stat().st_mtime_ns
    assert collected(opened, tmp_path / "store").meta == store.meta
    assert (tmp_path / "store/batch_0/rows.safetensors").stat().st_mtime_ns == written
    for change, message in (
        ({"dtype": "float32"}, "dtype was 'float16' and is 'float32'"),
        ({"seed": 5}, "seed was 0 and is 5"),
        ({"at": AT[:1]}, "components was"),
    ):
        with pytest.raises(SAEError, match=message):
            collected(opened, tmp_path / "store", **change)


SCRIPT = """
import sys, os, signal, mlxterp
from mlxterp.activations import collect
demo = mlxterp.load_demo()
write, left = collect.write_batch, [2]
def dying(*args):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    write(*args)
collect.write_batch = dying
mlxterp.collect_activations(demo.model, demo.texts[:20], ["layers.1.resid_post", "layers.2.mlp"], sys.argv[1],
                            batch_tokens=500, tokens=2000, progress=False)
"""


def test_a_killed_collection_goes_on_where_it_was(opened, tmp_path):
    whole = collected(opened, tmp_path / "whole")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path / "cut")], env=os.environ
    )
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(SAEError, match=r"was interrupted \(2 batches are there\)"):
        ActivationStore.open(tmp_path / "cut")
    before = (tmp_path / "cut/batch_0/rows.safetensors").stat().st_mtime_ns
    cut = collected(opened, tmp_path / "cut")
    assert (tmp_path / "cut/batch_0/rows.safetensors").stat().st_mtime_ns == before
    assert cut.meta == whole.meta
    for index in range(len(whole.counts)):
        np.testing.assert_array_equal(whole.batch(index, AT[1]), cut.batch(index, AT[1]))


def test_damaged_stores_are_refused_by_name(opened, tmp_path):
    collected(opened, tmp_path / "store")
    path = tmp_path / "store/batch_1" / AT[0] / "activations.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(
        SAEError, match=r"activations.safetensors is not as the store describes it: it was cut short"
    ):
        ActivationStore.open(tmp_path / "store")
    path.unlink()
    with pytest.raises(SAEError, match="No such file"):
        ActivationStore.open(tmp_path / "store")
    (tmp_path / "store/meta.json").write_text('{"format": "else"}')
    with pytest.raises(SAEError, match="not the description of an activation store"):
        ActivationStore.open(tmp_path / "store")
    with pytest.raises(SAEError, match="There is no activation store"):
        ActivationStore.open(tmp_path / "nowhere")


def test_a_component_of_a_store_cannot_lead_out_of_its_folder(opened, tmp_path):
    collected(opened, tmp_path / "store")
    meta = json.loads((tmp_path / "store/meta.json").read_text())
    meta["components"] = {"../../secret": 32}
    (tmp_path / "store/meta.json").write_text(json.dumps(meta))
    with pytest.raises(SAEError, match="not the description"):
        ActivationStore.open(tmp_path / "store")


def test_a_folder_of_something_else_is_left_alone(opened, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SAEError, match="holds something else"):
        collected(opened, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder_is_named(opened, tmp_path):
    tmp_path.chmod(stat.S_IREAD | stat.S_IEXEC)
    with pytest.raises(SAEError, match="Nothing can be written to"):
        collected(opened, tmp_path / "store")


def test_a_full_disk_leaves_whole_batches(opened, tmp_path, monkeypatch):
    from mlxterp.activations import store as module

    real, calls = module.save_file, []

    def full(tensors, path, metadata):
        calls.append(path)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        real(tensors, path, metadata)

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(SAEError, match=r"No space left .* What is there already is whole"):
        collected(opened, tmp_path / "store")
    monkeypatch.undo()
    assert sorted(p.name for p in (tmp_path / "store").iterdir()) == ["batch_0", "meta.json"]
    assert sum(collected(opened, tmp_path / "store").counts) > 1900


def test_what_float16_cannot_hold_is_named():
    with pytest.raises(SAEError, match=r"too large for float16. Use dtype='bfloat16'"):
        as_stored(np.array([1e5], np.float32), "float16", "layers.0.mlp")


def test_bad_settings_are_refused(opened, tmp_path):
    for change, error, message in (
        ({"dtype": "int8"}, InputError, "stored as: float16, bfloat16, float32"),
        ({"at": []}, InputError, "names no component"),
        ({"at": ["layers.1.nothing"]}, ComponentError, "nothing"),
        ({"context_length": 10**6}, InputError, "was made for"),
        ({"tokens": 0}, InputError, "tokens is 0"),
    ):
        with pytest.raises(error, match=message):
            collected(opened, tmp_path / "store", **change)
    assert not (tmp_path / "store").exists()


def test_rows_of_a_store_are_each_given_once_an_epoch(opened, tmp_path):
    store = collected(opened, tmp_path / "store", dtype="float32")
    for epoch in (0, 1):
        rows = StoreRows(store, AT, 700, seed=1)
        blocks = [piece for i in range(rows.blocks(epoch)) for piece in rows.block(epoch, i)]
        for place, name in enumerate(AT):
            given = np.concatenate([block[place] for block in blocks])
            stored = np.concatenate([store.read(i, name) for i in range(len(store.counts))])
            np.testing.assert_array_equal(np.sort(given, axis=0), np.sort(stored, axis=0))
    assert StoreRows(store, AT, 700, seed=1, limit=800).total == 800


def test_an_sae_trains_from_a_store_as_from_the_model(opened, tmp_path):
    store = collected(opened, tmp_path / "store", tokens=None)
    config = SAETrainConfig(d_hidden=64, k=8, batch_size=256, epochs=4)
    one = train_sae(store, config, component=AT[0], progress=False)
    assert one.component == AT[0] and one.metadata["training"]["explained_variance"] > 0.4
    layer, _, component = AT[0].removeprefix("layers.").partition(".")
    two = opened.model.train_sae(int(layer), store, component, config, verbose=False)
    np.testing.assert_array_equal(one.W_dec, two.W_dec)
    with pytest.raises(
        SAEError, match=r"Which component\? This store holds: layers.1.resid_post, layers.2.mlp"
    ):
        train_sae(store, config, progress=False)
    with pytest.raises(SAEError, match=r"no activations of 'layers.0.mlp'"):
        opened.model.train_sae(0, store, "mlp", config, verbose=False)


def test_a_store_of_another_model_is_refused(opened, tmp_path):
    store = collected(opened, tmp_path / "store")
    meta_path = tmp_path / "store/meta.json"
    meta = json.loads(meta_path.read_text())
    meta["settings"]["probe"][AT[0]] = [1.3 * n for n in meta["settings"]["probe"][AT[0]]]
    meta_path.write_text(json.dumps(sealed(meta)))
    with pytest.raises(SAEError, match=r"holds activations of another model"):
        opened.model.train_sae(
            1, ActivationStore.open(store.path), "residual", SAETrainConfig(k=2), verbose=False
        )


def test_a_local_store_says_where_things_lie(opened, tmp_path):
    store = LocalStore(tmp_path)
    assert store.collections() == store.runs() == store.saes() == []
    collected(opened, store.activations_path("first"))
    config = SAETrainConfig(d_hidden=64, k=8, batch_size=256)
    train_sae(
        store.activations("first"), config, component=AT[0], progress=False,
        save_path=store.sae_path("mine"), run_dir=store.run_path("run-1"),
    )  # fmt: skip
    assert (store.collections(), store.runs(), store.saes()) == (["first"], ["run-1"], ["mine"])
    assert store.history("run-1")["finished"]
    assert (tmp_path / "activations/first/batch_0/layers.2.mlp/activations.safetensors").is_file()
    assert mlxterp.SAE.load(store.sae_path("mine")).d_hidden == 64
    with pytest.raises(SAEError, match="There is no run 'x'"):
        store.history("x")
    for name in ("../x", "a/b", "", ".."):
        with pytest.raises(InputError, match="cannot name a folder"):
            store.sae_path(name)


def test_without_a_path_it_says_where_the_activations_are(demo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    store = collect_activations(demo.model, demo.texts[:5], "layers.1.mlp")
    assert store.path.is_dir() and str(store.path) in capsys.readouterr().err
    collect_activations(demo.model, demo.texts[:5], "layers.1.mlp", path=tmp_path / "mine")
    collect_activations(demo.model, demo.texts[:5], "layers.2.mlp", progress=False)
    assert "kept in" not in capsys.readouterr().err
