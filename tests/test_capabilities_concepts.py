"""Mi-Crow's two guides, row by row (A1 to A18, B1 to B11), on the real model that comes with the package.

Whole blocks of the guides run in `tests/compat/test_mi_crow_guides.py`; here every result is checked, most
against brute force. Rows A7, A11, A19 to A21 and B12 are documentation: `docs/concepts.md`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import InputError, LocalStore, SAETrainConfig
from mlxterp.compat.mi_crow import HuggingFaceDataset, LanguageModel, TextDataset, TopKSae
from mlxterp.demo import FOLDER
from mlxterp.hooks import Controller, Detector
from mlxterp.steering import ablate, amplify

SIGNATURE = "layers.1"
TEXTS = [
    "Lily lost her red ball in the park and she was very sad.",
    "Tom saw a big dog. The dog was kind and wanted to play.",
    "Once upon a time there was a little girl who loved to read books.",
    "The sun was hot, so Ben and his mom went to swim in the lake.",
    "Mia made a cake with her dad. It was sweet, and everyone liked it.",
    "The bird sat on the tree and sang a song all day.",
    "One day a boy found a shiny key under his bed.",
    "The cat did not like the rain, so it hid in the house.",
    "Anna shared her toys with Sam. They became best friends.",
    "A frog jumped into the pond with a loud splash!",
    "Max was scared of the dark until he got a night light.",
    "The teacher told the class a funny story about a bear.",
]


@pytest.fixture
def sae(demo) -> mlxterp.SAE:
    """The same SAE, with concepts of its own."""
    return demo.sae.replace()


@pytest.fixture
def lm(demo, tmp_path):
    """Mi-Crow's model; whatever was attached is taken away afterwards."""
    yield LanguageModel(demo.model, store=LocalStore(base_path=tmp_path / "store"))
    for thing in demo.model._standing.attached:
        demo.model._standing.detach(thing)


@pytest.fixture
def top_texts(lm, sae) -> dict[int, list[tuple[str, float]]]:
    """After A2 to A6."""
    lm.attach_sae(sae, layer_signature=SIGNATURE)
    sae.concepts.enable_text_tracking(top_k=10)
    lm.inference.execute_inference(TEXTS)
    return sae.concepts.get_top_texts()


def brute_force(model, sae, texts, top_k) -> dict[int, list[tuple[str, Any]]]:
    """Every feature's texts, one feature after the other, from runs of its own."""
    found = {}
    for feature in range(sae.d_hidden):
        triples = model.get_top_texts_for_feature(
            feature, sae, texts, layer=1, component="resid_post", top_k=top_k
        )
        if triples:
            found[feature] = [(text, pytest.approx(value, rel=1e-4, abs=1e-5)) for text, value, _ in triples]
    return found


def logits(model, text: str = TEXTS[0]) -> np.ndarray:
    return model.language_model.backend.get(model(text))


def feature_on(model, sae, text: str = TEXTS[0]) -> int:
    """One that is active in the middle of a text."""
    return model.get_top_features_for_text(text, sae, 1, "resid_post", top_k=6)[4][0]


# -- A: concept discovery -----------------------------------------------------------------------


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
    assert sae.concepts.get_top_texts() == brute_force(demo.model, sae, TEXTS, 4)
    sae.concepts.enable_text_tracking(top_k=2)
    assert sae.concepts.get_top_texts() == brute_force(demo.model, sae, TEXTS, 2)
    sae.concepts.enable_text_tracking(top_k=20)
    lm.inference.execute_inference(TEXTS)
    assert sae.concepts.get_top_texts() == brute_force(demo.model, sae, TEXTS, 20)


def test_A3_generation_tracks_prompt_and_continuation_as_one_text(lm, demo, sae):
    lm.attach_sae(sae, layer_signature=SIGNATURE)
    sae.concepts.enable_text_tracking(top_k=10)
    continuation = lm.generate("Once upon a time", max_tokens=10)
    texts = {text for pairs in sae.concepts.get_top_texts().values() for text, _ in pairs}
    assert texts == {"Once upon a time" + continuation}


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
    assert sae.concepts.get_top_texts() == brute_force(demo.model, sae, TEXTS, 3)  # a text counts once


def test_A6_top_texts_are_pairs_strongest_first(top_texts, demo, sae):
    assert top_texts == brute_force(demo.model, sae, TEXTS, 10)
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


def test_A18_neurons_are_clustered_by_what_they_fire_on(top_texts, demo, sae):
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


def test_A20_what_was_forgotten_is_named(demo, sae):
    with pytest.raises(InputError, match=r"enable_text_tracking\(top_k=10\) first"):
        sae.concepts.get_top_texts()
    sae.concepts.enable_text_tracking()
    with pytest.raises(InputError, match="run the model"):
        sae.concepts.get_top_texts()


