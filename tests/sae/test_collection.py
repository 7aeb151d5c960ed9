"""Many SAEs under names, layers or widths: from dictionaries, folders and releases, opened when they are asked for."""

from __future__ import annotations

import json
import mmap
import pickle
from typing import Any, cast

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlxterp import SAE, FeatureIndex, InputError, InterpretableModel, SAECollection, SAEError, WriteError
from mlxterp.core.digests import sealed
from mlxterp.demo import FOLDER
from mlxterp.sae.pretrained import find_pretrained
from mlxterp.variants import TopK
from tests.index.small import TEXTS, random_sae
from tests.sae.test_from_pretrained import ask, repository, saelens
from tests.sae.test_sae import activations, make_sae


def at(component: str | None, width: int = 40, **sizes) -> SAE:
    return make_sae(metadata={} if component is None else {"component": component}, d_hidden=width, **sizes)


def by_layers() -> dict[str, SAE]:
    return {f"layer {n}/mlp": at(f"layers.{n}.mlp", seed=n) for n in (10, 2, 0)}


def family() -> dict[int, SAE]:
    return {width: at("layers.1.resid_post", width) for width in (64, 16, 32)}


def is_mapped(array: np.ndarray) -> bool:
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, mmap.mmap)


# -- in memory ------------------------------------------------------------------------------------


def test_it_is_a_dictionary_of_the_saes_that_were_given():
    given = by_layers()
    collection = SAECollection(given)
    assert len(collection) == 3 and list(collection) == list(given)
    assert dict(collection.items()) == given and collection["layer 2/mlp"] is given["layer 2/mlp"]
    assert "layer 2/mlp" in collection and "layer 3/mlp" not in collection
    assert collection.get("layer 3/mlp") is None
    assert repr(collection) == "SAECollection(3 SAEs: 'layer 10/mlp', 'layer 2/mlp', 'layer 0/mlp')"


def test_a_list_is_numbered():
    saes = list(by_layers().values())
    collection = SAECollection(iter(saes))
    assert list(collection) == [0, 1, 2] and collection[np.int64(1)] is saes[1]  # type: ignore[index]
    assert list(SAECollection(dict(enumerate(collection.values()))).values()) == saes


def test_layers_widths_and_components_are_told():
    collection = SAECollection({**by_layers(), "embedding": at("embed", 16), "somewhere": at(None, 24)})
    assert collection.layers == [0, 2, 10] and collection.widths == [16, 24, 40]
    assert collection.components == ["layers.10.mlp", "layers.2.mlp", "layers.0.mlp", "embed"]


def test_it_can_be_keyed_by_layer_or_by_width():
    layers = SAECollection(by_layers()).by("layer")
    assert list(layers) == [0, 2, 10] and layers[10].component == "layers.10.mlp"
    widths = SAECollection(list(family().values())).by("width")
    assert list(widths) == [16, 32, 64] and widths[32].d_hidden == 32
    assert list(SAECollection(by_layers()).by("component")) == [
        "layers.0.mlp",
        "layers.10.mlp",
        "layers.2.mlp",
    ]


def test_two_of_one_layer_or_none_of_it_are_named():
    with pytest.raises(SAEError, match=r"SAEs 64 and 16 have the same layer, 1.*where"):
        SAECollection(family()).where(component="layers.1.resid_post").by("layer")
    with pytest.raises(SAEError, match="SAE 'b' names no layer"):
        SAECollection({"a": at("layers.0.mlp"), "b": at("embed")}).by("layer")
    with pytest.raises(InputError, match="what is 'depth'; it must be one of 'layer', 'width', 'component'"):
        SAECollection(by_layers()).by("depth")  # type: ignore[arg-type]


def test_some_of_them_and_the_one_of_them_are_chosen():
    collection = SAECollection({**by_layers(), "wide": at("layers.2.mlp", 64)})
    assert list(collection.where(layer=2)) == ["layer 2/mlp", "wide"]
    assert collection.where(layer=2)["wide"] is collection["wide"]
    assert collection.at(layer=2, width=64) is collection["wide"]
    assert collection.at(component="layers.0.mlp").component == "layers.0.mlp"
    with pytest.raises(SAEError, match=r"2 SAEs fit: 'layer 2/mlp', 'wide'"):
        collection.at(layer=2)
    with pytest.raises(SAEError, match=r"No SAE of this collection has layer 1.*layers are \[0, 2, 10\]"):
        collection.where(layer=1)


