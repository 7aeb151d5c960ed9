"""Tiny seeded models for tests of the torch wing: transformers' architectures, and plain modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlxterp.core.sites import Site, SiteEdit
from mlxterp.core.tokens import TokenBatch

pytest.importorskip("torch")  # modules that import this one are skipped without it
pytest.importorskip("transformers")

import torch
from torch import nn

from mlxterp.backends.torch.arrays import BACKEND as BACKEND
from mlxterp.backends.torch.language_model import TorchLanguageModel
from mlxterp.backends.torch.loading import load_language_model as load_language_model

VOCABULARY = 61
_USUAL = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "max_position_embeddings": 48, "pad_token_id": 0, "eos_token_id": None,
}  # fmt: skip
_GROUPED = {**_USUAL, "num_key_value_heads": 2}
_GPT = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 48,
        "eos_token_id": None}  # fmt: skip
_MAMBA = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 4,
          "eos_token_id": None, "pad_token_id": 0}  # fmt: skip

SETTINGS: dict[str, dict[str, Any]] = {
    "llama": _GROUPED,
    "gpt2": _GPT,
    "qwen2": _GROUPED,
    "gemma2": {**_GROUPED, "head_dim": 8, "sliding_window": 4, "attn_logit_softcapping": 2.0},
    "gemma3_text": {**_GROUPED, "head_dim": 8, "sliding_window": 4,
                    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "gpt_neox": _USUAL,
    "opt": {**_USUAL, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "mixtral": {**_GROUPED, "num_local_experts": 4},
    "olmo2": _GROUPED,
    "gpt_oss": {**_GROUPED, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2,
                "sliding_window": 4},
    "phi": _USUAL,
    "bloom": {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 3, "n_head": 4, "eos_token_id": None},
    "mamba": _MAMBA,
    "jamba": {**_GROUPED, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1,
              "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False},
}  # fmt: skip

OWN_ATTENTION = ("bloom", "mamba")
"""Architectures whose blocks have no attention that can be read per head."""


def tiny(model_type: str, attention: str | None = None, seed: int = 0) -> Any:
    """A `TorchLanguageModel` of a random float32 model in evaluation mode; no weight is exactly 0 or 1."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(model_type, **SETTINGS[model_type])
    options = {"attn_implementation": attention} if attention else {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, **options)
    return TorchLanguageModel(randomised(model, seed).eval())


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """The same module with every weight moved by seeded noise."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.08 * torch.randn(parameter.shape, generator=generator))
    return model


def batch(rows: int = 2, positions: int = 9, seed: int = 0) -> TokenBatch:
    """Random token ids that are no special tokens."""
    generator = torch.Generator().manual_seed(seed)
    return TokenBatch.from_rows(torch.randint(3, VOCABULARY, (rows, positions), generator=generator).tolist())


class Block(nn.Module):
    """A residual block that writes in place, into its argument too."""

    def __init__(self, width: int):
        super().__init__()
        self.up = nn.Linear(width, width)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.down = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.drop(self.down(self.act(self.up(x))))
        x += h
        return x


class Remember(nn.Module):
    """Leaves something in its second argument; what it returns is of no use."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        memory += x * self.weight
        return x.new_zeros(1)


class Plain(nn.Module):
    """A language model of torch alone: no cache, no configuration, everything in place."""

    def __init__(self, width: int = 16, layers: int = 3, shared: bool = False, loops: int = 1):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        one = Block(width)
        self.layers = nn.ModuleList([one if shared else Block(width) for _ in range(layers)])
        self.remember = Remember(width)
        self.head = nn.Linear(width, VOCABULARY)
        self.unused = nn.Linear(width, width)
        self._loops = loops

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        x *= 2.0
        x = x + x.cumsum(1) / 4  # so that positions see earlier ones
        memory = torch.zeros_like(x)
        self.remember(x, memory)
        for _ in range(self._loops):
            for layer in self.layers:
                x = layer(x)
        return self.head(x + memory)


def plain(**options: Any) -> Any:
    """A `TorchLanguageModel` of a seeded `Plain` in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Plain(**options).eval()
    return TorchLanguageModel(model)


def edit(module: str, function: Callable, port: str = "output", call: int | None = None) -> SiteEdit:
    """A change of one value by a function of it alone."""
    return SiteEdit(Site(module, port), lambda x, run, number: function(x), call)


def state(model: TorchLanguageModel) -> list[Any]:
    """Everything about the modules that a pass could leave changed; none may still be hooked."""
    assert not any(type(m).__call__.__module__.startswith("mlxterp") for m in model.model.modules())
    return [
        (path, id(m), type(m), m.training, sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks))
        for path, m in model.model.named_modules(remove_duplicate=False)
    ]


def untraced(model: TorchLanguageModel, tokens: TokenBatch) -> Any:
    """The logits that the model gives when it is called as ever."""
    with torch.no_grad():
        out = model.model(torch.as_tensor(tokens.ids, dtype=torch.int64))
    return out if isinstance(out, torch.Tensor) else out.logits


class Counter:
    """Counts how often the linear layers of each block really compute."""

    def __init__(self, model: TorchLanguageModel):
        self.counts = dict.fromkeys(model.layers, 0)
        self.handles = [
            module.register_forward_hook(lambda m, args, out, path=path: self._count(path))
            for path in model.layers
            for module in model.model.get_submodule(path).modules()
            if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
        ]

    def _count(self, path: str) -> None:
        self.counts[path] += 1

    def __enter__(self) -> list[bool]:
        self.ran: list[bool] = []
        return self.ran

    def __exit__(self, *_: Any) -> None:
        self.ran.extend(count > 0 for count in self.counts.values())
        for handle in self.handles:
            handle.remove()
