"""An SAE meets a model: its hook becomes a component, known differences are made up for, and misfits are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mlxterp import (
    SAE,
    ComponentError,
    InputError,
    InterpretableModel,
    MlxterpWarning,
    SAECheck,
    SAEError,
    SAETrainConfig,
    train_sae,
)
from mlxterp.sae.pretrained import is_published
from mlxterp.variants import InputForm, TopK
from mlxterp.weights import SAEWeights
from tests.small import checkpoint
from tests.tiny import tiny_llama

pytest.importorskip("transformers")


def random_sae(d: int, metadata: dict, d_out: int | None = None, n: int = 80) -> SAE:
    rng = np.random.default_rng(0)
    shapes = ((d, n), (n,), (n, d_out or d), (d_out or d,))
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    return SAE(SAEWeights(*arrays, subtract_b_dec=d_out is None), TopK(5), metadata)


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma2"])
def opened(request, tmp_path_factory) -> InterpretableModel:
    folder = checkpoint(request.param, tmp_path_factory.mktemp(request.param))
    return InterpretableModel(str(folder), tokenizer=None, backend="torch")


@pytest.mark.parametrize(
    ("hook", "component"),
    [
        ("blocks.1.hook_resid_pre", "layers.1.resid_pre"),
        ("blocks.2.hook_resid_post", "layers.2.resid_post"),
        ("blocks.1.hook_mlp_out", "layers.1.mlp_out"),
        ("blocks.0.attn.hook_z", "layers.0.attn.z"),
        ("model.layers.1.output", "layers.1.resid_post"),
        ("hook_embed", "embed"),
    ],
)
def test_a_hook_of_another_library_is_a_component_of_this_model(opened, tmp_path, hook, component):
    sae = random_sae(64, {"component": hook, "hook": hook})
    fitted = opened.load_sae(sae.save(tmp_path / "sae"))
    assert fitted.component == opened.anatomy.component(component).name
    x = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    if not fitted.form.center:
        assert np.array_equal(fitted.encode(x), sae.on("torch").encode(x))


def test_an_sae_of_centred_weights_takes_what_the_raw_model_has(opened, tmp_path):
    sae = random_sae(64, {"component": "layers.1.resid_pre", "center_writing_weights": True})
    fitted = opened.load_sae(sae.save(tmp_path / "sae"))
    layer_norm = opened.language_model.model_type == "gpt2"
    assert fitted.form.center == layer_norm  # RMSNorm models cannot be centred
    x = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32) + 3
    if layer_norm:
        mean = x.mean(axis=1, keepdims=True)
        out, features = fitted(x)
        np.testing.assert_allclose(features, sae.on("torch").encode(x - mean), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(out, sae.on("torch").reconstruct(x - mean) + mean, rtol=1e-3, atol=1e-3)


def test_a_norms_gain_that_the_hook_leaves_out_is_folded_in(opened, tmp_path):
    """What Gemma Scope 1's transcoders and TransformerLens call `ln2.hook_normalized`."""
    metadata = {"component": "layers.1.mlp.input", "hook": "blocks.1.ln2.hook_normalized"}
    sae = random_sae(64, metadata | {"component_out": "layers.1.mlp_out"}, d_out=64)
    fitted = opened.load_sae(sae.save(tmp_path / "sae"))
    with opened.trace(np.array([[5, 9, 3, 7]])) as t:
        pass
    stream = np.asarray(opened.language_model.backend.get(t.activations["layers.1.resid_mid"]))[0]
    seen = np.asarray(opened.language_model.backend.get(t.activations["layers.1.mlp.input"]))[0]
    if opened.language_model.model_type == "gpt2":
        stream = stream - stream.mean(axis=1, keepdims=True)
    normed = stream / np.sqrt((stream**2).mean(axis=1, keepdims=True))
    expected = sae.on("torch").encode(normed.astype(np.float32))
    np.testing.assert_allclose(fitted.encode(seen), expected, rtol=1e-2, atol=1e-2)


