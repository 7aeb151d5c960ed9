"""Mi-Crow's guide to concept discovery, row by row (A1 to A18), on the real model that comes with the package.

Whole blocks of the guide run in `tests/compat/test_mi_crow_guides.py`; here every result is checked, most
against brute force. Rows A7, A11 and A19 to A21 are documentation: `docs/concepts.md`.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

import mlxterp
from mlxterp import InputError
from mlxterp.compat.mi_crow import TextDataset, TopKSae
from tests.ranking import assert_tracked
from tests.stories import SIGNATURE, TEXTS, brute_force, logits


@pytest.fixture
def top_texts(lm, sae) -> dict[int, list[tuple[str, float]]]:
    """After A2 to A6."""
    lm.attach_sae(sae, layer_signature=SIGNATURE)
    sae.concepts.enable_text_tracking(top_k=10)
    lm.inference.execute_inference(TEXTS)
    return sae.concepts.get_top_texts()


def test_A1_a_trained_sae_is_loaded_with_its_k_on_a_device_that_is_there(demo):
    torch = pytest.importorskip("torch")
    from tests.compat.guides import state_of

    sae = TopKSae(n_latents=demo.sae.d_hidden, n_inputs=demo.sae.d_model, k=demo.sae.k, device="cpu")
    sae.load_state_dict(state_of(demo.sae, "llamaforcausallm_model_layers_1"))
    assert sae.eval() is sae and sae.k == demo.sae.k
    x = np.random.default_rng(0).normal(size=(50, sae.d_model)).astype(np.float32) * 3
    np.testing.assert_allclose(sae.encode(x), demo.sae.encode(x), rtol=1e-3, atol=1e-3)
    assert ((sae.encode(x) > 0).sum(axis=1) <= demo.sae.k).all()
    if not torch.cuda.is_available():
        with pytest.warns(mlxterp.MlxterpWarning, match="There is no device 'cuda'"):
            TopKSae(n_latents=64, n_inputs=8, k=4, device="cuda")


def test_A2_an_attached_sae_decodes_at_the_named_layer_until_it_is_detached(lm, demo, sae):
    before = logits(demo.model)
    handle = lm.attach_sae(sae, layer_signature="model.layers.1")
    assert handle.component == "layers.1" and handle.concepts is sae.concepts
    assert np.array_equal(logits(demo.model), before)  # nothing is manipulated
    handle.detach()
    with demo.model.trace(TEXTS[0], interventions={"layers.1": sae.reconstruct}) as t:
        pass
    expected = demo.model.language_model.backend.get(t.output)
    with lm.attach_sae(sae, layer_signature=SIGNATURE, mode="replace"):
        np.testing.assert_allclose(logits(demo.model), expected, rtol=1e-3, atol=1e-3)
    assert np.array_equal(logits(demo.model), before) and not np.allclose(expected, before, atol=1e-3)


def test_A3_enable_text_tracking(lm, demo, sae):
    lm.attach_sae(sae, layer_signature=SIGNATURE)
    lm.inference.execute_inference(TEXTS[:1])  # before it is enabled: not tracked
    sae.concepts.enable_text_tracking(top_k=4)
    for start in range(0, len(TEXTS), 5):  # accumulates across batches
        lm.inference.execute_inference(TEXTS[start : start + 5])
    assert_tracked(sae.concepts.get_top_texts(), brute_force(demo.model, sae, TEXTS), 4)
    sae.concepts.enable_text_tracking(top_k=2)
    assert_tracked(sae.concepts.get_top_texts(), brute_force(demo.model, sae, TEXTS), 2)
    sae.concepts.enable_text_tracking(top_k=20)
    lm.inference.execute_inference(TEXTS)
    assert_tracked(sae.concepts.get_top_texts(), brute_force(demo.model, sae, TEXTS), 20)


def test_A3_generation_tracks_prompt_and_continuation_as_one_text(lm, sae):
    lm.attach_sae(sae, layer_signature=SIGNATURE)
    sae.concepts.enable_text_tracking(top_k=10)
    comma, boy = (lm.generate(prompt, max_tokens=10) for prompt in ("Once upon a time", "There was a little"))
    texts = {text for pairs in sae.concepts.get_top_texts().values() for text, _ in pairs}
    assert comma.startswith(",") and boy.startswith("boy")
    assert texts == {f"Once upon a time{comma}", f"There was a little {boy}"}


def test_A4_a_data_set_of_texts_holds_them():
    dataset = TextDataset(texts=TEXTS * 3)
    assert dataset.texts == TEXTS * 3 and len(dataset) == 36


def test_A5_inference_tracks_as_a_side_effect(lm, demo, sae):
    lm.attach_sae(sae, layer_signature=SIGNATURE)
    sae.concepts.enable_text_tracking(top_k=3)
    outputs, encodings = lm.inference.execute_inference(TextDataset(texts=TEXTS * 2).texts)
    lengths = [len(demo.model.tokenize(text)) for text in TEXTS * 2]
    assert tuple(outputs.logits.shape) == (24, max(lengths), demo.model.vocab_size)
    assert np.array(encodings["attention_mask"]).sum(axis=1).tolist() == lengths
    assert_tracked(sae.concepts.get_top_texts(), brute_force(demo.model, sae, TEXTS), 3)  # a text counts once


def test_A6_top_texts_are_pairs_strongest_first(top_texts, demo, sae):
    assert_tracked(top_texts, brute_force(demo.model, sae, TEXTS), 10)
    for neuron, pairs in top_texts.items():
        assert type(neuron) is int and all(type(t) is str and type(a) is float for t, a in pairs)
        assert [a for _, a in pairs] == sorted((a for _, a in pairs), reverse=True) and len(pairs) <= 10
    assert top_texts.get(10**6, []) == []


def test_A8_top_texts_go_into_nested_json(top_texts, sae, tmp_path):
    with open(tmp_path / "top_texts.json", "w") as f:
        json.dump(top_texts, f, indent=2)
    expected = {str(neuron): [[text, value] for text, value in pairs] for neuron, pairs in top_texts.items()}
    assert json.loads((tmp_path / "top_texts.json").read_text()) == expected
    assert json.loads(sae.concepts.export_json(tmp_path / "ours.json").read_text("utf-8")) == expected


def test_A9_top_texts_go_into_flat_json(top_texts, sae, tmp_path):
    rows = [
        {"neuron": neuron, "text": text, "activation": value}
        for neuron, pairs in top_texts.items() for text, value in pairs
    ]  # fmt: skip
    assert json.loads(sae.concepts.export_flat_json(tmp_path / "flat.json").read_text("utf-8")) == rows


@pytest.mark.parametrize("column", ["confidence", "score"])
def test_A10_a_curation_table_may_give_a_neuron_several_names(sae, tmp_path, column):
    path = tmp_path / "curated.csv"
    path.write_text(
        f"neuron_idx,concept_name,{column}\n0,family relationships,0.9\n0,parent-child,0.8\n1,nature,0.9\n"
    )
    sae.concepts.load_concepts(path)
    assert {n: [(c.name, c.confidence) for c in named] for n, named in sae.concepts.names.items()} == {
        0: [("family relationships", 0.9), ("parent-child", 0.8)],
        1: [("nature", 0.9)],
    }
    assert sae.concepts.name_of(0) == "family relationships"
    again = tmp_path / "again.csv"
    sae.concepts.export_csv(again)
    assert again.read_text().splitlines()[0] == "neuron_idx,concept_name,confidence"


def test_A12_curated_concepts_are_loaded_as_the_guide_does(sae, tmp_path):
    pd = pytest.importorskip("pandas")
    path = tmp_path / "curated.csv"
    path.write_text("neuron_idx,concept_name,confidence\n0,family,0.9\n0,children,0.8\n5,nature,0.95\n")
    concepts: dict[int, list[dict]] = {}
    for _, row in pd.read_csv(path).iterrows():
        concepts.setdefault(int(row["neuron_idx"]), []).append(
            {"name": row["concept_name"], "confidence": float(row["confidence"])}
        )
    sae.concepts.load_concepts(concepts)
    by_dictionary = sae.concepts.names
    for same in (pd.read_csv(path), path, str(path)):
        sae.concepts.load_concepts(same)
        assert sae.concepts.names == by_dictionary


def test_A13_the_most_active_neurons_are_those_of_the_highest_mean(top_texts, sae):
    means = {n: sum(a for _, a in pairs) / len(pairs) for n, pairs in top_texts.items()}
    expected = sorted(means.items(), key=lambda x: x[1], reverse=True)[:10]
    assert sae.concepts.most_active_neurons(10) == [(n, pytest.approx(mean)) for n, mean in expected]


def test_A14_concepts_are_counted_by_their_neurons(sae):
    sae.concepts.load_concepts({0: ["family", "nature"], 1: ["nature"], 7: ["science"]})
    assert sae.concepts.concept_distribution() == {"nature": 2, "family": 1, "science": 1}


def test_A15_names_stand_beside_the_first_three_texts(top_texts, sae):
    neurons = list(top_texts)[:3]
    sae.concepts.load_concepts({neurons[0]: [{"name": "family", "confidence": 0.9}]})
    first, *rest = sae.concepts.review(neurons, n_texts=3)
    assert first.neuron_idx == neurons[0] and [c.name for c in first.names] == ["family"]
    assert [list(r.texts) for r in (first, *rest)] == [top_texts[n][:3] for n in neurons]
    assert "'family' (0.9)" in str(first) and "no name" in str(rest[0])


def test_A16_concepts_are_checked_on_new_texts(top_texts, demo, sae):
    dog = demo.model.get_top_features_for_text("The dog barked at the dog.", sae, 1, "resid_post", top_k=30)
    red = demo.model.get_top_features_for_text("A red red ball.", sae, 1, "resid_post", top_k=30)
    everywhere = {
        f for text in TEXTS for f, _ in demo.model.get_top_features_for_text(text, sae, 1, "resid_post")
    }
    only_dog = next(f for f, _ in dog if f not in {f for f, _ in red} | everywhere)
    sae.concepts.load_concepts({only_dog: "dogs", red[0][0]: "beginning"})
    texts = ["The dog barked at the dog.", "A red red ball."]
    on_dog, on_red = sae.concepts.active_concepts(texts)
    strength = dict(dog)[only_dog]
    assert (only_dog, "dogs", pytest.approx(strength, rel=1e-4)) in [
        (a.neuron_idx, a.name, a.activation) for a in on_dog
    ]
    assert "dogs" not in [a.name for a in on_red]
    held_out = {"dogs": ["The dog barked at the dog."], "beginning": ["A red red ball."]}
    found = sae.concepts.consistency(held_out)
    assert found["dogs"].hit_rate == 1.0 and found["dogs"].false_alarm_rate == 0.0
    assert found["beginning"].hit_rate == 1.0
    before = sae.concepts.get_top_texts()
    assert before == top_texts  # questions about new texts are not tracked


def test_A17_texts_are_filtered_by_activation(top_texts, sae):
    threshold = float(np.median([a for pairs in top_texts.values() for _, a in pairs]))
    expected = {n: [(t, a) for t, a in pairs if a > threshold] for n, pairs in top_texts.items()}
    assert sae.concepts.filter_texts(threshold) == {n: pairs for n, pairs in expected.items() if pairs}


def test_A18_neurons_are_clustered_by_what_they_fire_on(top_texts, sae):
    pytest.importorskip("sklearn")
    neurons, matrix = sae.concepts.activation_matrix(TEXTS)
    assert matrix.shape == (len(neurons), len(TEXTS)) and set(neurons.tolist()) == set(top_texts)
    for neuron in neurons[::100].tolist():
        expected = dict(top_texts[neuron])
        if len(expected) < 10:
            row = matrix[neurons.tolist().index(neuron)]
            assert {TEXTS[i]: pytest.approx(float(row[i]), rel=1e-4) for i in np.flatnonzero(row)} == expected
    clusters = sae.concepts.cluster_neurons(5, texts=TEXTS)
    assert set(clusters) == set(neurons.tolist()) and set(clusters.values()) == set(range(5))
    assert sae.concepts.cluster_neurons(5, texts=TEXTS) == clusters  # seeded


def test_A20_what_was_forgotten_is_named(sae):
    with pytest.raises(InputError, match=r"enable_text_tracking\(top_k=10\) first"):
        sae.concepts.get_top_texts()
    sae.concepts.enable_text_tracking()
    with pytest.raises(InputError, match="run the model"):
        sae.concepts.get_top_texts()
