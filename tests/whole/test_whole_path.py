"""The main job from end to end, on what ships with the package."""

from __future__ import annotations

import numpy as np
import pytest

import mlxterp
from mlxterp.steering import ablate
from mlxterp.weights import SAEWeights
from tests import oracle
from tests.ranking import assert_top_features, assert_top_texts


def test_the_demos_searches_equal_brute_force(demo):
    model, sae, texts = demo
    path, texts = sae.metadata["component"], [t[:250] for t in texts[:12]]
    layer, component = int(path.split(".")[1]), path.split(".", 2)[2]
    weights = SAEWeights(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, sae.subtract_b_dec)
    dense = []
    for text in texts:
        x = model.language_model.backend.get(model.trace(text, capture=[path]).activations[path])[0]
        dense.append(oracle.encode(x, weights, sae.k))
    shared = oracle.share_prefixes(dense, [model.tokenize(text) for text in texts])
    top = model.get_top_features_for_text(texts[0], sae, layer, component, top_k=8)
    assert_top_features(top, dense[0], 8)
    for feature, _ in top[:4]:
        found = model.get_top_texts_for_feature(feature, sae, texts, layer, component, top_k=4)
        assert_top_texts(found, shared, texts, feature, 4)


def test_ablating_a_feature_takes_away_its_part_and_nothing_else(demo):
    model, sae, texts = demo
    path, text = sae.metadata["component"], texts[0][:200]
    get = model.language_model.backend.get
    before = get(model.trace(text, capture=[path]).activations[path])
    feature = int(sae.encode(before)[0, 1:].max(axis=0).argmax())
    after = get(model.trace(text, {path: ablate(sae, feature)}, capture=[path]).activations[path])
    active = sae.encode(before)[..., feature]
    assert np.allclose(before - after, active[..., None] * sae.W_dec[feature], atol=1e-4)
    assert np.array_equal(before[active == 0], after[active == 0])


def test_the_demo_sae_is_good_enough_to_show(demo):
    facts = demo.sae.metadata["held_out"]
    assert facts["explained_variance"] > 0.85
    assert facts["features_seen"] > 0.7 * demo.sae.d_hidden
    assert demo.model.loss(demo.texts[0][:600]) < 3.5


def test_the_demo_model_means_the_same_in_both_wings():
    if len(mlxterp.available_backends()) < 2:
        pytest.skip("only one backend is installed")
    pytest.importorskip("transformers")
    models = [mlxterp.load_demo(name).model for name in ("mlx", "torch")]
    text = "Once upon a time there was a cat."
    a, b = (m.language_model.backend.get(m(text)) for m in models)
    assert np.abs(a - b).max() < 1e-3
    assert models[0].generate(text, 12) == models[1].generate(text, 12)


def test_an_sae_used_elsewhere_than_it_was_trained_is_told(demo):
    with pytest.warns(
        mlxterp.MlxterpWarning, match=r"trained on layers\.1\.resid_post.*layers\.2\.resid_post"
    ):
        demo.model.get_top_features_for_text("One day", demo.sae, 2, "resid_post")
    demo.model.get_top_features_for_text("One day", demo.sae, 1, "residual")


def test_the_demo_prints_as_one_line(demo):
    assert len(repr(demo)) < 300 and f"{len(demo.texts)} texts" in repr(demo)
