"""Names of features stay with an SAE: on another backend, with other parts, and in its folder."""

from __future__ import annotations

import json

import numpy as np
import pytest

import mlxterp
from mlxterp import SAE, FeatureRegistry, InputError, MlxterpWarning, SAEError, SparseFeatures
from mlxterp.steering import SteeringVector, load_vectors, save_vectors
from mlxterp.variants import InputForm, TopK
from tests.sae.test_sae import make_sae, make_weights


def named_sae(**options) -> SAE:
    sae = make_sae(**options)
    sae.concepts.load_concepts({3: ["ball", {"name": "Bären", "confidence": 0.25}], 7: "=1+1"})
    sae.concepts.manipulate_concept(3, 2.0)
    sae.concepts.enable_text_tracking(2)
    sae.concepts.record(["a text"], SparseFeatures.from_dense(np.eye(1, 40, dtype=np.float32)))
    return sae


OTHERS = {
    "on": lambda sae: sae.on(mlxterp.available_backends()[0]),
    "on a device": lambda sae: sae.on(mlxterp.available_backends()[-1], "cpu"),
    "replaced": lambda sae: sae.replace(),
    "other k": lambda sae: sae.replace(activation=TopK(2)),
    "other form": lambda sae: sae.replace(form=InputForm(center=True)),
    "other weights": lambda sae: sae.replace(weights=make_weights(seed=4)),
}


@pytest.mark.parametrize("how", OTHERS)
def test_another_sae_of_the_same_features_has_their_names_texts_and_scales(how):
    sae = named_sae()
    other = OTHERS[how](sae)
    assert other.concepts.names == sae.concepts.names and len(other.concepts.names) == 2
    assert other.concepts.scales == {3: 2.0}
    assert other.concepts.get_top_texts() == {0: [("a text", 1.0)]}
    other.concepts.load_concepts({1: "mine"})
    other.concepts.reset_manipulations()
    assert len(sae.concepts.names) == 2 and sae.concepts.scales == {3: 2.0}


def test_names_do_not_go_to_other_features():
    with pytest.warns(MlxterpWarning, match="41 features instead of 40, so names"):
        other = named_sae().replace(weights=make_weights(d_hidden=41))
    assert other.concepts.names == {}


def test_names_are_saved_beside_the_weights_and_read_back(tmp_path):
    sae = named_sae()
    folder = sae.save(tmp_path / "sae")
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "names.json", "sae.safetensors"]
    for path in (folder, folder / "config.json", folder / "sae.safetensors", tmp_path):
        loaded = SAE.load(path)
        assert loaded.concepts.names == sae.concepts.names and loaded.fingerprint == sae.fingerprint
    other = make_sae()
    other.concepts.load_concepts(folder / "names.json")
    assert other.concepts.names == sae.concepts.names
    assert SAE.load(sae.save(tmp_path / "sae", dtype="float16")).concepts.names == sae.concepts.names
    make_sae().save(tmp_path / "sae")  # one without names in its place
    assert not (folder / "names.json").exists() and SAE.load(folder).concepts.names == {}


def test_names_can_be_left_out(tmp_path):
    folder = named_sae().save(tmp_path / "sae", names=False)
    assert not (folder / "names.json").exists() and SAE.load(folder).concepts.names == {}


def test_other_libraries_formats_have_no_names_and_that_is_said(tmp_path):
    sae = SAE(make_weights(), TopK(5), {"model": "m", "component": "layers.1.resid_post"})
    sae.save(tmp_path / "bare", format="saelens")
    sae.concepts.load_concepts({3: "ball"})
    with pytest.warns(MlxterpWarning, match="no place for names: those of 1 features are not saved"):
        sae.save(tmp_path / "sae", format="saelens")
    assert sorted(p.name for p in (tmp_path / "sae").iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    sae.save(tmp_path / "sae", format="saelens", names=False)


@pytest.mark.parametrize("damage", ["changed", "gone", "cut", "of another"])
def test_names_that_are_not_those_that_were_saved_are_told(tmp_path, damage):
    folder = named_sae().save(tmp_path / "sae")
    path = folder / "names.json"
    if damage == "changed":
        path.write_text(path.read_text().replace("ball", "bell"))
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    elif damage == "of another":
        path.write_text('{"3": "cat"}')
    else:
        path.unlink()
    with pytest.raises(SAEError, match=r"names\.json is not the file of names that was saved"):
        SAE.load(folder)


@pytest.mark.parametrize(
    "change", [{"activation": {"name": "topk", "k": 4, "relu": True}}, {"metadata": {"x": 1}}]
)
def test_an_edited_config_is_told(tmp_path, change):
    folder = make_sae().save(tmp_path / "sae")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(SAEError, match=r"config\.json is damaged: its digest is not that of its contents"):
        SAE.load(folder)
    del config["digest"]  # what the error advises, where it was done on purpose
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.warns(MlxterpWarning, match="has no digest of its own, so a setting that was edited"):
        assert SAE.load(folder).d_hidden == 40


@pytest.mark.filterwarnings("ignore:.*settings that mlxterp does not know:mlxterp.MlxterpWarning")
@pytest.mark.filterwarnings("ignore:.*has no digest of its own:mlxterp.MlxterpWarning")
def test_every_flipped_bit_of_a_folder_is_told_or_changes_nothing(tmp_path):
    rng = np.random.default_rng(0)
    sae = named_sae(d_model=3)
    folder = sae.save(tmp_path / "sae")
    files = sorted(folder.iterdir())
    for _ in range(150):
        path = files[int(rng.integers(len(files)))]
        before = path.read_bytes()
        data = bytearray(before)
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            loaded = SAE.load(folder)
            assert loaded.fingerprint == sae.fingerprint and loaded.concepts.names == sae.concepts.names
            assert loaded.metadata.keys() == {"format", "source"}
        except mlxterp.MlxterpError as error:
            assert "sae" in str(error)
        path.write_bytes(before)


def test_a_registry_of_an_sae_and_steering_vectors_have_a_digest_of_their_own(tmp_path):
    registry = FeatureRegistry({1: {"name": "one"}, 2: {"name": "two"}}, make_sae()).save(
        tmp_path / "names.json"
    )
    with pytest.raises(SAEError, match="another SAE"):
        FeatureRegistry.load(registry, "0" * 64)
    registry.write_text(registry.read_text().replace("two", "too"))
    with pytest.raises(InputError, match=r"names\.json.*digest"):
        FeatureRegistry.load(registry)
    vectors = save_vectors(
        [SteeringVector("layers.1.mlp", np.ones(64, np.float32))], tmp_path / "v.safetensors"
    )
    data = bytearray(vectors.read_bytes())
    data[-2] ^= 1
    vectors.write_bytes(data)
    with pytest.raises(InputError, match=r"v\.safetensors.*its digest is not that of its contents"):
        load_vectors(vectors)
