"""Mi-Crow's guide to its core concepts, row by row (B1 to B11), on the real model that comes with the package.

Row B12 is documentation: `docs/concepts.md`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import mlxterp
from mlxterp import LocalStore, SAETrainConfig
from mlxterp.compat.mi_crow import HuggingFaceDataset, LanguageModel, TextDataset, TopKSae
from mlxterp.demo import FOLDER
from mlxterp.hooks import Controller, Detector
from mlxterp.steering import ablate, amplify
from tests.ranking import assert_tracked
from tests.stories import SIGNATURE, TEXTS, brute_force, feature_on, logits, residual


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


def test_B5_a_store_has_the_guides_hierarchy(lm):
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
    x = demo.model.language_model.backend.get(residual(demo.model))
    features = sae.encode(x)
    assert features.shape[-1] / x.shape[-1] == sae.d_hidden / sae.d_model > 1
    assert (features >= 0).all() and ((features > 0).sum(axis=-1) <= 8).all()


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
    x = demo.model.language_model.backend.get(residual(demo.model))
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
    assert_tracked(sae.concepts.get_top_texts(), brute_force(lm.model, sae, TEXTS), 10)
    neuron, _ = sae.concepts.most_active_neurons(1)[0]
    before = logits(lm.model)
    sae.concepts.manipulate_concept(neuron_idx=neuron, scale=1.5)  # 5. manipulated
    assert not np.array_equal(logits(lm.model), before)
    history = store.history(run)  # 6. and analysed from the store
    again = mlxterp.SAE.load(store.sae_path(run))
    assert again.fingerprint == sae.fingerprint and history
    assert Path(store.activations(run).path).parent == store.base_path / "activations"
