"""Small seeded models in hub layout, which mlx-lm and transformers both open."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from mlxterp import ConfigWarning, InterpretableModel
from tests.tiny import tiny_llama

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
                  "num_key_value_heads": 2, "vocab_size": 200, "max_position_embeddings": 128},
    "qwen2": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
                  "num_key_value_heads": 2, "vocab_size": 200, "max_position_embeddings": 128,
                  "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0}},
    "gemma2": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
                   "num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16, "vocab_size": 200,
                   "max_position_embeddings": 128, "sliding_window": 64, "pad_token_id": 0},
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_inner": 256, "vocab_size": 200, "n_positions": 128,
             "n_ctx": 128, "bos_token_id": 1, "eos_token_id": 1},
    "gpt_neox": {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3,
                 "num_attention_heads": 4, "vocab_size": 200, "max_position_embeddings": 128,
                 "hidden_act": "gelu_new", "use_parallel_residual": True, "bos_token_id": 1,
                 "eos_token_id": 1},
}  # fmt: skip


def llama_folder(folders: pytest.TempPathFactory) -> Path | None:
    """A checkpoint for `open_llama`; None without PyTorch, which makes it."""
    found = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    return checkpoint("llama", folders.mktemp("llama")) if found else None


def open_llama(folder: Path | None, backend: str, tokenizer: Any = None) -> InterpretableModel:
    """The checkpoint; without one, a seeded Llama of the same shape in MLX."""
    if folder is None:
        own = {"tie_word_embeddings": False, **SHAPES["llama"]}
        return tiny_llama(own["num_hidden_layers"], 0, tokenizer, **own)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        return InterpretableModel(folder, tokenizer=tokenizer, backend=backend)


def checkpoint(model_type: str, folder: Path, seed: int = 0, **shape: Any) -> Path:
    """Writes a random model of that type; returns the folder. Without PyTorch the test is skipped.

    Args:
        shape: Settings that are to be other than those of `SHAPES`.
    """
    torch = pytest.importorskip("torch", reason="this checkpoint is made with PyTorch")
    transformers = pytest.importorskip("transformers", reason="this checkpoint is made with transformers")
    from safetensors.torch import load_file, save_file

    AutoConfig, AutoModelForCausalLM = transformers.AutoConfig, transformers.AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        model_type, initializer_range=0.15, **{**SHAPES.get(model_type, {}), **shape}
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    for _name, parameter in model.named_parameters():  # biases and gains that are not just 0 and 1
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    if model_type == "gpt2":  # mlx-lm reads the hub's original names, without the prefix
        weights = load_file(folder / "model.safetensors")
        plain = {
            k.removeprefix("transformer."): v.clone() for k, v in weights.items() if k != "lm_head.weight"
        }
        save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
    assert json.loads((folder / "config.json").read_text())["model_type"] == model_type
    return folder