def test_an_sae_of_a_norms_output_without_its_gain_gives_it_back_with_the_gain(opened, tmp_path):
    sae = random_sae(64, {"component": "layers.1.mlp.input", "hook": "blocks.1.ln2.hook_normalized"})
    fitted = opened.load_sae(sae.save(tmp_path / "sae"))
    with opened.trace(np.array([[5, 9, 3, 7]])) as t:
        pass
    get = opened.language_model.backend.get
    stream, seen = (
        np.asarray(get(t.activations[f"layers.1.{leaf}"]))[0] for leaf in ("resid_mid", "mlp.input")
    )
    if opened.language_model.model_type == "gpt2":
        stream = stream - stream.mean(axis=1, keepdims=True)
    normed = (stream / np.sqrt((stream**2).mean(axis=1, keepdims=True))).astype(np.float32)
    np.testing.assert_allclose(fitted.encode(seen), sae.on("torch").encode(normed), rtol=1e-2, atol=2e-2)
    slope = [np.polyfit(normed[:, i], seen[:, i], 1) for i in range(64)]
    gain, bias = (np.array(column) for column in zip(*slope, strict=True))
    expected = sae.on("torch").reconstruct(normed) * gain + bias
    np.testing.assert_allclose(fitted.reconstruct(seen), expected, rtol=1e-2, atol=5e-2)


def test_another_models_sae_is_named(tmp_path):
    model = InterpretableModel(str(checkpoint("gpt2", tmp_path / "gpt2-small-mlx")), backend="torch")
    for name, warns in (("openai-community/gpt2", False), ("gpt2-small", False), ("google/gemma-2-2b", True)):
        path = random_sae(64, {"component": "layers.0.mlp", "model": name}).save(tmp_path / "sae")
        if warns:
            with pytest.warns(MlxterpWarning, match="trained on google/gemma-2-2b"):
                model.load_sae(path)
        else:
            model.load_sae(path)


def test_the_last_blocks_output_is_not_yet_normed(opened, tmp_path):
    fitted = opened.load_sae(random_sae(64, {"component": "blocks.2.hook_resid_post"}).save(tmp_path / "sae"))
    with opened.trace(np.array([[5, 9, 3]])) as t:
        pass
    get = opened.language_model.backend.get
    logits = opened.unembed(t.activations[fitted.component])
    np.testing.assert_allclose(get(logits), get(t.output), rtol=1e-4, atol=1e-4)


def test_another_width_and_a_missing_component_are_refused(opened, tmp_path):
    with pytest.raises(SAEError, match=r"puts out 64 numbers .* takes 48"):
        opened.load_sae(random_sae(48, {"component": "layers.1.mlp"}).save(tmp_path / "wide"))
    with pytest.raises(ComponentError, match=r"no layer 7"):
        opened.load_sae(random_sae(64, {"component": "layers.7.mlp"}).save(tmp_path / "far"))
    with pytest.warns(
        MlxterpWarning, match=r"trained on layers\.7\.mlp \(of another model\), and is used on"
    ):
        moved = opened.load_sae(tmp_path / "far", component="layers.0.mlp")
    assert moved.component == opened.anatomy.component("layers.0.mlp").name


def test_a_path_joined_as_mi_crow_does_is_found(tmp_path):
    model = InterpretableModel(str(checkpoint("gpt2", tmp_path / "m")), backend="torch")
    sae = random_sae(192, {"component": "layers.0.attn_c_attn"})
    assert model.load_sae(sae.save(tmp_path / "sae")).component == "layers.0.attn.c_attn"


class BosTokenizer:
    bos_token_id = 1

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [3 + len(w) for w in text.split()]

    def decode(self, ids) -> str:
        return " ".join("x" * (int(i) - 3) for i in ids)


def test_an_sae_trained_with_bos_says_so_where_the_tokenizer_adds_none(tmp_path):
    pytest.importorskip("mlx")
    model = tiny_llama(tokenizer=BosTokenizer())
    sae = random_sae(model.d_model, {"component": "layers.1.mlp", "prepend_bos": True})
    with pytest.warns(MlxterpWarning, match="BOS"):
        model.load_sae(sae.save(tmp_path / "sae"))


def test_what_is_published_can_be_told_from_a_path():
    assert is_published("gpt2-small-res-jb")
    assert is_published("google/gemma-scope-2b-pt-res")
    assert not is_published("./folder/sae")
    assert not is_published("sae.mlx")


