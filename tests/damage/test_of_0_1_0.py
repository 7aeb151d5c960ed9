"""What mlxterp 0.1.0 wrote has no digests. It opens with one warning, and the call that made it binds it."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

import mlxterp
from mlxterp import (
    SAE,
    ActivationStore,
    FeatureIndex,
    FeatureIndexError,
    FeatureRegistry,
    MlxterpWarning,
    SAEError,
    collect_activations,
)
from mlxterp.steering import load_vectors
from mlxterp.training.folder import RunFolder
from mlxterp.variants import TopK
from tests.index.small import TEXTS, random_sae

OLD = Path(__file__).parent / "of_0_1_0"
"""Made by mlxterp 0.1.0: an index of four texts, a store, an SAE, a run, a registry, steering vectors."""


@pytest.fixture
def old(tmp_path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def told(call):
    """What a call returns, and how often it warned of 0.1.0."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = call()
    return found, [str(w.message) for w in caught if "0.1.0" in str(w.message)]


def test_an_index_opens_with_one_warning_and_building_it_again_binds_it(old):
    model = mlxterp.load_demo("mlx" if "mlx" in mlxterp.available_backends() else None).model
    sae = random_sae(TopK(8), model.d_model, d_hidden=8)
    index, warned = told(lambda: FeatureIndex.open(old / "index"))
    assert len(warned) == 1 and "build_index" in warned[0]
    fresh = model.build_index(sae, TEXTS[:4], shard_tokens=40)
    for feature in range(8):
        found, expected = index.top_texts(feature), fresh.top_texts(feature)
        assert [(text, at) for text, _, at in found] == [(text, at) for text, _, at in expected]
    before = [index.top_texts(feature) for feature in range(8)]
    again, warned = told(lambda: model.build_index(sae, TEXTS[:4], old / "index", shard_tokens=40))
    assert not warned and [again.top_texts(feature) for feature in range(8)] == before
    path = old / "index/shards/000000.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(FeatureIndexError, match=r"000000\.safetensors"):
        _ = [FeatureIndex.open(old / "index").top_texts(feature) for feature in range(8)]


def test_a_merged_index_of_old_parts_has_digests(old, tmp_path):
    with pytest.warns(MlxterpWarning, match=r"0\.1\.0"):
        FeatureIndex.merge([old / "index", old / "index"], tmp_path / "merged")
    index, warned = told(lambda: FeatureIndex.open(tmp_path / "merged"))
    assert not warned and index.n_texts == 8


@pytest.mark.parametrize("place", ["indptr", "offsets", "rows", "text_ends"])
def test_offsets_that_lead_out_of_an_old_shard_are_told(old, place):
    path = old / "index/shards/000000.safetensors"
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8 : 8 + length])[place]
    begin = 8 + length + entry["data_offsets"][0]
    data[begin + 3] = 0x7F if place != "text_ends" else 0x60
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index = FeatureIndex.open(old / "index")
    with pytest.raises(FeatureIndexError, match=r"000000\.safetensors is not a file of this index"):
        _ = [index.top_texts(feature) for feature in range(8)]


def test_a_store_opens_with_one_warning_and_collecting_it_again_binds_it(old):
    demo = mlxterp.load_demo("mlx" if "mlx" in mlxterp.available_backends() else None)
    store, warned = told(lambda: ActivationStore.open(old / "store"))
    assert len(warned) == 1 and "collect_activations" in warned[0]
    before = [store.read(i, "layers.1.mlp") for i in range(len(store.counts))]
    again, warned = told(
        lambda: collect_activations(
            demo.model, demo.texts[:1], ["layers.1.mlp"], old / "store", batch_tokens=20, tokens=40,
            context_length=20, progress=False,
        )
    )  # fmt: skip
    assert not warned and again.counts == store.counts
    for i, values in enumerate(before):
        np.testing.assert_array_equal(again.read(i, "layers.1.mlp"), values)
    path = old / "store/batch_0/layers.1.mlp/activations.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(SAEError, match=r"batch_0.*activations\.safetensors is not as the store describes it"):
        ActivationStore.open(old / "store").read(0, "layers.1.mlp")


def test_a_checkpoint_is_read_with_one_warning(old):
    found, warned = told(RunFolder(old / "run").checkpoint)
    assert found is not None and found[1]["step"] == 5 and len(warned) == 1
    assert RunFolder(old / "run").history() is not None


def test_files_that_bound_themselves_or_are_peoples_own_are_read_without_a_word(old):
    sae, warned = told(lambda: SAE.load(old / "sae"))  # its weights had a digest
    registry, more = told(lambda: FeatureRegistry.load(old / "registry.json"))
    vectors, rest = told(lambda: load_vectors(old / "v.safetensors"))
    assert not warned + more + rest
    assert registry.label(1) == "one" and registry.fingerprint == sae.fingerprint and len(vectors) == 1
