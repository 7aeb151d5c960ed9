"""The feature analysis guide and the interpretation examples, row by row (C1 to C15, E4, E9), on a real model."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

import mlxterp
from mlxterp import InterpretableModel, SAETrainConfig
from mlxterp.demo import FOLDER
from mlxterp.weights import SAEWeights

LAYER, COMPONENT = 1, "resid_post"
TEXT = "Lily lost her red ball in the park and she was very sad."


@pytest.fixture(scope="module")
def texts(demo) -> list[str]:
    return [text for text in demo.texts if len(demo.model.tokenize(text)) <= 200][:24]


@pytest.fixture(scope="module")
def index(demo, texts):
    return demo.model.build_index(demo.sae, texts, exclude=())


def test_C1_a_model_and_tokenizer_of_mlx_lm_are_wrapped():
    mlx_lm = pytest.importorskip("mlx_lm")
    mlx_model, tokenizer, *_ = mlx_lm.load(str(FOLDER / "model"))
    model = InterpretableModel(mlx_model, tokenizer=tokenizer)
    assert model.n_layers == 4 and model.tokenizer is tokenizer


def test_C2_an_sae_is_loaded_by_its_path(demo, tmp_path):
    demo.sae.save(tmp_path / "sae_layer1.mlx")
    sae = demo.model.load_sae(tmp_path / "sae_layer1.mlx")
    assert isinstance(sae, (mlxterp.SAE, mlxterp.BatchTopKSAE))
    assert sae.d_hidden == demo.sae.d_hidden and sae.fingerprint == demo.sae.fingerprint


def test_C3_features_of_a_text_are_pairs_strongest_first(demo):
    found = demo.model.get_top_features_for_text(
        text=TEXT, sae=demo.sae, layer=LAYER, component=COMPONENT, top_k=5
    )
    assert len(found) == 5
    assert all(type(f) is int and type(a) is float for f, a in found)
    activations = [a for _, a in found]
    assert activations == sorted(activations, reverse=True) and activations[-1] > 0


def test_C4_texts_of_a_feature_are_triples_and_a_dead_one_has_none(demo, texts):
    feature = demo.model.get_top_features_for_text(TEXT, demo.sae, LAYER, COMPONENT)[3][0]
    examples = demo.model.get_top_texts_for_feature(
        feature, demo.sae, texts, layer=LAYER, component=COMPONENT
    )
    for text, activation, position in examples:
        assert text in texts and type(activation) is float and activation > 0
        assert 0 <= position < len(demo.model.tokenize(text))
    bias = demo.sae.b_enc.copy()
    bias[feature] = -1e6
    weights = SAEWeights(demo.sae.W_enc, bias, demo.sae.W_dec, demo.sae.b_dec, demo.sae.subtract_b_dec)
    dead = demo.sae.replace(weights=weights)
    assert not demo.model.get_top_texts_for_feature(feature, dead, texts, layer=LAYER, component=COMPONENT)


def test_C6_a_path_does_as_well_as_an_sae_at_every_component(demo, tmp_path):
    demo.sae.save(tmp_path / "sae")
    for component in ("mlp", "attn", "residual", "resid_post"):
        one, other = [
            demo.model.get_top_features_for_text(TEXT, sae, LAYER, component)
            for sae in (_quiet(demo.sae), _quiet(tmp_path / "sae"))
        ]
        assert one == other and one
    assert demo.model.get_top_features_for_text(
        TEXT, demo.sae, LAYER, "residual"
    ) == demo.model.get_top_features_for_text(TEXT, demo.sae, LAYER, "resid_post")


def _quiet(sae):
    """The same SAE without the memory of where it was trained, so that other places need no warning."""
    sae = sae if isinstance(sae, mlxterp.SAE) else mlxterp.SAE.load(sae)
    sae = sae.replace()
    sae.metadata.pop("component", None)
    return sae


def test_C7_texts_come_from_a_data_set_as_in_the_guide(demo):
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict({"text": [*demo.texts[:20], "", "short"]})
    texts = [item["text"] for item in dataset if len(item["text"]) > 50][:1000]
    assert len(texts) == 20
    assert demo.model.get_top_texts_for_feature(3, demo.sae, texts[:3], LAYER, COMPONENT) is not None


def test_C8_from_a_text_to_its_features_to_their_texts(demo, texts, index):
    top = demo.model.get_top_features_for_text(
        text=TEXT, sae=demo.sae, layer=LAYER, component=COMPONENT, top_k=10
    )
    for feature, _ in top[:3]:
        direct = demo.model.get_top_texts_for_feature(
            feature_id=feature, sae=demo.sae, texts=texts, layer=LAYER, component=COMPONENT, top_k=10
        )
        assert [(t, at) for t, _, at in index.top_texts(feature)] == [(t, at) for t, _, at in direct]


def test_C10_names_of_the_registry_show_on_cards(index, tmp_path):
    registry = {7: {"name": "geographic_locations", "description": "city and country names", "examples": ["Paris"],
                    "confidence": "high", "notes": ""}}  # fmt: skip
    (tmp_path / "sae_features.json").write_text(json.dumps(registry))
    index.labels = mlxterp.FeatureRegistry.load(tmp_path / "sae_features.json")
    assert "geographic_locations" in index.feature(7)._repr_html_()
    index.labels = mlxterp.FeatureRegistry()


def test_C11_texts_in_batches_merge_to_what_all_give(demo, texts, index, tmp_path):
    parts = [demo.model.build_index(demo.sae, texts[i : i + 8], exclude=()) for i in range(0, len(texts), 8)]
    merged = mlxterp.FeatureIndex.merge(parts, tmp_path / "merged")
    for feature in index.live[:100].tolist():
        assert [(t, at) for t, _, at in merged.top_texts(feature)] == [
            (t, at) for t, _, at in index.top_texts(feature)
        ]


def test_C12_an_index_answers_for_many_features_without_running_the_model(demo, texts, index, monkeypatch):
    def run(*_arguments, **_options):
        raise AssertionError("the model ran")

    monkeypatch.setattr(type(demo.model.language_model), "run", run)
    for feature in range(0, index.d_hidden, 50):
        found = demo.model.get_top_texts_for_feature(feature, demo.sae, texts, LAYER, COMPONENT, index=index)
        assert len(found) <= 10


def test_C13_what_was_generated_and_the_features_behind_it(demo, index):
    prompt = "Once upon a time, there was a"
    output = demo.model.generate(prompt, max_tokens=8)
    assert output and isinstance(output, str)
    features = demo.model.get_top_features_for_text(
        prompt + output, demo.sae, layer=LAYER, component=COMPONENT
    )
    for feature, _ in features[:3]:
        assert [text[:50] for text, _, _ in index.top_texts(feature)[:3]]


def test_C14_fifty_random_features_and_those_that_fire(demo, texts):
    sample = random.Random(0).sample(range(demo.sae.d_hidden), 50)
    fired = 0
    for feature in sample:
        examples = demo.model.get_top_texts_for_feature(
            feature, demo.sae, texts, layer=LAYER, component=COMPONENT, top_k=5
        )
        fired += bool(examples)
    assert fired > 40


def test_C15_related_texts_share_more_features_than_others(demo):
    def circuit(text: str) -> set[int]:
        return {
            f for f, _ in demo.model.get_top_features_for_text(text, demo.sae, LAYER, COMPONENT, top_k=20)
        }

    one = circuit("The little dog ran after the red ball.")
    related, other = (
        circuit("The big dog ran after the blue ball."),
        circuit("Mom made soup, and it was too hot."),
    )
    assert len(one & related) > len(one & other)


def test_E4_features_of_a_gpt2_are_found_by_its_hugging_face_path(shared):
    model = InterpretableModel(shared / "data" / "models" / "tinystories_instruct_3m_gpt2")
    middle = model.n_layers // 2
    texts = (shared / "data" / "text" / "tinystories.txt").read_text(encoding="utf-8").split("<|endoftext|>")
    texts = [text.strip()[:300] for text in texts[:30]]
    config = SAETrainConfig(d_hidden=256, k=8, batch_size=512)
    sae = model.train_sae(middle, texts, "resid_post", config, verbose=False)
    index = model.build_index(sae, texts, component=f"transformer.h.{middle}")
    diverse = index.select_diverse(3, max_cos=0.7)
    rows = sae.W_dec[diverse] / np.linalg.norm(sae.W_dec[diverse], axis=1, keepdims=True)
    assert (np.abs(rows @ rows.T) - np.eye(3)).max() <= 0.7
    for feature in diverse:
        assert index.examples(feature, 3) and index.feature(feature).to_str()


def test_E9_own_texts_another_layer_and_another_size(demo):
    config = SAETrainConfig(d_hidden=128, k=6, batch_size=256)
    own = ["The ship sailed over the sea.", "The captain saw an island.", "A storm came over the sea."] * 30
    sae = demo.model.train_sae(2, own, "mlp", config, verbose=False)
    assert (sae.d_hidden, sae.k, sae.component) == (128, 6, "layers.2.mlp")
    assert demo.model.get_top_texts_for_feature(
        demo.model.get_top_features_for_text(own[0], sae, 2)[0][0], sae, own[:3], 2
    )
