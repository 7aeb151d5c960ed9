"""A setting of a checkpoint either gives the same numbers in both wings, or a warning names it."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxterp import ConfigWarning, InputError, InterpretableModel
from mlxterp.backends.host.settings import flat, mentioned, unread, window_of, windowed_layers

SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 200, "max_position_embeddings": 128, "pad_token_id": 0,
         "bos_token_id": 1, "eos_token_id": 1}  # fmt: skip
WIDE = {**SHAPE, "head_dim": 16}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": SHAPE, "qwen2": SHAPE, "qwen3": WIDE, "gemma": WIDE, "granite": SHAPE, "olmo2": SHAPE, "phi3": SHAPE,
    "stablelm": SHAPE, "starcoder2": SHAPE, "glm": WIDE, "nemotron": SHAPE, "ministral3": WIDE,
    "gemma2": {**WIDE, "query_pre_attn_scalar": 16, "sliding_window": 64},
    "gemma3_text": {**WIDE, "query_pre_attn_scalar": 16, "sliding_window": 64, "num_hidden_layers": 6},
    "cohere2": {**WIDE, "sliding_window": 64, "num_hidden_layers": 4},
    "mixtral": {**WIDE, "num_local_experts": 4, "num_experts_per_tok": 2},
    "olmoe": {**SHAPE, "num_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {**WIDE, **EXPERTS},
    "gpt_neox": {**SHAPE, "intermediate_size": 256},
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_inner": 256, "vocab_size": 200, "n_positions": 128,
             "n_ctx": 128, "bos_token_id": 1, "eos_token_id": 1},
}  # fmt: skip
ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "theta": {"rope_parameters": {**ROPE, "rope_theta": 300.0}},
    "linear": {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 4.0}},
    "llama3": {"rope_parameters": {**ROPE, **LLAMA3}},
    "partial": {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.5}, "partial_rotary_factor": 0.5},
    "window": {"sliding_window": 6, "use_sliding_window": True, "max_window_layers": 1},
    "activation": {"hidden_act": "relu", "hidden_activation": "relu", "activation_function": "relu"},
    "epsilon": {"rms_norm_eps": 0.3, "layer_norm_eps": 0.3, "norm_eps": 0.3, "layer_norm_epsilon": 0.3,
                "norm_epsilon": 0.3},
    "caps": {"attn_logit_softcapping": 1.5, "final_logit_softcapping": 1.5},
    "scalar": {"query_pre_attn_scalar": 3},
    "multipliers": {"attention_multiplier": 0.7, "residual_multiplier": 0.5, "embedding_multiplier": 3.0,
                    "logits_scaling": 4.0, "logit_scale": 0.3},
    "tied": {"tie_word_embeddings": True},
    "attention biases": {"attention_bias": True},
    "gpt2's scores": {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
    "experts": {"norm_topk_prob": True, "num_experts_per_tok": 1, "clip_qkv": 0.2},
    "blocks": {"use_parallel_residual": False},
}  # fmt: skip
IDS = np.random.default_rng(0).integers(2, 190, 40).tolist()


def write(model_type: str, changes: dict[str, Any], folder: Path) -> None:
    """A random checkpoint with these settings."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    settings = copy.deepcopy({**ARCHITECTURES[model_type], **changes})
    if model_type not in transformers.CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {model_type}")
    config = transformers.AutoConfig.for_model(model_type, initializer_range=0.15, **settings)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    if model_type == "gpt2":  # mlx-lm reads the hub's original names
        weights = load_file(folder / "model.safetensors")
        plain = {k.removeprefix("transformer."): v.clone() for k, v in weights.items()}
        plain.pop("lm_head.weight", None)
        save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})