# -- does it fit? -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(shared: Path) -> tuple[InterpretableModel, SAE, list[str]]:
    pytest.importorskip("mlx")
    model = InterpretableModel(str(shared / "data" / "models" / "TinyStories-656K"))
    stories = (
        (shared / "data" / "text" / "tinystories.txt").read_text(encoding="utf-8").split("<|endoftext|>")
    )
    texts = [" ".join(story.split()[:60]) for story in stories[:260]]
    config = SAETrainConfig(d_hidden=256, k=16, batch_size=512, epochs=3)
    sae = model.train_sae(1, texts[:240], "mlp", config, verbose=False, exclude=("first", "sinks"))
    return model, sae, texts[240:]


def test_an_sae_where_it_belongs_has_no_findings(trained):
    model, sae, texts = trained
    report = sae.check(model, texts)
    assert isinstance(report, SAECheck) and report.ok, report.findings
    assert report.component == "layers.1.mlp" and report.l0 == pytest.approx(16, abs=0.5)
    assert 0 < report.explained_variance < 1 and report.fvu == pytest.approx(1 - report.explained_variance)
    assert report.loss < report.loss_with_sae
    assert 0 < report.loss_recovered_zero < 1
    json.dumps(report.to_dict())
    assert "explained variance" in str(report)


def test_a_wrong_layer_is_named(trained):
    model, sae, texts = trained
    with pytest.warns(MlxterpWarning, match="was trained on layers.1.mlp"):
        report = model.check_sae(sae, texts, component="layers.0.mlp")
    assert (
        "Wrong layer: this SAE reconstructs layers.1.mlp far better than layers.0.mlp" in report.findings[0]
    )


def test_a_wrong_component_is_named(trained):
    model, sae, texts = trained
    for component in ("resid_pre", "attn"):
        with pytest.warns(MlxterpWarning, match="was trained on layers.1.mlp"):
            findings = model.check_sae(sae, texts, component=f"layers.1.{component}").findings
        assert "Wrong component: this SAE reconstructs layers.1.mlp far better" in findings[0]


@pytest.mark.parametrize("normalize", ["layer_norm", "constant_norm"])
def test_a_missing_normalisation_is_named(trained, normalize):
    model, _, texts = trained
    with model.trace(texts) as t:
        pass
    values = np.array(t.activations["layers.1.mlp"])
    x = np.concatenate([values[i, 1:n] for i, n in enumerate(t.lengths)])
    form = InputForm(normalize)
    backend = model.language_model.backend
    inside = backend.get(backend.normalize(backend.put(x), form)[0])
    config = SAETrainConfig(d_hidden=256, k=16, batch_size=128, epochs=12)
    sae = train_sae(inside, config, metadata={"component": "layers.1.mlp"}, progress=False)
    findings = sae.check(model, texts).findings
    assert findings and findings[0].startswith("Missing normalisation"), findings
    assert SAE(sae.weights, sae.activation, sae.metadata, form=form).check(model, texts).ok


def test_reconstruction_figures_are_those_of_plain_numpy(trained):
    model, sae, texts = trained
    report = sae.check(model, texts)
    rows = []
    for text in texts:
        with model.trace(text) as t:
            pass
        rows.append(np.array(t.activations["layers.1.mlp"])[0, 1:].astype(np.float64))
    x = np.concatenate(rows)
    features = sae.encode(x.astype(np.float32))
    error = ((x - sae.decode(features)) ** 2).sum()
    assert report.tokens == len(x)
    assert report.fvu == pytest.approx(error / ((x - x.mean(axis=0)) ** 2).sum(), rel=1e-4)
    assert report.l0 == pytest.approx((features != 0).sum(axis=1).mean(), rel=1e-4)
    assert report.dead_share == pytest.approx((features == 0).all(axis=0).mean(), abs=0.005)
    assert report.loss == pytest.approx(
        np.average([model.loss(text) for text in texts], weights=[len(row) for row in rows]), abs=1e-4
    )


def test_what_cannot_be_checked_is_refused(trained):
    model, sae, texts = trained
    nameless = SAE(sae.weights, sae.activation)
    with pytest.raises(InputError, match="component="):
        nameless.check(model, texts)
    assert nameless.check(model, texts, component="layers.1.mlp").ok
    for bad in ([], ["a"][:0], "one text"):
        with pytest.raises(InputError):
            sae.check(model, bad)
