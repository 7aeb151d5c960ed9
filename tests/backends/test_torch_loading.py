"""Loading models of transformers from a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxterp.errors import BackendError, InputError
from tests.backends.tiny_torch import TorchLanguageModel, batch, load_language_model, tiny, torch


@pytest.fixture(scope="module")
def llama() -> TorchLanguageModel:
    return tiny("llama")


@pytest.fixture
def folder(llama, tmp_path: Path) -> Path:
    llama.model.save_pretrained(tmp_path)
    return tmp_path


def save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "cat": 1, "sat": 2, "?": 3}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(folder)


def test_a_saved_model_computes_the_same(llama, folder):
    loaded = load_language_model(folder, device="cpu")
    assert torch.equal(loaded.forward(batch()), llama.forward(batch()))
    assert not loaded.model.training and loaded.tokenizer is None
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}


def test_the_precision_of_the_checkpoint_is_kept(folder):
    tiny("llama").model.bfloat16().save_pretrained(folder)
    loaded = load_language_model(str(folder), device="cpu")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}


def test_the_tokenizer_comes_from_the_same_folder_or_from_where_it_is_said(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(other)
    assert load_language_model(folder, other, device="cpu").tokenize("a cat sat") == [0, 1, 2]
    save_tokenizer(folder)
    assert load_language_model(folder, device="cpu").tokenize("sat a dog") == [2, 0, 3]
    mine = object()
    assert load_language_model(folder, mine, device="cpu").tokenizer is mine


def test_what_cannot_be_loaded_is_named(folder, tmp_path_factory):
    with pytest.raises(InputError, match=r"There is no folder '\./nowhere'"):
        load_language_model("./nowhere")
    with pytest.raises(InputError, match="There is no folder"):
        load_language_model(folder / "config.json")
    with pytest.raises(InputError, match="No causal language model could be loaded"):
        load_language_model(tmp_path_factory.mktemp("empty"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        load_language_model(folder)
    save = tmp_path_factory.mktemp("weights")
    tiny("llama").model.save_pretrained(save)
    with pytest.raises(InputError, match="No tokenizer could be loaded"):
        load_language_model(save, tmp_path_factory.mktemp("nothing"), device="cpu")


def test_an_unknown_device_is_named(folder):
    with pytest.raises(BackendError, match="nothing"):
        load_language_model(folder, device="nothing")


def test_a_missing_library_is_named_with_its_remedy(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(BackendError, match=r'pip install "mlxterp\[torch\]"'):
        load_language_model(folder)