# -- B: core concepts ---------------------------------------------------------------------------


def test_B1_a_model_is_loaded_with_its_tokenizer_onto_a_device(tmp_path):
    for device in (None, "cpu"):
        lm = LanguageModel.from_huggingface(str(FOLDER / "model"), store=LocalStore(tmp_path), device=device)
        assert lm.tokenizer is not None and lm.device in ("mlx", "mps", "cpu", "cuda:0")
        assert lm.inference.execute_inference(["The end."])[0].logits.shape[0] == 1


def test_B2_forwards_and_generate(lm, demo):
    outputs, encodings = lm.forwards(TEXTS[:2])
    assert np.array_equal(np.array(outputs.logits), np.array(demo.model(TEXTS[:2])))
    assert set(encodings) == {"input_ids", "attention_mask"}
    assert lm.generate("Once upon a time", 8) == demo.model.generate("Once upon a time", 8)
    assert lm.generate(TEXTS[:2], 4) == demo.model.generate(TEXTS[:2], 4)


def test_B3_every_layer_is_inspected_and_manipulated(lm, demo):
    before = logits(demo.model)
    for name in ("layers.0.self_attn", "layers.3.mlp.down_proj"):
        assert name in lm.layers.get_layer_names()
        detector, controller = Detector(name, keep=True), Controller(name, lambda x: x * 0)
        lm.layers.register_hook(name, detector)
        lm.layers.register_hook(name, controller)
        assert not np.allclose(logits(demo.model), before, atol=1e-3)
        assert detector.activations[0].shape == (len(demo.model.tokenize(TEXTS[0])), demo.model.d_model)
        assert lm.layers.unregister_hook(detector) and lm.layers.unregister_hook(controller)
    assert np.array_equal(logits(demo.model), before)


def test_B4_activations_of_any_layer_are_saved(lm, demo):
    run = lm.activations.save(TextDataset(texts=TEXTS), ["layers.1", "layers.2.mlp"])
    store = lm.store.activations(run)
    kinds = store.tokens(0)
    assert len(store) == sum(len(demo.model.tokenize(text)) for text in TEXTS)
    with demo.model.trace(TEXTS) as t:
        pass
    for name in store.components:
        x = demo.model.language_model.backend.get(t.activations[name])
        rows, positions = store.read(0, name), kinds["positions"]
        for i in range(0, len(rows), 17):  # each row is one of the tokens of that id at that position
            same = (t.tokens[:, positions[i]] == kinds["tokens"][i]) & (t.lengths > positions[i])
            assert min(np.abs(x[row, positions[i]] - rows[i]).max() for row in np.flatnonzero(same)) < 1e-2


def test_B5_a_store_has_the_guides_hierarchy(lm, demo):
    torch = pytest.importorskip("torch")
    from tests.compat.guides import state_of

    store = lm.store
    run = lm.activations.save(TEXTS, SIGNATURE, run_name="run")
    config = SAETrainConfig(d_hidden=256, k=4, epochs=2, batch_size=64)
    sae = mlxterp.train_sae(
        store.activations(run),
        config,
        run_dir=store.run_path("run"),
        save_path=store.sae_path("ours"),
        progress=False,
    )
    store.sae_path("theirs").mkdir(parents=True)
    torch.save(state_of(sae, "llamaforcausallm_model_layers_1"), store.sae_path("theirs") / "model.pt")
    files = {str(path.relative_to(store.base_path)) for path in store.base_path.rglob("*") if path.is_file()}
    assert {
        "activations/run/meta.json",
        f"activations/run/batch_0/{SIGNATURE}/activations.safetensors",
        "runs/run/training_history.json",
        "sae_models/theirs/model.pt",
    } <= files
    assert store.history("run") and store.saes() == ["ours", "theirs"]
    x = np.random.default_rng(0).normal(size=(9, sae.d_model)).astype(np.float32)
    theirs = mlxterp.SAE.load(store.sae_path("theirs"))
    np.testing.assert_allclose(theirs.encode(x), sae.encode(x), rtol=1e-3, atol=1e-3)