def test_what_is_no_layer_width_or_component_is_refused():
    for wrong in ({"layer": "1"}, {"layer": -1}, {"width": 2.5}, {"component": 3}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))} is "):
            SAECollection(family()).where(**wrong)  # type: ignore[arg-type]


def test_a_family_has_one_component_and_the_odd_one_is_named():
    assert SAECollection(family()).same_component() == "layers.1.resid_post"
    with pytest.raises(
        SAEError, match=r"SAE 'odd' has component layers.2.mlp, SAE 64 has layers.1.resid_post"
    ):
        SAECollection({**family(), "odd": at("layers.2.mlp")}).same_component()
    with pytest.raises(SAEError, match=r"SAE 'odd' has d_model 12, SAE 64 has 8"):
        SAECollection({**family(), "odd": at("layers.1.resid_post", d_model=12)}).same_component()
    with pytest.raises(SAEError, match="SAE 'odd' names no component"):
        SAECollection({"odd": at(None), **family()}).same_component()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "at least one SAE"), ([], "at least one SAE"), ("folder", "SAECollection.load"),
        (None, "got NoneType"), (at(None), "got SAE"), ([1], "SAE 0: expected an SAE or the path of one, got int"),
        ({"a": None}, "SAE 'a': expected"), ({-1: at(None)}, "-1 is no key"), ({"": at(None)}, "'' is no key"),
        ({True: at(None)}, "True is no key"), ({1.5: at(None)}, "1.5 is no key"),
    ],
)  # fmt: skip
def test_what_is_no_collection_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        SAECollection(given)


def test_a_key_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(SAEError, match=r"no SAE 'b'; its keys are 'a'"):
        SAECollection({"a": at(None)})["b"]
    with pytest.raises(KeyError):
        SAECollection({"a": at(None)})[3]


# -- as files -------------------------------------------------------------------------------------


def test_what_was_saved_is_loaded_with_its_keys_and_names(tmp_path):
    saes = {"layer 0/mlp": at("layers.0.mlp"), 5: at("layers.5.mlp", 64), "LAYER 0/mlp": at(None, 16)}
    saes[5].concepts.load_concepts({3: "ball"})
    folder = SAECollection(saes).save(tmp_path / "all")
    assert sorted(p.name for p in folder.iterdir()) == [
        "5",
        "LAYER-0-mlp-2",
        "collection.json",
        "layer-0-mlp",
    ]
    loaded = SAECollection.load(folder)
    assert list(loaded) == list(saes)
    assert all(loaded[key].fingerprint == sae.fingerprint for key, sae in saes.items())
    assert loaded[5].concepts.names == saes[5].concepts.names and loaded[5] is loaded[5]
    assert loaded["LAYER 0/mlp"].component is None and SAE.load(folder / "5").d_hidden == 64


def test_weights_are_looked_at_where_they_lie(tmp_path, backend):
    folder = SAECollection({"a": make_sae(k=5)}).save(tmp_path / "all")
    mapped = SAECollection.load(folder, backend=backend, device="cpu" if backend == "torch" else None)["a"]
    assert is_mapped(mapped.W_enc) and is_mapped(mapped.W_dec) and not mapped.W_enc.flags.writeable
    x = activations(20, 8)
    np.testing.assert_array_equal(mapped.encode(x), make_sae(mapped.backend, k=5).encode(x))
    half = SAECollection({"a": make_sae()}).save(tmp_path / "half", dtype="float16")
    assert not is_mapped(SAECollection.load(half)["a"].W_enc)


def test_what_is_known_is_told_without_opening_anything(tmp_path):
    folder = SAECollection(by_layers()).save(tmp_path / "all")
    for weights in folder.glob("*/sae.safetensors"):
        weights.unlink()
    loaded = SAECollection.load(folder)
    assert loaded.layers == [0, 2, 10] and loaded.widths == [40] and loaded.where(layer=2).same_component()
    with pytest.raises(SAEError, match=r"sae\.safetensors|not an SAE"):
        loaded["layer 2/mlp"]


