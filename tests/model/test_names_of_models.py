"""Names of models and SAEs: what is a path is never asked of the hub, and the hub's silence costs no minute."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxterp import SAE, InputError, InterpretableModel, SAEError
from mlxterp.core.places import is_repository, looks_like_path, near
from mlxterp.demo import FOLDER

hub = pytest.importorskip("huggingface_hub")
pytest.importorskip("huggingface_hub.utils")  # the package brings it only when it is asked for

PATHS = ["./gpt2", "../gpt2", "~/gpt2", "/models/gpt2", "a/b/c", "models\\gpt2", "C:/gpt2", "C:\\gpt2", "gpt2/",
         ".gpt2", "model.safetensors", "ae.pt", Path("gpt2"), Path("openai-community/gpt2")]  # fmt: skip
NAMES = ["gpt2", "openai-community/gpt2", "Qwen/Qwen2.5-0.5B", "distilgpt2", "a/b", "gpt_2", "gpt2-xl"]


@pytest.fixture
def silent(monkeypatch, tmp_path):
    """No hub answers, and the cache is empty; what is asked is kept."""
    asked: list[str] = []

    session = hub.utils.get_session

    class Session:
        def __getattr__(self, name: str) -> object:
            return getattr(session(), name)

        def head(self, address: str, **_: object) -> None:
            asked.append(address)
            raise ConnectionError("nobody is there")

    monkeypatch.setattr("huggingface_hub.utils.get_session", Session)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    (tmp_path / "models" / "my-model").mkdir(parents=True)
    (tmp_path / "my-sae").mkdir()
    monkeypatch.chdir(tmp_path)
    return asked


@pytest.mark.parametrize("name", PATHS, ids=str)
@pytest.mark.usefixtures("silent")
def test_what_can_only_be_a_path_is_one(name):
    assert looks_like_path(name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("silent")
def test_what_the_hub_could_have_is_a_name(name):
    assert not looks_like_path(name) and is_repository(name)


@pytest.mark.usefixtures("silent")
def test_a_name_below_a_folder_that_exists_is_a_path():
    assert looks_like_path("models/gpt2") and not looks_like_path("other/gpt2")


@given(st.text(max_size=40))
def test_any_text_is_a_path_or_not(text):
    assert looks_like_path(text) in (True, False) and is_repository(text) in (True, False)
    assert near(text) == "" or near(text).endswith(".")


@pytest.mark.parametrize(
    "name", [*PATHS, "models/gpt2", "models/my_model", "a b", "", "a" * 200, "x--y", "\0"], ids=repr
)
def test_a_mistyped_path_is_said_at_once_and_never_asked_of_the_hub(backend, name, silent):
    begun = time.perf_counter()
    with pytest.raises(InputError, match=r"no folder|is a file|empty|no path"):
        InterpretableModel(name, backend=backend)
    assert not silent and time.perf_counter() - begun < 5 + 60 * (backend not in _LOADED)
    _LOADED.add(backend)


_LOADED: set[str] = set()
"""Importing a library for the first time takes as long as it does."""


@pytest.mark.usefixtures("silent")
def test_what_lies_there_and_is_called_alike_is_named(backend):
    with pytest.raises(InputError, match="models has: 'my-model'"):
        InterpretableModel("models/my_model", backend=backend)
    with pytest.raises(InputError, match="This folder has: 'models'"):
        InterpretableModel("./model", backend=backend)
    with pytest.raises(InputError, match=r"models has: 'my-model'"):
        InterpretableModel("models/nothing-like-it", backend=backend)
    with pytest.raises(SAEError, match="This folder has: 'my-sae'"):
        SAE.load("my_sae")
    with pytest.raises(SAEError, match=r"is a path, .*SAE.load\('./my_sae'\).* has: 'my-sae'"):
        SAE.from_pretrained("./my_sae")


@pytest.mark.parametrize("name", ["gpt2", "openai-community/gpt2"])
def test_a_name_is_asked_of_the_hub_once_where_it_cannot_be_reached(backend, name, silent):
    begun = time.perf_counter()
    with pytest.raises(
        InputError, match=r"cannot be reached \(ConnectionError: nobody is there\).*Check the conn"
    ):
        InterpretableModel(name, backend=backend)
    assert len(silent) == 1 and time.perf_counter() - begun < 10
    assert not hub.constants.HF_HUB_OFFLINE


def test_where_no_connection_is_allowed_none_is_tried(backend, silent, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"HF_HUB_OFFLINE forbids .*'gpt2'.*Unset HF_HUB_OFFLINE once"):
        InterpretableModel("gpt2", backend=backend)
    assert not silent


def test_a_published_sae_is_asked_for_once_too(silent):
    for release, sae_id in (
        ("owner/saes", None),
        ("gemma-scope-2b-pt-res-canonical", "layer_20/width_16k/canonical"),
    ):
        silent.clear()
        with pytest.raises(SAEError, match=r"could not be brought .*ConnectionError: nobody"):
            SAE.from_pretrained(release, sae_id)
        assert len(silent) == 1


def test_a_model_in_the_cache_is_opened_without_a_connection(backend, silent, tmp_path):
    commit = "0" * 40
    root = tmp_path / "cache" / "models--tiny"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    shutil.copytree(FOLDER / "model", root / "snapshots" / commit)
    model = InterpretableModel("tiny", backend=backend)
    assert model.name == "tiny" and model.n_layers == 4 and silent


@pytest.mark.parametrize("name", ["./nowhere", "a b"])
def test_a_tokenizer_is_named_by_the_same_rule(backend, name, silent):
    with pytest.raises(InputError, match="no folder"):
        InterpretableModel(FOLDER / "model", tokenizer=name, backend=backend)
    assert not silent