def test_B6_detectors_observe_and_controllers_change_inputs_and_outputs(demo, sae):
    model, before = demo.model, logits(demo.model)
    seen, figures = [], Detector("layers.1.mlp", statistics=True)
    observing = Detector("layers.1.mlp", lambda x: seen.append(tuple(x.shape)), keep=True)
    outputs, inputs = (
        Controller("layers.2.mlp", lambda x: x * 0.5),
        Controller("layers.2.mlp.input", lambda x: -x),
    )
    with model.add_hook(figures), model.add_hook(observing):
        assert np.array_equal(logits(model), before)  # non-invasive
        with model.add_hook(outputs), model.add_hook(inputs):  # composable
            changed = logits(model)
    change = {"layers.2.mlp.input": lambda x: -x, "layers.2.mlp": lambda x: x * 0.5}
    with model.trace(TEXTS[0], interventions=change) as t:
        pass
    assert np.array_equal(changed, model.language_model.backend.get(t.output))
    assert len(seen) == 2 and figures.statistics.count == 2 * len(model.tokenize(TEXTS[0]))
    assert np.allclose(figures.statistics.mean, np.concatenate(observing.activations).mean(axis=0), atol=1e-5)
    with model.attach_sae(sae, SIGNATURE):  # an SAE is both
        sae.concepts.enable_text_tracking(top_k=1)
        sae.concepts.manipulate_concept(feature_on(model, sae), 3.0)
        assert not np.allclose(logits(model), before, atol=1e-3) and sae.concepts.get_top_texts()
    assert np.array_equal(logits(model), before)