def test_it_lets_go_of_what_it_opened(tmp_path):
    own = at("layers.3.mlp")
    loaded = SAECollection(
        {"file": SAECollection({"a": own}).save(tmp_path / "all") / "a", "own": own},
    )
    first = loaded["file"]
    loaded.close()
    assert (
        loaded["file"] is not first and loaded["file"].fingerprint == own.fingerprint and loaded["own"] is own
    )


def test_a_collection_is_saved_over_itself_and_over_nothing_else(tmp_path):
    folder = SAECollection(by_layers()).save(tmp_path / "all")
    loaded = SAECollection.load(folder)
    loaded["layer 2/mlp"].concepts.load_concepts({1: "cat"})
    assert loaded.where(layer=2).save(folder) == folder
    again = SAECollection.load(folder)
    assert list(again) == ["layer 2/mlp"] and again["layer 2/mlp"].concepts.name_of(1) == "cat"
    (folder / "mine.txt").write_text("notes")
    with pytest.raises(SAEError, match=r"holds mine\.txt and would be overwritten"):
        again.save(folder)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(SAEError, match="is a file"):
        again.save(file)
    with pytest.raises(InputError, match="path of a folder"):
        again.save(3)  # type: ignore[arg-type]
    with pytest.raises(WriteError):
        again.save(file / "below")


def test_one_that_cannot_be_saved_leaves_what_was_there(tmp_path):
    folder = SAECollection(by_layers()).save(tmp_path / "all")
    before = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    bad = make_sae(metadata={"made by": object()})
    with pytest.raises(SAEError, match="metadata"):
        SAECollection({"good": make_sae(), "bad": bad}).save(folder)
    assert {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["all"]


def test_a_folder_of_saes_of_any_format_is_a_collection(tmp_path):
    at("layers.4.mlp", 16).save(tmp_path / "ours" / "wide")
    make_sae(metadata={"component": "layers.1.mlp"}).save(tmp_path / "theirs", format="saelens")
    (tmp_path / "notes.txt").write_text("not an SAE")
    save_file({"x": np.zeros(3, np.float32)}, tmp_path / "optimizer.safetensors")
    collection = SAECollection.load(tmp_path)
    assert sorted(map(str, collection)) == ["ours/wide", "theirs"]
    assert collection["theirs"].metadata["format"] == "saelens" and collection.at(layer=4).d_hidden == 16
    assert list(SAECollection.load(tmp_path, format="saelens")) == ["theirs"]
    assert list(SAECollection.load(tmp_path / "ours" / "wide")) == ["wide"]


def test_a_set_of_transcoders_in_one_folder_is_keyed_by_layer(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"W_enc": (24, 8), "b_enc": (24,), "W_dec": (24, 8), "b_dec": (8,)}
    for layer in (0, 1, 10):
        arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        save_file(arrays, tmp_path / f"layer_{layer}.safetensors")
    transcoders = SAECollection.load(tmp_path)
    assert list(transcoders) == ["layer_0", "layer_1", "layer_10"]
    layers = transcoders.by("layer")
    assert list(layers) == [0, 1, 10] and layers[10].is_transcoder and is_mapped(layers[10].W_dec)
    np.testing.assert_array_equal(layers[1].W_dec, SAE.load(tmp_path / "layer_1.safetensors").W_dec)


def test_how_to_open_is_checked_before_anything_is_opened(tmp_path):
    folder = SAECollection({"a": at("layers.0.mlp")}).save(tmp_path / "all")
    for path in (folder, folder / "a"):
        with pytest.raises(InputError, match="No backend 'jax'"):
            SAECollection.load(path, backend="jax")
        with pytest.raises(SAEError, match="k is 'x'"):
            SAECollection.load(path, k="x")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="No backend 'jax'"):
        SAECollection.from_release("gpt2-small-res-jb", backend="jax")
    with pytest.raises(SAEError, match="in the format 'mlxterp', not 'saelens'"):
        SAECollection.load(folder, format="saelens")


def test_a_collection_is_pickled_as_what_it_opens(tmp_path):
    folder = SAECollection({"a": at("layers.0.mlp")}).save(tmp_path / "all")
    release = SAECollection.from_release("gpt2-small-res-jb", "blocks.8.hook_resid_pre")
    assert pickle.loads(pickle.dumps(release)).layers == [8]
    for collection in (
        SAECollection.load(folder), SAECollection.load(folder / "a"), SAECollection([folder / "a"])
    ):  # fmt: skip
        again = pickle.loads(pickle.dumps(collection))
        assert [sae.fingerprint for sae in again.values()] == [sae.fingerprint for sae in collection.values()]


