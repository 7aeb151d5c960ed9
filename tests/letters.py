"""A small seeded Llama that reads letters, in either wing, and an SAE for it; `letter_model` in `conftest` opens it."""

from __future__ import annotations

import numpy as np

from mlxterp import SAE, InterpretableModel
from mlxterp.variants import TopK
from mlxterp.weights import SAEWeights


class LetterTokenizer:
    """One token for each character; id 1 before every text stands for BOS."""

    eos_token_id = None

    def encode(self, text: str) -> list[int]:
        return [1] + [2 + ord(c) % 190 for c in text]

    def decode(self, ids) -> str:
        return "".join(chr(i + 30) for i in ids)


TOKENIZER = LetterTokenizer()
TEXTS = ["the cat sat", "a", "on a red mat and more", "the cat sat", "zebra", "q" * 30, "to be or not"]


def llama_of_mlx(seed: int = 3, **settings) -> InterpretableModel:
    import mlx.core as mx
    from mlx_lm.models import llama

    mx.random.seed(seed)
    arguments = {
        "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 48,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "vocab_size": 200,
        "max_position_embeddings": 64,
    }  # fmt: skip
    model = llama.Model(llama.ModelArgs.from_dict(arguments | settings))
    return InterpretableModel(model, tokenizer=TOKENIZER)


def random_sae(width: int, d_hidden: int = 120, k: int = 6, backend: str | None = None) -> SAE:
    rng = np.random.default_rng(7)
    decoder = rng.standard_normal((d_hidden, width)).astype(np.float32)
    b_enc = -0.1 + 0 * decoder[:, 0]
    b_enc[-1] = -1e6  # this one never fires
    b_dec = 0.01 * rng.standard_normal(width).astype(np.float32)
    return SAE(SAEWeights(decoder.T, b_enc, decoder, b_dec), TopK(k), backend=backend)
