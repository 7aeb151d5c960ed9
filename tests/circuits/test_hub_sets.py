"""Sets of transcoders by the name of their repository, from a cache of the hub laid out on disk, offline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxterp import CrossLayerTranscoder, InputError, SAECollection, SAEError
from mlxterp.sae.pretrained.sets import HubPlace, hub_place
from tests.circuits.conftest import IDS
from tests.circuits.making import cross_layer, transcoders

constants = pytest.importorskip("huggingface_hub.constants")
OLD, NEW = "0" * 40, "1" * 40


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Any:
    """Makes a repository's folder in the cache; nothing but the cache answers."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)

    def repository(name: str, commit: str = NEW, refs: tuple[str, ...] = ("main",)) -> Path:
        root = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (root / "refs").mkdir(parents=True, exist_ok=True)
        for ref in refs:
            (root / "refs" / ref).write_text(commit)
        folder = root / "snapshots" / commit
        folder.mkdir(parents=True)
        return folder

    return repository


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.allclose(one, other, atol=1e-5)


def graph_of(model: Any, given: Any) -> np.ndarray:
    return model.attribution_graph(IDS, given, targets=[5], verbose=False).matrix


def saved(folder: Path, given: dict[int, Any]) -> Path:
    return SAECollection(given).save(folder / "set", format="circuit_tracer")


def test_a_set_of_each_kind_is_that_of_its_folder(model, hub, tmp_path):
    given = transcoders(model)
    top = hub("owner/plain")
    for file in saved(tmp_path, given).iterdir():
        file.replace(top / file.name)
    (top / "features").mkdir()
    (top / "features" / "layer_0.bin").write_bytes(b"none of the set's")
    assert same(graph_of(model, "owner/plain"), graph_of(model, given))
    assert SAECollection.from_release("owner/plain").layers == [0, 1, 2]
    clt = cross_layer(model.n_layers, model.d_model)
    clt.save(hub("owner/across") / "wide")
    expected = graph_of(model, clt)
    assert same(graph_of(model, "hf://owner/across/wide"), expected)
    assert same(
        graph_of(model, CrossLayerTranscoder.load("hf://owner/across/wide", revision="main")), expected
    )
    top = hub("owner/listed")  # whose settings list the files that lie beside them
    for file in clt.save(tmp_path / "listed").iterdir():
        file.replace(top / file.name)
    names = "".join(f"\n- W_enc_{layer}.safetensors" for layer in range(model.n_layers))
    with open(top / "config.yaml", "a", encoding="utf-8") as config:
        config.write(f"\ntranscoders:{names}\n")
    assert same(graph_of(model, "owner/listed"), expected)
    SAECollection(given).save(hub("owner/ours") / "inner")
    assert same(graph_of(model, "hf://owner/ours/inner"), graph_of(model, given))


def test_settings_that_list_files_of_other_repositories_are_followed(model, hub):
    given, listed = transcoders(model), []
    for layer, sae in given.items():
        folder = hub(f"maker/of{layer}") / "deep"
        folder.mkdir()
        arrays = {"W_enc": sae.W_enc, "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
        arrays |= {"threshold": np.zeros_like(sae.b_enc)}
        named: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
        np.savez(folder / "params.npz", **named)
        listed.append(f"  - hf://maker/of{layer}/deep/params.npz" + ("?revision=main" if layer else "@main"))
    text = "model_kind: transcoder_set\nfeature_input_hook: mlp.hook_in\nfeature_output_hook: hook_mlp_out\n"
    (hub("owner/list") / "config.yaml").write_text(text + "transcoders:\n" + "\n".join(listed) + "\n")
    assert same(graph_of(model, "owner/list"), graph_of(model, given))


def test_a_revision_is_what_is_read(model, hub, tmp_path):
    for commit, refs, scale in ((OLD, ("v1",), 2.0), (NEW, ("main",), 1.0)):
        given = {
            layer: sae.replace(replace(sae.weights, W_dec=scale * sae.W_dec))
            for layer, sae in transcoders(model).items()
        }
        folder = hub("owner/twice", commit, refs)
        for file in saved(tmp_path / commit, given).iterdir():
            file.replace(folder / file.name)
    newest, old = graph_of(model, "owner/twice"), graph_of(model, "owner/twice@v1")
    assert not same(newest, old)
    assert same(old, graph_of(model, SAECollection.from_release("owner/twice", revision="v1")))
    with pytest.raises(SAEError, match="does not hold"):
        graph_of(model, "owner/twice@v9")


@pytest.mark.parametrize(
    ("name", "said"),
    [("owner/nothing", "owner/nothing"), ("hf://owner", "names nothing on the hub"),
     ("hf://owner/empty/none", "holds no transcoders"), ("owner/bad", "outside it"), ("owner/word", "a list of files")],
)  # fmt: skip
def test_what_is_no_set_is_refused_by_name(model, hub, name, said):
    (hub("owner/empty") / "README.md").write_text("no weights")
    (hub("owner/bad") / "config.yaml").write_text(
        "model_kind: transcoder_set\ntranscoders: ['../../x.npz']\n"
    )
    (hub("owner/word") / "config.yaml").write_text("model_kind: transcoder_set\ntranscoders: many\n")
    with pytest.raises((SAEError, InputError), match=said):
        graph_of(model, name)


def test_names_are_told_from_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub_place("owner/name@v2") == HubPlace("owner/name", "", "v2")
    assert hub_place("hf://owner/name/a/b?revision=x") == HubPlace("owner/name", "a/b", "x")
    assert hub_place("hf://owner/name/a@x", "x") == HubPlace("owner/name", "a", "x")
    for path in ("./owner/name", "a/b/c", "name", "~/x", Path("owner/name"), 3):
        assert hub_place(path) is None
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert hub_place("owner/name") is None
    with pytest.raises(InputError, match="names the revision"):
        hub_place("hf://o/n@x", "y")
    with pytest.raises(InputError, match="is of a repository of the hub"):
        CrossLayerTranscoder.load("owner/name", revision="x")  # a folder here
    with pytest.raises(InputError, match="choose from a release"):
        SAECollection.from_release("maker/saes", layers=[1])