# -- damage ---------------------------------------------------------------------------------------


def test_where_nothing_is_the_message_says_so(tmp_path):
    with pytest.raises(SAEError, match="no such file or folder"):
        SAECollection.load(tmp_path / "nowhere")
    with pytest.raises(SAEError, match="not an SAE in a format"):
        SAECollection.load(tmp_path)
    with pytest.raises(SAEError, match="no such file or folder"):
        SAECollection({"a": tmp_path / "nowhere"})
    with pytest.raises(InputError, match="path of an SAE's file or folder"):
        SAECollection.load(None)  # type: ignore[arg-type]
    with pytest.raises(SAEError, match="Unknown format 'own'"):
        SAECollection.load(tmp_path, format="own")
    SAECollection(by_layers()).save(tmp_path / "all")
    with pytest.raises(SAEError, match=r"SAE 'a': .* holds 3 SAEs"):
        SAECollection({"a": tmp_path / "all"})


def test_a_damaged_sae_in_a_folder_does_not_vanish(tmp_path):
    folder = at("layers.0.mlp").save(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text('{"format": "mlx')
    (tmp_path / "bad" / "sae.safetensors").write_bytes((folder / "sae.safetensors").read_bytes())
    with pytest.raises(SAEError, match=r"config\.json"):
        SAECollection.load(tmp_path)


BAD = {
    "a list": lambda told: [told],
    "another format": lambda told: {**told, "format": "mlxterp-index"},
    "no list of SAEs": lambda told: {**told, "saes": {}},
    "no SAE": lambda told: {**told, "saes": []},
    "a path that leads out": lambda told: _changed(told, folder="../a"),
    "an absolute path": lambda told: _changed(told, folder="/etc"),
    "the folder above": lambda told: _changed(told, folder=".."),
    "a key that is none": lambda told: _changed(told, key=-1),
    "a list as key": lambda told: _changed(told, key=["a"]),
    "no digest": lambda told: _changed(told, config=None),
    "a width of 0": lambda told: _changed(told, d_hidden=0),
    "a width that is a truth": lambda told: _changed(told, d_hidden=True),
    "a component that is a number": lambda told: _changed(told, component=3),
    "an entry that is none": lambda told: {**told, "saes": [None]},
    "a key twice": lambda told: {**told, "saes": told["saes"] * 2},
}


def _changed(told: dict, **entry: object) -> dict:
    return {**told, "saes": [{**told["saes"][0], **entry}]}


@pytest.mark.parametrize("what", BAD)
def test_a_main_file_that_holds_what_cannot_be_is_refused(what, tmp_path):
    place = SAECollection({"a": make_sae()}).save(tmp_path / "all") / "collection.json"
    told = BAD[what](json.loads(place.read_text()))
    if isinstance(told, dict):
        told = sealed({key: value for key, value in told.items() if key != "digest"})
    place.write_text(json.dumps(told))
    with pytest.raises(SAEError, match=r"collection\.json is not the main file of a collection"):
        SAECollection.load(place.parent)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b'{"format": "mlxterp-saes", "format": 1}'])
def test_a_main_file_that_is_no_json_is_refused(data, tmp_path):
    place = SAECollection({"a": make_sae()}).save(tmp_path / "all") / "collection.json"
    place.write_bytes(data)
    with pytest.raises(SAEError, match="not the main file of a collection"):
        SAECollection.load(place.parent)


def test_an_edited_main_file_and_one_from_the_future_are_told(tmp_path):
    place = SAECollection({"a": make_sae()}).save(tmp_path / "all") / "collection.json"
    text = place.read_text()
    place.write_text(text.replace('"d_hidden": 40', '"d_hidden": 41'))
    with pytest.raises(SAEError, match="its digest is not that of its contents"):
        SAECollection.load(place.parent)
    place.write_text(text.replace('"version": 1', '"version": 2'))
    with pytest.raises(SAEError, match="version 2; this mlxterp reads version 1"):
        SAECollection.load(place.parent)


