"""A tiny seeded Llama of mlx-lm and a tokenizer of words, for tests that look inside."""

from __future__ import annotations

from typing import Any

from mlxterp import InterpretableModel

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "then",
    "it",
    "saw",
    "one",
    "big",
    "dog",
    "run",
    "to",
    "an",
    "old",
    "red",
    "hat",
]


class WordTokenizer:
    """Splits at spaces; unknown words are the last id. No special tokens."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [WORDS.index(w) if w in WORDS else len(WORDS) for w in text.split()]

    def decode(self, ids: Any) -> str:
        return " ".join(WORDS[i] if i < len(WORDS) else "?" for i in ids)


def tiny_llama(layers: int = 4, seed: int = 0, tokenizer: Any = None, **settings: Any) -> InterpretableModel:
    """A random Llama of width 32 with grouped heads (4 of queries, 2 of keys)."""
    import mlx.core as mx
    from mlx_lm.models import llama

    mx.random.seed(seed)
    arguments = {
        "model_type": "llama", "hidden_size": 32, "num_hidden_layers": layers, "intermediate_size": 48,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "vocab_size": 64,
        "max_position_embeddings": 512,
    }  # fmt: skip
    model = llama.Model(llama.ModelArgs.from_dict(arguments | settings))
    model.eval()
    return InterpretableModel(model, tokenizer=tokenizer)
