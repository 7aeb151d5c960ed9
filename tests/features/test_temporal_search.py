"""Searching with SAEs that look at more than one token."""

from __future__ import annotations

import numpy as np
import pytest

from mlxterp import SAE
from mlxterp.variants import Temporal
from mlxterp.weights import SAEWeights
from tests.tiny import WordTokenizer, tiny_llama

pytest.importorskip("mlx")


def test_a_temporal_sae_sees_each_text_by_itself():
    rng = np.random.default_rng(0)
    model, n = tiny_llama(tokenizer=WordTokenizer()), 24
    d = model.d_model

    def numbers(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    attention = {
        f"attention.0.{part}.{kind}": numbers(*(shape if kind == "weight" else shape[:1]))
        for part, shape in {"q_target": (8, n), "k_ctx": (8, n), "v_ctx": (n, n), "c_proj": (n, n)}.items()
        for kind in ("weight", "bias")
    }
    W_dec = numbers(n, d)
    weights = SAEWeights(W_dec.T, np.zeros(n, np.float32), W_dec, numbers(d), extra=attention)
    sae = SAE(weights, Temporal(2, 1, 4), {"component": "layers.1.mlp"})
    texts = ["the cat sat on a mat", "a big dog", "the old red hat and then"]
    found = {}
    for text in texts:
        for feature, value in model.get_top_features_for_text(text, sae, 1, "mlp", top_k=n):
            found[feature, text] = value
    for feature in {feature for feature, _ in found}:
        for text, value, _ in model.get_top_texts_for_feature(feature, sae, texts, 1, "mlp"):
            assert value == pytest.approx(found[feature, text], rel=1e-3)