def test_an_sae_that_was_exchanged_is_found_when_it_is_used(tmp_path):
    folder = SAECollection({"a": make_sae(), "b": make_sae(seed=3)}).save(tmp_path / "all")
    loaded = SAECollection.load(folder)
    make_sae(seed=7).save(folder / "b")
    assert loaded["a"].fingerprint == make_sae().fingerprint
    with pytest.raises(SAEError, match="not the SAE that was saved with this collection"):
        loaded["b"]


# -- published ------------------------------------------------------------------------------------


def test_a_release_is_chosen_from_by_layers_and_widths():
    scope = SAECollection.from_release("gemma-scope-2b-pt-res-canonical", widths=16384)
    assert len(scope) == 26 and scope.layers == list(range(26)) and scope.widths == [16384]
    assert list(scope.by("layer").where(layer=20)) == [20]
    two = SAECollection.from_release(
        "gemma-scope-2b-pt-res-canonical", layers=[12, 20], widths=[65536, 16384]
    )
    assert sorted(two) == [f"layer_{n}/width_{w}/canonical" for n in (12, 20) for w in ("16k", "65k")]
    wide = SAECollection.from_release("gpt2-small-res-jb-feature-splitting", widths=[768, 1536])
    assert list(wide.by("width")) == [768, 1536] and wide.components == ["layers.8.resid_pre"]
    named = SAECollection.from_release("gpt2-small-res-jb", ["blocks.8.hook_resid_pre"])
    assert named.layers == [8]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("gpt2-small-res-jbb",), {}, "is no release"), ((3,), {}, "is no release"),
        (("gpt2-small-res-jb", ["nothing"]), {}, "has no SAE 'nothing'; it has 13"),
        (("gpt2-small-res-jb",), {"layers": [99]}, r"has layers=\[99\]\. pretrained_saes"),
    ],
)  # fmt: skip
def test_what_no_release_has_is_named(arguments, options, message):
    with pytest.raises(SAEError, match=message):
        SAECollection.from_release(*arguments, **options)


def test_widths_that_no_id_says_and_that_are_none_are_refused():
    with pytest.raises(InputError, match=r"does not say its number of features.*ids="):
        SAECollection.from_release("gpt2-small-res-jb", widths=24576)
    with pytest.raises(InputError, match="an entry of widths is 'wide'"):
        SAECollection.from_release("gpt2-small-res-jb-feature-splitting", widths="wide")  # type: ignore[arg-type]


def test_files_of_a_release_come_when_they_are_asked_for(tmp_path):
    release, name = "gpt2-small-res-jb", "blocks.8.hook_resid_pre"
    entry = find_pretrained(release, name)
    saelens(repository(tmp_path, entry.repo_id) / entry.path, d_in=8, d_sae=24, hook_point=name)
    found = ask(
        tmp_path,
        f"(lambda c: [len(c), c['{name}'].d_hidden, c['{name}'].metadata['release']])"
        f"(mlxterp.SAECollection.from_release('{release}'))",
    )
    assert found == [13, 24, release]


# -- together -------------------------------------------------------------------------------------


def test_indexes_are_built_over_the_same_texts(tmp_path, backend):
    model = InterpretableModel(FOLDER / "model", backend=backend)
    saes = {"narrow": random_sae(TopK(4), model.d_model, 32), 64: random_sae(TopK(8), model.d_model, 64)}
    indexes = SAECollection(saes).build_indexes(model, iter(TEXTS), tmp_path, verbose=False)
    assert list(indexes) == ["narrow", 64] and sorted(p.name for p in tmp_path.iterdir()) == ["64", "narrow"]
    for key, sae in saes.items():
        alone = model.build_index(sae, TEXTS, verbose=False)
        assert indexes[key].d_hidden == sae.d_hidden and indexes[key].n_texts == len(TEXTS)
        feature = int(alone.live[0])
        assert indexes[key].top_texts(feature, 3) == alone.top_texts(feature, 3)
    assert FeatureIndex.open(tmp_path / "narrow").d_hidden == 32


def test_indexes_need_a_model_and_a_folder(tmp_path):
    collection, name = SAECollection({"a": make_sae()}), cast(Any, "gpt2")
    with pytest.raises(InputError, match="Expected an InterpretableModel, got str"):
        collection.build_indexes(name, TEXTS, tmp_path)
    with pytest.raises(InputError, match="built in a folder"):
        collection.build_indexes(InterpretableModel(FOLDER / "model"), TEXTS, "memory://indexes")
