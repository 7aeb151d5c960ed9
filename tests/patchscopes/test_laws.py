"""What must hold of a vector in the place of a token, on architectures of both wings."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import InterpretableModel, patchscopes
from mlxterp.core.numeric import log_softmax
from mlxterp.interventions import replace_with

IDS, PLACE, LAYER, NEW = [3, 14, 15, 9, 26, 5, 35, 8], 3, 1, 3
MLX = ("llama", "gemma2", "gpt2", "gpt_neox", "qwen3", "mamba", "mixtral", "cohere2")
TORCH = ("llama", "gemma2", "gpt2", "gpt_neox", "qwen2", "mixtral", "olmo2", "phi")
CASES = [*((("mlx", one)) for one in MLX), *((("torch", one)) for one in TORCH)]


@cache
def opened(backend: str, model_type: str) -> InterpretableModel:
    if backend not in mlxterp.available_backends():
        pytest.skip(f"{backend} is not installed")
    if backend == "mlx":
        from tests.architectures import build, configs

        if model_type not in configs():
            pytest.skip("its config is in the project's shared folder")
        return InterpretableModel(build(model_type))
    from tests.backends.tiny_torch import tiny

    return InterpretableModel(tiny(model_type).model)


@pytest.fixture(params=CASES, ids="-".join)
def model(request: pytest.FixtureRequest) -> InterpretableModel:
    return opened(*request.param)


def get(model: InterpretableModel, x: Any) -> np.ndarray:
    return np.asarray(model.language_model.backend.get(x)).astype(np.float32)


def stream(model: InterpretableModel, ids: list[int], layer: int) -> np.ndarray:
    """(positions, d_model) before a layer."""
    name = f"layers.{layer}.resid_pre"
    return get(model, model.trace(ids, capture=[name], stop_after=name).activations[name])[0]


def ask(model: InterpretableModel, vectors: Any, ids: list[int] = IDS, **options: Any) -> Any:
    settings = {"placeholder": ids[PLACE], "layer": LAYER, "max_tokens": NEW, "verbose": False, **options}
    return patchscopes.ask(model, vectors, ids, **settings)


def some_vectors(model: InterpretableModel, n: int = 3) -> np.ndarray:
    own = stream(model, IDS, LAYER)
    drawn = np.random.default_rng(0).normal(size=(n, model.d_model))
    lengths = np.linalg.norm(own, axis=1).mean() * np.array([0.5, 1.0, 2.0])[:n]
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True) * lengths[:, None]).astype(np.float32)


def test_a_vector_replaced_by_its_own_value_changes_no_bit(model):
    own = stream(model, IDS, LAYER)[PLACE]
    before = get(model, model(IDS))
    with model.trace(
        IDS, {f"layers.{LAYER}.resid_pre": replace_with(own, positions=[PLACE])}, capture=[]
    ) as t:
        pass
    assert np.array_equal(before, get(model, t.output))
    assert ask(model, own) == model.generate(IDS, max_tokens=NEW)
    length = float(np.linalg.norm(own.astype(np.float64)))
    scope = model.patchscope(
        own, IDS, placeholder=IDS[PLACE], layer=LAYER, scales=[length], units="raw", max_tokens=NEW, stop=None,
        control=False, verbose=False,
    )  # fmt: skip
    assert scope.certainty.value == 0.0 and len(scope.texts) == 1


def test_many_vectors_together_write_what_each_writes_alone(model):
    vectors = some_vectors(model)
    assert ask(model, vectors) == [ask(model, vector) for vector in vectors]


def test_prompts_read_in_chunks_are_replaced_as_whole_ones(model):
    vector = some_vectors(model)[1]
    texts = [ask(model, vector, prefill_step_size=size) for size in (2, 3, 7, 2048)]
    assert texts == [texts[-1]] * 4


def test_a_tokens_own_layer_0_vector_gives_the_logits_of_the_text_with_that_token(model):
    other = [*IDS[:PLACE], 40, *IDS[PLACE + 1 :]]
    vector = stream(model, other, 0)[PLACE]
    with model.trace(IDS, {"layers.0.resid_pre": replace_with(vector, positions=[PLACE])}, capture=[]) as t:
        pass
    p, q = (log_softmax(get(model, x)[0, -1]) for x in (model(other), t.output))
    unpatched = log_softmax(get(model, model(IDS))[0, -1])
    divergence = float((np.exp(p) * (p - q)).sum())
    assert divergence < 1e-5
    assert ask(model, vector, layer=0) == model.generate(other, max_tokens=NEW)
    assert float((np.exp(p) * (p - unpatched)).sum()) >= divergence


def test_generated_tokens_are_never_replaced(model):
    vector = some_vectors(model)[2]
    new = ask(model, vector)
    text = list(IDS)
    change = {f"layers.{LAYER}.resid_pre": replace_with(vector, positions=[PLACE])}
    for token in new:  # without a cache, replaced in the prompt only
        logits = get(model, model.trace(text, change, capture=[]).output)[0, -1]
        assert logits[token] >= logits.max() - 1e-4 * np.abs(logits).max()
        text.append(token)


def test_a_placeholder_at_the_end_of_the_prompt_is_replaced(model):
    vector = some_vectors(model)[0]
    ids = [*IDS[:3], 50]
    change = {f"layers.{LAYER}.resid_pre": replace_with(vector, positions=[3])}
    logits = get(model, model.trace(ids, change, capture=[]).output)[0, -1]
    [token] = ask(model, vector, ids, placeholder=50, max_tokens=1)
    assert logits[token] >= logits.max() - 1e-4 * np.abs(logits).max()
