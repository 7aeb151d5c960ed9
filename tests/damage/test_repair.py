"""What is damaged is made again by the call that made it, and only that; what cannot be says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import mlxterp
from mlxterp import (
    ActivationStore,
    FeatureIndex,
    FeatureIndexError,
    LocalStore,
    MlxterpWarning,
    SAEError,
    SAETrainConfig,
    collect_activations,
    train_sae,
)
from mlxterp.variants import TopK
from tests.index.small import TEXTS, files_of, random_sae
from tests.sae.test_limits_of_files import sparse_file
from tests.training.interrupted import data


def flip(path: Path, at: int = -3) -> None:
    found = bytearray(path.read_bytes())
    found[at] ^= 1
    path.write_bytes(found)


# -- an index -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo():
    return mlxterp.load_demo()


@pytest.fixture(scope="module")
def sae(demo):
    return random_sae(TopK(8), demo.model.d_model)


@pytest.fixture
def index(demo, sae, tmp_path) -> Path:
    demo.model.build_index(sae, TEXTS, tmp_path / "index", shard_tokens=40)
    return tmp_path / "index"


def everything(folder: Path) -> Any:
    found = FeatureIndex.open(folder)
    return [(found.top_texts(f), found.stats(f).count, found.coactivation(f)) for f in range(found.d_hidden)]


@pytest.mark.parametrize(
    "name", ["shards/000000.safetensors", "shards/000001.safetensors", "summary.safetensors"]
)
def test_one_flipped_bit_of_the_numbers_is_told_when_they_are_used(index, name):
    flip(index / name)
    with pytest.raises(FeatureIndexError, match=name.rpartition("/")[2]):
        everything(index)


def _asked(folder: Path) -> Any:
    found = FeatureIndex.open(folder)
    return [(found.examples(f), found.stats(f)) for f in range(64)]


def test_exchanged_shards_and_files_of_another_index_are_told(demo, sae, index, tmp_path):
    other = tmp_path / "other"
    demo.model.build_index(sae, ["Zebras swim.", *TEXTS[3:]], other, shard_tokens=40)
    one, two = index / "shards/000000.safetensors", index / "shards/000001.safetensors"
    for name in ("shards/000000.safetensors", "pieces.json", "summary.safetensors"):
        kept = (index / name).read_bytes()
        shutil.copyfile(other / name, index / name)
        with pytest.raises(FeatureIndexError, match=name.rpartition("/")[2]):
            _asked(index)
        (index / name).write_bytes(kept)
    kept = one.read_bytes(), two.read_bytes()
    one.write_bytes(kept[1])
    two.write_bytes(kept[0])
    with pytest.raises(FeatureIndexError, match=r"00000\d\.safetensors is not a file of this index"):
        everything(index)


def test_only_the_damaged_shard_is_made_again(demo, sae, index, monkeypatch):
    files = files_of(index)
    written: list[str] = []
    from mlxterp.index import files as module

    real = module.write_atomically

    def write(path, parts):
        written.append(path.name)
        real(path, parts)

    for name in ("shard", "folder", "summary"):
        monkeypatch.setattr(f"mlxterp.index.{name}.write_atomically", write)
    flip(index / "shards/000001.safetensors")
    with pytest.warns(MlxterpWarning, match="Shard 1 is made again"):
        demo.model.build_index(sae, TEXTS, index, shard_tokens=40)
    assert written == ["000001.safetensors"] and files_of(index) == files


@pytest.mark.filterwarnings("ignore:.*longer than the model.*:mlxterp.MlxterpWarning")
@pytest.mark.parametrize("number", [0, 2, 4])
def test_a_shard_inside_a_long_text_is_made_again(demo, sae, tmp_path, number):
    texts = [TEXTS[0], " ".join(TEXTS * 12), TEXTS[1]]
    demo.model.build_index(sae, texts, tmp_path / "index", shard_tokens=300)
    files = files_of(tmp_path / "index")
    flip(tmp_path / f"index/shards/{number:06d}.safetensors")
    with pytest.warns(MlxterpWarning, match=f"Shard {number} is made again"):
        demo.model.build_index(sae, texts, tmp_path / "index", shard_tokens=300)
    assert files_of(tmp_path / "index") == files


def test_appended_and_merged_indexes_are_made_whole_by_building_all_texts(demo, sae, tmp_path):
    demo.model.build_index(sae, TEXTS[:3], tmp_path / "grown", shard_tokens=20).add(TEXTS[3:])
    parts = [
        demo.model.build_index(sae, part, shard_tokens=n) for part, n in ((TEXTS[:2], 20), (TEXTS[2:], 30))
    ]
    FeatureIndex.merge(parts, tmp_path / "merged")
    for folder in (tmp_path / "grown", tmp_path / "merged"):
        before = everything(folder)
        for path in sorted(folder.rglob("*.safetensors")):
            flip(path)
            with pytest.warns(MlxterpWarning, match="made again"):
                demo.model.build_index(sae, TEXTS, folder)
            assert everything(folder) == before


@pytest.mark.filterwarnings("ignore:.*longer than the model.*:mlxterp.MlxterpWarning")
def test_shards_of_a_merged_index_are_made_again_as_its_parts_were_cut(demo, sae, tmp_path):
    long = [TEXTS[0], " ".join(TEXTS * 12), TEXTS[1]]
    parts = [
        demo.model.build_index(sae, texts, shard_tokens=n)
        for texts, n in ((TEXTS[:3], 20), (long, 300), (TEXTS[3:], 45), (long, 500))
    ]
    texts = [*TEXTS[:3], *long, *TEXTS[3:], *long]
    folder = FeatureIndex.merge(parts, tmp_path / "merged").path
    files = files_of(folder)
    for name in files:
        if name.startswith("shards/"):
            flip(folder / name)
            with pytest.warns(MlxterpWarning, match=f"Shard {int(name[7:13])} is made again"):
                demo.model.build_index(sae, texts, folder)
            assert files_of(folder) == files


def test_an_index_whose_appending_stops_while_it_ends_opens_as_it_was(demo, sae, index, monkeypatch):
    before = everything(index)
    from mlxterp.index import summary as module

    real, left = module.write_atomically, [1]

    def write(path, parts):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(path, parts)

    with monkeypatch.context() as patch:  # pieces.json is the new one, summary.safetensors the old one
        patch.setattr(module, "write_atomically", write)
        with pytest.raises(KeyboardInterrupt):
            FeatureIndex.open(index, demo.model, sae).add(["A new word: zebra."])
    with pytest.warns(MlxterpWarning, match="was interrupted"):
        assert everything(index) == before
    flip(index / "summary.safetensors")
    with pytest.warns(MlxterpWarning), pytest.raises(FeatureIndexError, match=r"summary\.safetensors"):
        everything(index)


def test_a_folder_with_anothers_index_json_is_left_alone(demo, sae, tmp_path):
    (tmp_path / "index.json").write_text('{"pages": []}')
    with pytest.raises(FeatureIndexError, match=r"index\.json is not the description"):
        demo.model.build_index(sae, TEXTS, tmp_path)
    assert (tmp_path / "index.json").read_text() == '{"pages": []}'


def test_a_damaged_index_of_other_texts_is_not_built_over(demo, sae, index):
    (index / "index.json").write_text("{")
    with pytest.raises(FeatureIndexError, match=r"index\.json"):
        demo.model.build_index(sae, TEXTS[::-1], index, shard_tokens=40)


def test_versions_from_the_future_are_refused(index, demo, sae):
    path = index / "index.json"
    described = json.loads(path.read_text())
    described.pop("digest")
    path.write_text(json.dumps(described | {"version": 3}))
    for call in (lambda: FeatureIndex.open(index), lambda: demo.model.build_index(sae, TEXTS, index)):
        with pytest.raises(FeatureIndexError, match="format version 3, this mlxterp reads versions 1 and 2"):
            call()


# -- a store ------------------------------------------------------------------------------------


@pytest.fixture
def store(demo, tmp_path) -> Path:
    collect(demo, tmp_path / "store")
    return tmp_path / "store"


def collect(demo, folder: Path, **options: Any) -> ActivationStore:
    settings: dict[str, Any] = {"batch_tokens": 200, "tokens": 600, "progress": False, **options}
    return collect_activations(demo.model, demo.texts[:6], ["layers.1.mlp"], folder, **settings)


@pytest.mark.parametrize("damage", ["flipped", "rows", "gone", "no rows"])
@pytest.mark.parametrize("complete", [True, False])
def test_a_collection_with_one_damaged_batch_is_completed_by_the_same_call(demo, store, damage, complete):
    files = files_of(store)
    if not complete:  # as it is after an interruption
        from mlxterp.core.digests import sealed

        meta = json.loads((store / "meta.json").read_text())
        del meta["digest"]
        meta |= {"complete": False, "batches": [], "rows": 0, "rows_sha256": []}
        (store / "meta.json").write_text(json.dumps(sealed(meta)))
        if damage != "gone":
            shutil.rmtree(store / "batch_2")
    batch = store / "batch_1"
    if damage == "flipped":
        flip(batch / "layers.1.mlp/activations.safetensors")
    elif damage == "rows":
        flip(batch / "rows.safetensors")
    elif damage == "gone":
        shutil.rmtree(batch)
    else:
        (batch / "rows.safetensors").unlink()
    kept = (store / "batch_0/rows.safetensors").stat().st_mtime_ns
    with pytest.warns(MlxterpWarning, match="batch_1 was damaged or missing and is made again"):
        collect(demo, store)
    assert files_of(store) == files
    assert (store / "batch_0/rows.safetensors").stat().st_mtime_ns == kept


def test_rows_that_claim_more_than_their_file_holds_are_named_and_made_again(demo, store):
    files = files_of(store)
    rows = next(store.glob("batch_*/rows.safetensors"))
    sparse_file(rows, {"tokens": (10**10,)})
    with pytest.raises(SAEError, match=r"rows\.safetensors"):
        ActivationStore.open(store).check()
    with pytest.warns(MlxterpWarning, match="made again"):
        collect(demo, store)
    assert files_of(store) == files


def test_a_store_whose_description_is_damaged_keeps_its_batches_for_the_same_call_only(demo, store):
    files = files_of(store)
    (store / "meta.json").write_text("{")
    with pytest.raises(SAEError, match=r"meta\.json"):
        collect(demo, store, seed=4)
    with pytest.warns(MlxterpWarning, match="The batches that are whole are kept"):
        collect(demo, store)
    assert files_of(store) == files


def test_activations_are_compared_when_they_are_first_read(store):
    flip(store / "batch_1/layers.1.mlp/activations.safetensors")
    opened = ActivationStore.open(store)
    opened.read(0, "layers.1.mlp")
    for ask in (lambda: opened.read(1, "layers.1.mlp"), lambda: opened.batch(1, "layers.1.mlp")):
        with pytest.raises(SAEError, match=r"batch_1.*activations\.safetensors is not as the store"):
            ask()
    config = SAETrainConfig(d_hidden=16, k=2, batch_size=100)
    with pytest.raises(SAEError, match=r"batch_1.*activations\.safetensors"):
        train_sae(opened, config, progress=False)


# -- a run --------------------------------------------------------------------------------------


class Stopped(Exception):
    """Where a run stops."""


@pytest.fixture
def run(tmp_path) -> Path:
    def stop(row: dict[str, float]) -> None:
        if row["step"] == 8:
            raise Stopped

    with pytest.raises(Stopped):
        train(tmp_path / "run", log=stop)
    return tmp_path / "run"


def train(folder: Path, **options: Any):
    config = SAETrainConfig(d_hidden=16, k=2, batch_size=500)
    settings: dict[str, Any] = {"run_dir": folder, "checkpoint_every": 3, "progress": False, "resume": True}
    return train_sae(data(), config, **settings | options)


def rewritten(run: Path, change) -> None:
    """A checkpoint that says something else, and nothing of a digest."""
    path = run / "checkpoint.safetensors"
    with safe_open(path, framework="numpy") as file:
        facts = json.loads(file.metadata()["run"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(arrays, facts)
    save_file(arrays, path, {"run": json.dumps(facts)})


def test_a_checkpoint_that_claims_more_than_its_file_holds_is_an_error_of_ours(run):
    sparse_file(run / "checkpoint.safetensors", {"jobs.sae.silent": (10**10,)})
    with pytest.raises(SAEError, match=r"checkpoint\.safetensors"):
        train(run)


@pytest.mark.filterwarnings("ignore:.*written by mlxterp 0.1.0:mlxterp.MlxterpWarning")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, f: a.pop("jobs.sae.silent"), "lacks 'jobs.sae.silent'"),
        (lambda a, f: a.pop("jobs.sae.optimizer.param.W_dec"), "lacks 'jobs.sae.optimizer.param.W_dec'"),
        (lambda a, f: a.pop("buffer.cursor"), "cursor"), (lambda a, f: a.pop("buffer.carry.0"), "carry"),
        (lambda a, f: a.update(more=np.zeros(3)), "holds more"),
        (lambda a, f: a.update({"jobs.sae.silent": np.zeros(3, np.int64)}), r"has shape \(3,\), expected \(16,\)"),
        (lambda a, f: a.update({"buffer.cursor": np.array([0, 99, 0])}), "no block 99"),
        (lambda a, f: a.update({"buffer.cursor": np.array([0, 0, 10**9])}), "no row 1000000000"),
        (lambda a, f: a.update({"buffer.cursor": np.zeros(0, np.int64)}), "values"),
        (lambda a, f: f.update(step=12), "step 12, of a run of 12 steps"),
        (lambda a, f: f.update(step=500), "step 500"),
        (lambda a, f: f.update(step=-1), "step -1"), (lambda a, f: f.update(step="7"), "step '7'"),
        (lambda a, f: f.update(seen=10**9), "tokens were seen"), (lambda a, f: f.pop("step"), "lacks 'step'"),
        (lambda a, f: f.update(histories={}), "lacks 'sae'"), (lambda a, f: f.update(histories=[]), "list"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_cannot_be_of_the_run_is_refused_by_name(run, change, message):
    rewritten(run, change)
    with pytest.raises(SAEError, match=rf"(?s)checkpoint\.safetensors.*{message}.*Remove it to start over"):
        train(run)


def test_a_finished_run_whose_sae_is_damaged_says_what_to_do(tmp_path):
    first = train(tmp_path / "run", save_path=tmp_path / "sae")
    flip(tmp_path / "sae/sae.safetensors")
    with pytest.raises(SAEError, match=r"is finished.*sae\.safetensors.*Remove the damaged SAE"):
        train(tmp_path / "run", save_path=tmp_path / "sae")
    shutil.rmtree(tmp_path / "sae")
    assert train(tmp_path / "run", save_path=tmp_path / "sae").fingerprint == first.fingerprint


@pytest.mark.parametrize(
    "content", ["{", "[]", "[" * 100_000, '{"finished": NaN}', '{"a": 1, "a": 2}', "\x00"]
)
def test_a_damaged_history_is_told(tmp_path, content):
    store = LocalStore(tmp_path)
    train(store.run_path("one"))
    assert store.history("one")["finished"] and "digest" not in store.history("one")
    path = store.run_path("one") / "training_history.json"
    path.write_text(path.read_text().replace('"finished": true', '"finished": false'))
    with pytest.raises(SAEError, match=r"training_history\.json cannot be read"):
        store.history("one")
    path.write_text(content)
    for call in (lambda: store.history("one"), lambda: train(store.run_path("one"))):
        with pytest.raises(SAEError, match=r"training_history\.json cannot be read"):
            call()