def test_B7_a_topk_sae_keeps_k_of_more_features_than_inputs(demo):
    sae = TopKSae(n_latents=demo.sae.d_hidden, n_inputs=demo.sae.d_model, k=8, device=None)
    sae.load_state_dict({name: getattr(demo.sae, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")})
    x = demo.model.language_model.backend.get(_residual(demo.model))
    features = sae.encode(x)
    assert features.shape[-1] / x.shape[-1] == sae.d_hidden / sae.d_model > 1
    assert (features >= 0).all() and ((features > 0).sum(axis=-1) <= 8).all()


def _residual(model) -> Any:
    with model.trace(TEXTS[0]) as t:
        pass
    return t.activations["layers.1.resid_post"]


def test_B8_from_training_to_a_concept_that_is_used(lm, demo, tmp_path):
    run = lm.activations.save(TextDataset(texts=demo.texts[:40]), SIGNATURE)
    sae = mlxterp.train_sae(
        lm.store.activations(run), SAETrainConfig(d_hidden=256, k=8, epochs=2, batch_size=256), progress=False
    )
    handle = lm.attach_sae(sae, layer_signature=SIGNATURE)
    sae.concepts.enable_text_tracking(top_k=5)
    lm.inference.execute_inference(TEXTS)
    neuron = sae.concepts.most_active_neurons(1)[0][0]
    (tmp_path / "curated.csv").write_text(f"neuron_idx,concept_name,confidence\n{neuron},strong,0.5\n")
    sae.concepts.load_concepts(tmp_path / "curated.csv")
    before = logits(demo.model)
    sae.concepts.manipulate_concept("strong", 0.0)
    assert not np.array_equal(logits(demo.model), before)
    handle.detach()
    assert np.array_equal(logits(demo.model), before)


def test_B9_a_scale_of_1_is_bit_identical_and_of_0_ablates(lm, demo, sae):
    before, feature = logits(demo.model), feature_on(demo.model, sae)
    lm.attach_sae(sae, layer_signature=SIGNATURE)
    sae.concepts.manipulate_concept(neuron_idx=feature, scale=1.0)
    assert np.array_equal(logits(demo.model), before)
    sae.concepts.manipulate_concept(neuron_idx=feature, scale=0.0)
    removed = logits(demo.model)
    sae.concepts.reset_manipulations()
    assert np.array_equal(logits(demo.model), before)
    with demo.model.steer(ablate(sae, feature), at="layers.1"):
        assert np.array_equal(logits(demo.model), removed)
    x = demo.model.language_model.backend.get(_residual(demo.model))
    without = x - sae.encode(x)[..., feature : feature + 1] * sae.W_dec[feature]
    put = demo.model.language_model.backend.put
    with demo.model.trace(TEXTS[0], interventions={"layers.1": lambda h: put(without, h)}) as t:
        pass
    np.testing.assert_allclose(removed, demo.model.language_model.backend.get(t.output), rtol=1e-3, atol=1e-3)
    assert not np.allclose(removed, before, atol=1e-3)


def test_B9_scales_amplify_suppress_add_up_and_are_kept_as_json(lm, demo, sae, tmp_path):
    first, second = [f for f, _ in demo.model.get_top_features_for_text(TEXTS[0], sae, 1, "resid_post")[2:4]]
    lm.attach_sae(sae, layer_signature=SIGNATURE)
    found = {}
    for scale in (0.5, 1.5):
        sae.concepts.manipulate_concept(neuron_idx=first, scale=scale)
        found[scale] = logits(demo.model)
        sae.concepts.reset_manipulations(first)
        with demo.model.steer(amplify(sae, first, scale), at="layers.1"):
            assert np.array_equal(logits(demo.model), found[scale])
    assert not np.array_equal(found[0.5], found[1.5])
    sae.concepts.manipulate_concept(neuron_idx=first, scale=1.5)
    sae.concepts.manipulate_concept(neuron_idx=second, scale=0.0)  # several at once, on one encoding
    both = logits(demo.model)
    (tmp_path / "config.json").write_text(json.dumps(sae.concepts.get_manipulation_config()))
    sae.concepts.reset_manipulations()
    sae.concepts.load_manipulation_config(json.loads((tmp_path / "config.json").read_text()))
    assert sae.concepts.scales == {first: 1.5, second: 0.0} and np.array_equal(logits(demo.model), both)
    sae.concepts.reset_manipulations()
    with demo.model.steer(amplify(sae, first, 1.5), ablate(sae, second), at="layers.1"):
        assert np.array_equal(logits(demo.model), both)


def test_B9_with_and_without_controllers_is_an_A_B_comparison(lm, demo, sae):
    before, feature = logits(demo.model), feature_on(demo.model, sae)
    lm.attach_sae(sae, layer_signature=SIGNATURE)
    sae.concepts.manipulate_concept(feature, 5.0)
    with_them, _ = lm.inference.execute_inference(TEXTS[:1], with_controllers=True)
    without, _ = lm.inference.execute_inference(TEXTS[:1], with_controllers=False)
    assert np.array_equal(np.array(without.logits), before) and not np.allclose(
        np.array(with_them.logits), before
    )
    with demo.model.without_controllers():
        assert np.array_equal(logits(demo.model), before)
        plain = demo.model.generate(TEXTS[0], 10)
    assert np.array_equal(np.array(with_them.logits), logits(demo.model))
    assert lm.generate(TEXTS[0], 10, with_controllers=False) == plain


def test_B9_a_gradual_sweep_moves_the_output_further_and_further(lm, demo, sae):
    before, feature = logits(demo.model), feature_on(demo.model, sae)
    lm.attach_sae(sae, layer_signature=SIGNATURE)
    moved = []
    for scale in (1.0, 1.25, 1.5, 2.0, 3.0):
        sae.concepts.manipulate_concept(feature, scale)
        moved.append(float(np.abs(logits(demo.model) - before).mean()))
    assert moved[0] == 0.0 and moved == sorted(moved) and moved[1] > 0


def test_B9_one_concept_is_manipulated_for_some_prompts_only(lm, demo, sae):
    feature = feature_on(demo.model, sae)
    lm.attach_sae(sae, layer_signature=SIGNATURE)
    plain = {text: logits(demo.model, text) for text in TEXTS[:4]}
    for text in TEXTS[:4]:
        sae.concepts.manipulate_concept(feature, 4.0 if "Lily" in text else 1.0)
        assert np.array_equal(logits(demo.model, text), plain[text]) == ("Lily" not in text)


def test_B10_texts_come_from_memory_files_and_the_hub(lm, demo, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "texts.txt").write_text("\n\n".join(TEXTS))
    hub = HuggingFaceDataset(name="wikitext", split="train", text_field="text")
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_dict({"text": TEXTS})
    )
    lengths = {
        len(lm.store.activations(lm.activations.save(dataset, SIGNATURE)))
        for dataset in (TextDataset(texts=TEXTS), TEXTS, tmp_path / "texts.txt", hub)
    }
    assert lengths == {sum(len(demo.model.tokenize(text)) for text in TEXTS)}


def test_B11_the_six_steps_from_a_store_to_an_analysis(tmp_path):
    store = LocalStore(base_path=tmp_path / "store")  # 1. a model and a store
    lm = LanguageModel.from_huggingface(str(FOLDER / "model"), store=store)
    demo = mlxterp.load_demo()
    run = lm.activations.save(TextDataset(texts=demo.texts[:40]), SIGNATURE)  # 2. activations of a layer
    config = SAETrainConfig(d_hidden=256, k=8, epochs=3, batch_size=256)
    sae = mlxterp.train_sae(  # 3. an SAE
        store.activations(run),
        config,
        run_dir=store.run_path(run),
        save_path=store.sae_path(run),
        progress=False,
    )
    lm.attach_sae(sae, layer_signature=SIGNATURE)  # 4. concepts
    sae.concepts.enable_text_tracking(top_k=10)
    lm.inference.execute_inference(TEXTS)
    assert sae.concepts.get_top_texts() == brute_force(lm.model, sae, TEXTS, 10)
    neuron, _ = sae.concepts.most_active_neurons(1)[0]
    before = logits(lm.model)
    sae.concepts.manipulate_concept(neuron_idx=neuron, scale=1.5)  # 5. manipulated
    assert not np.array_equal(logits(lm.model), before)
    history = store.history(run)  # 6. and analysed from the store
    again = mlxterp.SAE.load(store.sae_path(run))
    assert again.fingerprint == sae.fingerprint and history
    assert Path(store.activations(run).path).parent == store.base_path / "activations"
