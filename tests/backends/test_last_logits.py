"""Logits after many texts, what they share read once, are those of a whole pass over each."""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np
import pytest

from mlxterp import InterpretableModel, MlxterpWarning
from mlxterp.core.tokens import TokenBatch
from tests.architectures import build, configs

MLX = (
    "llama",
    "gpt2",
    "gemma2",
    "gemma3",
    "qwen3_moe",
    "mamba",
    "jamba",
    "mixtral",
    "phi3",
    "olmoe",
    "falcon_h1",
    "cohere2",
)
TORCH = ("llama", "gpt2", "gemma2", "mixtral", "bloom", "mamba", "jamba")


def check(model) -> None:
    rng = np.random.default_rng(0)
    shared = rng.integers(0, model.vocab_size, 9).tolist()
    texts = [[*shared, *rng.integers(0, model.vocab_size, n).tolist()] for n in (1, 4, 4, 7, 1)]
    tokens = [3, 1, model.vocab_size - 1]
    for some in (texts, texts[:1], [texts[0][9:], *texts[1:]]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MlxterpWarning)
            found = model.last_logits(some, tokens)
        for row, text in zip(found, some, strict=True):
            whole = model.backend.get(model.forward(TokenBatch.from_rows([text])))[0, -1]
            assert np.abs(row - whole[tokens]).max() <= 1e-4 * np.abs(whole).max()


@pytest.mark.parametrize("model_type", MLX)
def test_mlx_reads_what_is_shared_once(model_type):
    pytest.importorskip("mlx_lm")
    if model_type not in configs():
        pytest.skip("its shape stands in ../shared")
    check(InterpretableModel(build(model_type)).language_model)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")
@pytest.mark.parametrize("model_type", TORCH)
def test_torch_reads_what_is_shared_once(model_type):
    from tests.backends.tiny_torch import tiny

    check(tiny(model_type))
