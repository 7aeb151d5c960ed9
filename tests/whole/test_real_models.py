"""The shared trained models and real text: what users will do first, against mlx-lm and plain NumPy."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from mlxterp import SAE, InterpretableModel, SAETrainConfig
from mlxterp.weights import SAEWeights
from tests import oracle
from tests.ranking import assert_top_features, assert_top_texts

mx = pytest.importorskip("mlx.core")
mlx_lm = pytest.importorskip("mlx_lm")

MODELS = ("stories260K", "TinyStories-656K", "tinystories_instruct_3m_gpt2")


@cache
def load(folder: Path) -> tuple[InterpretableModel, object, object]:
    raw, tokenizer = mlx_lm.load(str(folder))
    return InterpretableModel(raw, tokenizer=tokenizer), raw, tokenizer


@pytest.fixture(params=MODELS)
def opened(request: pytest.FixtureRequest, shared: Path):
    return load(shared / "data" / "models" / request.param)


@pytest.fixture(scope="module")
def stories(shared: Path) -> list[str]:
    text = (shared / "data" / "text" / "tinystories.txt").read_text(encoding="utf-8")
    return [s.strip() for s in text.split("<|endoftext|>") if s.strip()]


def test_loss_is_the_cross_entropy_of_mlx_lms_own_logits(opened, stories):
    model, raw, tokenizer = opened
    for start in range(0, 40, 5):
        rows = [tokenizer.encode(s)[:256] for s in stories[start : start + 5]]
        total, count = 0.0, 0
        for row in rows:
            logits = np.array(raw(mx.array([row]))[0, :-1], dtype=np.float64)
            logits -= logits.max(axis=-1, keepdims=True)
            chosen = logits[np.arange(len(row) - 1), row[1:]]
            total += (np.log(np.exp(logits).sum(axis=-1)) - chosen).sum()
            count += len(row) - 1
        assert model.loss(rows) == pytest.approx(total / count, abs=1e-5)


def test_greedy_generation_is_mlx_lms_own(opened, stories):
    model, raw, tokenizer = opened
    for story in stories[:6]:
        prompt = " ".join(story.split()[:12])
        expected = mlx_lm.generate(raw, tokenizer, prompt, max_tokens=40)
        assert model.generate(prompt, max_tokens=40) == expected


def test_an_edited_generation_differs_and_the_model_stays(opened, stories):
    model, _, _ = opened
    prompt = " ".join(stories[0].split()[:12])
    before = model.generate(prompt, 20)
    assert model.generate(prompt, 20, interventions={"layers.1.mlp": lambda x: x * 0}) != before
    assert model.generate(prompt, 20) == before


def test_a_text_is_taken_apart_and_put_together(opened):
    model, _, _ = opened
    text = "Once upon a time there was a cat."
    tokens = model.to_str_tokens(text)
    assert len(tokens) == len(model.tokenize(text)) == model.to_tokens(text).shape[1]
    assert "cat" in "".join(tokens)
    assert text in model.decode(model.tokenize(text))


@pytest.mark.parametrize("component", ["mlp", "resid_post", "attn"])
def test_both_searches_give_what_brute_force_gives(opened, stories, component):
    model, _, _ = opened
    layer = model.n_layers // 2
    config = SAETrainConfig(d_hidden=4 * model.d_model, k=8, batch_size=512)
    training = [" ".join(s.split()[:60]) for s in stories[:90]]
    sae = model.train_sae(layer, training, component, config, verbose=False)
    assert isinstance(sae, SAE) and sae.k is not None
    texts = [" ".join(s.split()[:40]) for s in stories[100:160]]
    weights = SAEWeights(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, sae.subtract_b_dec)
    expected = []
    for text in texts:  # one at a time, with the oracle's SAE
        t = model.trace(text, capture=[f"layers.{layer}.{component}"])
        x = np.array(t.activations[f"layers.{layer}.{component}"])[0]
        expected.append(oracle.encode(x, weights, sae.k))
    expected = oracle.share_prefixes(expected, [model.tokenize(text) for text in texts])
    for text, features in zip(texts[:8], expected, strict=False):
        found = model.get_top_features_for_text(text, sae, layer, component, top_k=10)
        assert_top_features(found, features, 10)
    total = sum(features.max(axis=0) for features in expected)
    for feature in [*np.argsort(-total)[:12].tolist(), int(np.argmin(total))]:
        found = model.get_top_texts_for_feature(feature, sae, texts, layer, component, top_k=5)
        assert_top_texts(found, expected, texts, feature, 5)