def opened(folder: Path, backend: str) -> tuple[np.ndarray, list[str]]:
    """Logits, and what was said of settings that are passed over."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = InterpretableModel(folder, backend=backend)
        logits = model.language_model.backend.get(model(IDS)).astype(np.float64)
    said = [str(w.message) for w in caught if issubclass(w.category, ConfigWarning)]
    return logits, [
        message for message in said if "does not read" in message or "checkpoint lacks" in message
    ]


@pytest.mark.parametrize("name", sorted(SETTINGS))
@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_both_wings_agree_or_one_of_them_says_what_it_passes_over(model_type, name, tmp_path):
    pytest.importorskip("mlx.core")
    try:
        write(model_type, SETTINGS[name], tmp_path)
        reference, said = opened(tmp_path, "torch")
    except Exception as error:
        pytest.skip(f"transformers makes no such {model_type}: {type(error).__name__}")
    try:
        found, also = opened(tmp_path, "mlx")
    except InputError:  # refused, and named: weights or settings that its class has no place for
        return
    apart = np.abs(found - reference).max() / max(1.0, np.abs(reference).max())
    assert apart <= 1e-4 or said or also


def test_gemma2_says_from_where_on_texts_differ(tmp_path):
    pytest.importorskip("mlx.core")
    write("gemma2", {"sliding_window": 6}, tmp_path)
    _, said = opened(tmp_path, "mlx")
    assert len(said) == 1 and "sliding_window=6" in said[0] and "longer than 6 tokens" in said[0]
    assert opened(tmp_path, "torch")[1] == []


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "mixtral", "gemma3_text", "gpt2", "olmo2"])
def test_nothing_is_said_of_a_checkpoint_that_is_read_whole(model_type, tmp_path):
    pytest.importorskip("mlx.core")
    write(model_type, {}, tmp_path)
    for backend in ("mlx", "torch"):
        assert opened(tmp_path, backend)[1] == []


@pytest.mark.parametrize("kind", ["linear", "llama3"])
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
def test_a_nested_scaling_is_used_in_mlx_too(model_type, kind, tmp_path):
    """transformers 5 nests it where mlx-lm does not look."""
    pytest.importorskip("mlx.core")
    write(model_type, SETTINGS[kind], tmp_path)
    reference, found = opened(tmp_path, "torch")[0], opened(tmp_path, "mlx")[0]
    assert np.abs(found - reference).max() <= 1e-4 * max(1.0, np.abs(reference).max())


def test_the_base_of_layers_with_a_window_is_used_in_mlx_too(tmp_path):
    """transformers 5 nests it by kind of layer, where mlx-lm does not look."""
    pytest.importorskip("mlx.core")
    write("gemma3_text", {"rope_local_base_freq": 77.0}, tmp_path)
    reference, found = opened(tmp_path, "torch")[0], opened(tmp_path, "mlx")[0]
    assert np.abs(found - reference).max() <= 1e-4 * max(1.0, np.abs(reference).max())


@pytest.mark.filterwarnings("ignore:.*nests settings where:mlxterp.ConfigWarning")
@pytest.mark.parametrize("failure", [SystemExit(1), AttributeError("no attribute"), ImportError("ai2-olmo")])
def test_a_class_that_fails_while_it_loads_is_told_by_name(tmp_path, monkeypatch, failure):
    """Some of mlx-lm's classes end the program where a library of theirs is missing."""
    pytest.importorskip("mlx.core")
    import mlx_lm.utils

    def fail(*_: Any, **__: Any) -> None:
        raise failure

    write("llama", {}, tmp_path)
    monkeypatch.setattr(mlx_lm.utils, "load_model", fail)
    with pytest.raises(InputError, match=f"mlx-lm cannot open.*{type(failure).__name__}"):
        InterpretableModel(tmp_path, backend="mlx")


def test_weights_that_a_checkpoint_lacks_or_nothing_uses_are_named_in_torch(tmp_path):
    write("llama", {}, tmp_path)
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.1.mlp.strange"] = weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(ConfigWarning) as caught:
        InterpretableModel(tmp_path, backend="torch")
    said = " ".join(str(w.message) for w in caught)
    assert "lacks" in said and "layers.1.mlp.up_proj.weight" in said and "layers.1.mlp.strange" in said


# -- the table, without models ----------------------------------------------------------------------


def test_what_code_only_declares_it_does_not_read(tmp_path, monkeypatch):
    (tmp_path / "arch_for_a_test.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass ModelArgs:\n    clip_qkv: float = 0\n"
        "    logit_scale: float = 1\ndef f(args, x):\n    return x * args.logit_scale\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import importlib

    reads = mentioned([importlib.import_module("arch_for_a_test")])
    assert "logit_scale" in reads and "clip_qkv" not in reads
    config = {
        "clip_qkv": 8.0,
        "logit_scale": 0.5,
        "final_logit_softcapping": None,
        "residual_multiplier": 1.0,
    }
    assert [line.partition("=")[0] for line in unread(config, reads)] == ["clip_qkv"]
    assert unread(config, ()) == []  # no source to read: nothing is known


def test_a_window_counts_only_where_it_can_be_seen():
    base: dict[str, Any] = {"sliding_window": 6, "num_hidden_layers": 4, "max_position_embeddings": 64}
    assert window_of(base) == 6
    assert window_of({"text_config": base, "sliding_window": 9}) == 6
    for change in (
        {"use_sliding_window": False}, {"sliding_window": None}, {"sliding_window": 64}, {"max_window_layers": 4},
        {"layer_types": ["full_attention"] * 4},
    ):  # fmt: skip
        assert window_of({**base, **change}) is None
    mixed = {**base, "layer_types": ["full_attention", "sliding_attention"] * 2, "max_window_layers": 4}
    assert window_of({**mixed, "use_sliding_window": False}) == 6  # what a layer is said to be counts
    assert window_of(mixed) == 6 and windowed_layers(mixed) == 2 and windowed_layers(base) is None


def test_nested_rotary_settings_are_seen():
    nested = {"rope_parameters": {"rope_theta": 5.0, "partial_rotary_factor": 0.5}}
    assert flat(nested)["rope_theta"] == 5.0
    by_layer = {
        "rope_parameters": {"full_attention": {"rope_theta": 7.0}, "sliding_attention": {"rope_theta": 5.0}}
    }
    assert flat(by_layer)["rope_theta"] == 7.0
    assert "rope_theta=5.0 of layers with a window" in str(unread(by_layer, {"rope_theta"}))
    assert not unread(by_layer, {"rope_theta", "rope_local_base_freq"})
    assert json.dumps(unread(nested, {"rope_parameters"})).count("partial_rotary_factor") == 1
