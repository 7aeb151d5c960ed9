"""What stands behind Mi-Crow's names: its files, devices, layers, data sets and stores."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest

import mlxterp
from mlxterp import SAE, ComponentError, InputError, InterpretableModel, MlxterpWarning, SAEError
from mlxterp.compat.devices import wing_for
from mlxterp.compat.mi_crow import HuggingFaceDataset, LanguageModel, LocalStore, TextDataset, TopKSae
from mlxterp.compat.mi_crow.hooks import Controller, Detector, HookType
from tests.compat.guides import state_of

TEXTS = ["Once upon a time there was a dog.", "The end."]


@pytest.fixture
def lm(demo, tmp_path) -> LanguageModel:
    return LanguageModel(demo.model, store=tmp_path / "store")


def plain(sae: SAE) -> dict[str, np.ndarray]:
    bias = sae.b_enc - (sae.b_dec @ sae.W_enc if sae.subtract_b_dec else 0)
    return {"W_enc": sae.W_enc, "b_enc": bias, "W_dec": sae.W_dec, "b_dec": sae.b_dec * 0}


# -- SAEs ---------------------------------------------------------------------------------------


def test_a_file_that_mi_crow_wrote_gives_its_features_and_reconstructions(shared):
    torch = pytest.importorskip("torch")
    folder = shared / "fixtures/sae/microw_topk"
    there, state = np.load(folder / "io.npz"), torch.load(folder / "sae.pt", map_location="cpu")
    k = int(state["mi_crow_metadata"]["k"])
    for given in (state, folder / "sae.pt"):
        sae = TopKSae(n_latents=96, n_inputs=32, k=k, device="cpu")
        with pytest.warns(MlxterpWarning, match=r"concepts\.bias"):  # the fixture has random ones
            sae.load_state_dict(given)
        np.testing.assert_allclose(sae.eval().encode(there["x"]), there["features"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(sae.forward(there["x"]), there["recon"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(sae.decode(there["features"]), there["recon"], rtol=1e-4, atol=1e-5)
    engine = TopKSae(96, 32, k)
    engine.load_state_dict(state["sae_state_dict"])
    assert np.array_equal(engine.encode(there["x"]), sae.encode(there["x"]))
    native = torch.from_numpy(there["x"])
    assert isinstance(sae.encode(native), torch.Tensor)


def test_k_is_the_constructors_and_else_the_files(demo):
    pytest.importorskip("torch")
    state = state_of(demo.sae, "layers_1")
    sae = TopKSae(demo.sae.d_hidden, demo.sae.d_model)
    sae.load_state_dict(state)
    assert sae.k == demo.sae.k
    other = TopKSae(demo.sae.d_hidden, demo.sae.d_model, k=3)
    with pytest.warns(MlxterpWarning, match="k=3, as TopKSae was made with"):
        other.load_state_dict(state)
    x = np.random.default_rng(0).normal(size=(20, demo.sae.d_model)).astype(np.float32)
    assert ((other.encode(x) > 0).sum(axis=1) <= 3).all() and other.k == 3


def test_a_plain_dictionary_does_too(demo):
    sae = TopKSae(demo.sae.d_hidden, demo.sae.d_model, demo.sae.k, device=None)
    sae.concepts.load_concepts({3: "named before"})
    sae.load_state_dict(plain(demo.sae))
    x = np.random.default_rng(0).normal(size=(20, demo.sae.d_model)).astype(np.float32)
    np.testing.assert_allclose(sae.encode(x), demo.sae.encode(x), rtol=1e-3, atol=1e-4)
    assert sae.concepts.name_of(3) == "named before"


def test_manipulations_that_were_saved_are_taken(demo):
    pytest.importorskip("torch")
    state = state_of(demo.sae, "layers_1")
    state["mi_crow_metadata"]["concepts_state"]["multiplication"][5] = 2.5
    sae = TopKSae(demo.sae.d_hidden, demo.sae.d_model)
    with pytest.warns(MlxterpWarning, match="left out"):
        sae.load_state_dict(state)
    assert sae.concepts.scales == {5: 2.5}
    state["mi_crow_metadata"]["concepts_state"]["bias"][:] = 0.0
    state["mi_crow_metadata"]["concepts_state"]["multiplication"][5] = 0.0
    sae.load_state_dict(state)
    assert sae.concepts.scales == {5: 0.0}


def test_what_is_no_state_of_this_sae_is_refused(demo):
    sae = TopKSae(demo.sae.d_hidden, demo.sae.d_model, 8, device=None)
    with pytest.raises(SAEError, match="no weights yet"):
        sae.encode(np.zeros((1, demo.sae.d_model), np.float32))
    with pytest.raises(SAEError, match="no weights yet"):
        sae.decode(np.zeros((1, demo.sae.d_hidden), np.float32))
    with pytest.raises(SAEError, match="of 4096 and"):
        TopKSae(4096, 768, 8, device=None).load_state_dict(plain(demo.sae))
    with pytest.raises(SAEError, match="does not say k"):
        TopKSae(demo.sae.d_hidden, demo.sae.d_model, device=None).load_state_dict(plain(demo.sae))
    with pytest.raises(SAEError, match="got something"):
        sae.load_state_dict({"something": np.zeros(3)})
    with pytest.raises(SAEError, match="b_enc has shape"):
        sae.load_state_dict({**plain(demo.sae), "W_enc": demo.sae.W_enc.T})
    with pytest.raises(SAEError, match="got list"):
        sae.load_state_dict([])  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="n_latents is 0"):
        TopKSae(0, 3)
    with pytest.raises(SAEError, match="k"):
        TopKSae(4, 3, 5, device=None)


# -- devices ------------------------------------------------------------------------------------


def test_a_device_that_is_not_there_falls_back_with_one_warning():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wing, _ = wing_for("cuda:97")
        TopKSae(n_latents=8, n_inputs=4, k=2, device="cuda:97")
    assert wing in mlxterp.available_backends()
    assert [str(w.message).partition(",")[0] for w in caught] == ["There is no device 'cuda:97' here"] * 2
    with pytest.raises(InputError, match="expected 'cuda'"):
        wing_for("tpu")


def test_devices_of_torch_run_torch_and_none_runs_mlx(shared):
    folder = str(shared / "data/models/TinyStories-656K")
    if len(mlxterp.available_backends()) < 2:
        pytest.skip("needs both backends")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MlxterpWarning)
        on_cpu, on_mlx = (LanguageModel.from_huggingface(folder, device=device) for device in ("cpu", None))
    assert (on_cpu.device, on_mlx.device) == ("cpu", "mlx")
    one, other = (lm.forwards(TEXTS)[0].logits for lm in (on_cpu, on_mlx))
    np.testing.assert_allclose(one[1, :2].numpy(), np.array(other)[1, :2], rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match="Load model and tokenizer yourself"):
        LanguageModel.from_huggingface(folder, model_params={"dtype": "auto"})


# -- running ------------------------------------------------------------------------------------


def test_encodings_are_ids_and_a_mask(lm, demo):
    output, encodings = lm.inference.execute_inference(TextDataset(TEXTS))
    rows = [demo.model.tokenize(text) for text in TEXTS]
    ids, mask = (np.array(encodings[name]) for name in ("input_ids", "attention_mask"))
    assert mask.sum(axis=1).tolist() == [len(row) for row in rows]
    assert [row[:n].tolist() for row, n in zip(ids, mask.sum(axis=1), strict=True)] == rows
    assert np.array_equal(np.array(output[0]), np.array(demo.model(TEXTS)))
    assert lm.inference.extract_logits(output) is output["logits"]
    assert np.array_equal(np.array(lm.tokenize(TEXTS)["input_ids"]), ids)
    short, encodings = lm.inference.execute_inference(TEXTS, tok_kwargs={"max_length": 3})
    assert tuple(short.logits.shape[:2]) == (2, 3) == tuple(encodings["input_ids"].shape)
    several, _ = lm.inference.infer_texts(TEXTS, batch_size=1)
    assert [tuple(out.logits.shape[:2]) for out in several] == [(1, len(row)) for row in rows]
    stopped, _ = lm.inference.execute_inference(TEXTS, stop_after_layer="layers.0.mlp")
    assert tuple(stopped.shape) == (*ids.shape, demo.model.d_model)


def test_bad_requests_are_refused_where_they_enter(lm, demo):
    for texts in ("one text", [], [3]):
        with pytest.raises(InputError):
            lm.inference.execute_inference(texts)
    with pytest.raises(InputError, match="only max_length"):
        lm.inference.execute_inference(TEXTS, tok_kwargs={"add_special_tokens": False})
    with pytest.raises(InputError, match="expected a path"):
        lm.attach_sae(demo.sae, layer_signature=1)
    with pytest.raises(ComponentError, match="No component"):
        lm.attach_sae(demo.sae, layer_signature="transformer.h.0.nothing")
    with pytest.raises(InputError, match="no store"):
        LanguageModel(demo.model).activations.save(TEXTS, "layers.1.mlp")
    with pytest.raises(InputError):
        TextDataset(texts="one text")
    with pytest.raises(InputError, match="hook_type"):
        lm.layers.register_hook("layers.1.mlp", Detector("layers.1.mlp"), "backward")
    with pytest.raises(InputError, match="Expected a Detector"):
        lm.layers.register_hook("layers.1.mlp", print)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("wing", ["mlx", "torch"])
def test_signatures_joined_as_mi_crow_joins_them_are_found(shared, wing):
    if wing not in mlxterp.available_backends():
        pytest.skip(f"{wing} is not installed")
    from mlxterp.compat.mi_crow.signatures import component_of

    model = InterpretableModel(str(shared / "data/models/tinystories_instruct_3m_gpt2"), backend=wing)
    for signature, path in {
        "gpt2lmheadmodel_transformer_h_3_attn_c_proj": "layers.3.attn.c_proj",
        "gpt2lmheadmodel_transformer_h_3": "layers.3",
        "gpt2lmheadmodel_transformer_ln_f": model.anatomy.component("ln_f").name,
        "transformer.h.0.attn.c_attn": "layers.0.attn.c_attn",
        "layers.2.resid_post": "layers.2.resid_post",
    }.items():
        assert component_of(model, signature) == path
    with pytest.raises(ComponentError):
        component_of(model, "gpt2lmheadmodel_transformer_h_3_attn_nothing")


def test_hooks_are_registered_and_taken_away(lm, demo, capsys):
    lm.layers.print_layer_names()
    names = lm.layers.get_layer_names()
    assert "layers.1.mlp" in names and "layers.1.mlp: " in capsys.readouterr().out
    assert len(lm.layers) == len(list(lm.layers)) == demo.model.n_layers
    before = np.array(demo.model(TEXTS[0]))
    with demo.model.trace(TEXTS[0], interventions={"layers.1.mlp.input": lambda x: x * 2}) as t:
        pass
    detector = Detector("layers.0.mlp", keep=True)
    doubling = Controller("layers.0.mlp", lambda x: x * 2)
    first = lm.layers.register_hook("layers.1.mlp", detector)
    second = lm.layers.register_hook("layers.1.mlp", doubling, HookType.PRE_FORWARD)
    third = lm.layers.register_hook("layers.1", demo.sae)
    assert len({first, second, third}) == 3
    assert lm.layers.get_hooks("layers.1.mlp") == [detector, doubling]
    assert lm.layers.get_detectors() == [detector, demo.sae]
    assert lm.layers.get_controllers() == [doubling, demo.sae]
    assert np.array_equal(np.array(lm.forwards(TEXTS[:1])[0].logits), np.array(t.output))
    assert np.array_equal(np.array(lm.forwards(TEXTS[:1], with_controllers=False)[0].logits), before)
    assert len(detector.activations) == 2
    assert lm.layers.unregister_hook(first) and lm.layers.unregister_hook(doubling)
    assert lm.layers.unregister_hook(demo.sae) and not lm.layers.unregister_hook(first)
    assert demo.model.session.attachments.attached == ()
    assert np.array_equal(np.array(demo.model(TEXTS[0])), before)


# -- data ---------------------------------------------------------------------------------------


def test_activations_are_saved_whole_under_the_runs_name(lm, demo):
    dataset = TextDataset(texts=demo.texts[:3])
    name = lm.activations.save_activations(
        dataset, ["layers.1.mlp", "layers.1"], run_name="run", batch_size=2
    )
    assert name == "run" and isinstance(lm.store, LocalStore)
    folder = lm.store.base_path / "activations" / "run"
    assert (folder / "meta.json").is_file()
    assert (folder / "batch_0" / "layers.1.mlp" / "activations.safetensors").is_file()
    saved = lm.store.activations(name)
    assert len(saved) == sum(len(demo.model.tokenize(text)) for text in dataset.texts)
    assert saved.dtype == "float32" and saved.components == ("layers.1.mlp", "layers.1")
    again = lm.activations.save(dataset, "layers.1.mlp", dtype="float16", tokens=20)
    assert again.startswith("run_") and sorted(lm.store.collections()) == sorted([name, again])


def test_run_id_is_another_name_of_run_name_and_unknown_options_are_named(lm, demo):
    save = lm.activations.save
    assert save(demo.texts[:2], layer_signature="model.layers.1", run_id="x", tokens=20) == "x"
    assert save(demo.texts[:2], "model.layers.1", "x", run_id="x", tokens=20) == "x"
    with pytest.raises(InputError, match="name the same thing"):
        save(demo.texts[:2], "model.layers.1", run_name="x", run_id="y")
    with pytest.raises(
        InputError, match=r"no option sample_limit=; save takes run_name, .*max_length.*tokens"
    ):
        save(demo.texts[:2], "model.layers.1", sample_limit=3)


def test_data_sets_are_sequences_of_texts():
    dataset = TextDataset(texts=["a", "b", "c"])
    assert dataset.texts == list(dataset) == ["a", "b", "c"] and len(dataset) == 3
    assert dataset[1] == "b" and dataset[1:] == ["b", "c"]
    assert list(dataset.iter_batches(2)) == [["a", "b"], ["c"]] and "3 texts" in repr(dataset)
    assert HuggingFaceDataset(name="wikitext", split="train", text_field="text").split == "train"


def test_importing_it_loads_neither_array_library():
    code = (
        "from mlxterp.compat.mi_crow.mechanistic.sae import TopKSae\n"
        "from mlxterp.compat.mi_crow.datasets import TextDataset, HuggingFaceDataset\n"
        "from mlxterp.compat.mi_crow.language_model import LanguageModel\n"
        "from mlxterp.compat.mi_crow.store import LocalStore\n"
        "import sys; print([m for m in ('mlx.core', 'torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
