"""Transcoders written in circuit-tracer's layout: its own formulas give the same, and so does reading again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from mlxterp import SAE, MlxterpWarning, SAECollection, SAEError
from mlxterp.variants import Activation, Gated, InputForm, JumpReLU, ReLU, TopK
from mlxterp.weights import SAEWeights

yaml = pytest.importorskip("yaml", reason="config.yaml needs PyYAML")
D, N = 8, 24
X = np.random.default_rng(1).standard_normal((40, D)).astype(np.float32)


def transcoder(
    layer: int = 0, activation: Activation | None = None, *, skip: bool = False, n: int = N, **metadata: Any
) -> SAE:
    draw = np.random.default_rng(layer)
    activation = ReLU() if activation is None else activation
    extra: dict[str, np.ndarray] = {}
    if isinstance(activation, JumpReLU):
        extra["threshold"] = np.abs(draw.standard_normal(n))
    if isinstance(activation, Gated):
        extra |= {"gate_scale": np.ones(n), "b_mag": np.zeros(n)}
    if skip:
        extra["W_skip"] = draw.standard_normal((D, D))
    weights = SAEWeights(
        draw.standard_normal((D, n)), draw.standard_normal(n), draw.standard_normal((n, D)),
        draw.standard_normal(D), subtract_b_dec=False, extra=extra,
    )  # fmt: skip
    named = {
        "component": f"layers.{layer}.mlp.input", "component_out": f"layers.{layer}.mlp_out", "model": "a/b",
    }  # fmt: skip
    return SAE(weights.map(lambda x: x.astype(np.float32)), activation, {**named, **metadata})


def theirs(arrays: dict[str, np.ndarray], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features and reconstruction as circuit-tracer's `SingleLayerTranscoder` computes them."""
    h = x @ arrays["W_enc"].T + arrays["b_enc"]
    if "activation_function.threshold" in arrays:
        features = h * (h > arrays["activation_function.threshold"])
    elif "k" in arrays:
        gate = np.zeros_like(h)
        np.put_along_axis(gate, np.argsort(-h, axis=1)[:, : int(arrays["k"])], 1, axis=1)
        features = h * gate
    else:
        features = np.maximum(h, 0)
    out = features @ arrays["W_dec"] + arrays["b_dec"]
    return features, out + x @ arrays["W_skip"].T if "W_skip" in arrays else out


KINDS = {"relu": ReLU(), "jump_relu": JumpReLU(), "topk": TopK(5, relu=False)}


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.filterwarnings("error::mlxterp.MlxterpWarning")
def test_a_set_is_what_it_was_by_their_formulas_and_read_again(tmp_path, kind, skip):
    saes = {layer: transcoder(layer, KINDS[kind], skip=skip) for layer in range(3)}
    folder = SAECollection(saes).save(tmp_path / "set", format="circuit_tracer")
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.yaml",
        *(f"layer_{i}.safetensors" for i in range(3)),
    ]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config == {
        "model_name": "a/b", "model_kind": "transcoder_set", "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "hook_mlp_out", "activation": kind, **({"k": 5} if kind == "topk" else {}),
    }  # fmt: skip
    again = SAECollection.load(folder).by("layer")
    for layer, sae in saes.items():
        expected = theirs(load_file(folder / f"layer_{layer}.safetensors"), X)
        features, out = sae.encode(X), sae.reconstruct(X)
        assert np.array_equal(features != 0, expected[0] != 0)
        np.testing.assert_allclose(features, expected[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out, expected[1], rtol=1e-4, atol=1e-4)
        found = again[layer]
        assert found.activation == sae.activation and found.fingerprint == sae.fingerprint
        assert (found.component, found.metadata["component_out"]) == (
            sae.component,
            f"layers.{layer}.mlp_out",
        )
        assert found.metadata["model"] == "a/b"


@pytest.mark.filterwarnings("error::mlxterp.MlxterpWarning")
def test_one_transcoder_is_saved_alone_and_in_half_precision(tmp_path):
    sae = transcoder(3, JumpReLU())
    folder = sae.save(tmp_path / "one", format="circuit_tracer", dtype="float16")
    assert load_file(folder / "layer_3.safetensors")["W_enc"].dtype == np.float16
    again = SAE.load(folder)
    assert again.component == "layers.3.mlp.input"
    np.testing.assert_allclose(again.W_dec, sae.W_dec, rtol=1e-3)


def test_an_encoder_that_subtracts_the_bias_is_folded(tmp_path):
    sae = transcoder()
    sae = sae.replace(weights=SAEWeights(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, subtract_b_dec=True))
    again = SAE.load(sae.save(tmp_path / "one", format="circuit_tracer"))
    np.testing.assert_allclose(again.encode(X), sae.encode(X), rtol=1e-4, atol=1e-4)


def test_a_topk_with_a_relu_is_told_to_differ_where_few_are_positive(tmp_path):
    sae = transcoder(0, TopK(5))
    with pytest.warns(MlxterpWarning, match="with their sign"):
        folder = sae.save(tmp_path / "one", format="circuit_tracer")
    again = SAE.load(folder)
    many = (sae.encode(X) > 0).sum(axis=1) == 5
    assert many.any() and np.allclose(again.encode(X)[many], sae.encode(X)[many], atol=1e-5)


def test_a_folder_of_ours_is_replaced_and_that_of_others_is_not(tmp_path):
    folder = SAECollection({0: transcoder(0), 1: transcoder(1)}).save(
        tmp_path / "set", format="circuit_tracer"
    )
    SAECollection({0: transcoder(0)}).save(folder, format="circuit_tracer")
    assert sorted(p.name for p in folder.iterdir()) == ["config.yaml", "layer_0.safetensors"]
    (folder / "config.yaml").write_text("model_kind: transcoder_set\n")  # as another library writes it
    with pytest.raises(SAEError, match="would be overwritten"):
        SAECollection({0: transcoder(0)}).save(folder, format="circuit_tracer")


def test_what_their_library_would_not_open_is_named(tmp_path):
    with pytest.warns(MlxterpWarning, match=r"layers \[0, 2\]"):
        SAECollection({0: transcoder(0), 2: transcoder(2)}).save(tmp_path / "gap", format="circuit_tracer")
    with pytest.warns(MlxterpWarning, match=r"\[12, 24\] features"):
        SAECollection({0: transcoder(0), 1: transcoder(1, n=12)}).save(
            tmp_path / "two", format="circuit_tracer"
        )
    named = transcoder()
    named.concepts.load_concepts({3: "balls"})
    with pytest.warns(MlxterpWarning, match="no place for names"):
        named.save(tmp_path / "named", format="circuit_tracer")


@pytest.mark.parametrize(
    ("saes", "said"),
    [
        ([transcoder(0, Gated())], "no gated features"),
        ([transcoder(0, component="layers.0.resid_post"), transcoder(1)], "agree in feature_input_hook"),
        ([transcoder(0), transcoder(1, TopK(3, relu=False))], "agree in activation"),
        ([transcoder(1, TopK(4, relu=False)), transcoder(2, TopK(3, relu=False))], "agree in k"),
        ([transcoder(0), transcoder(0)], "Two transcoders are of layer 0"),
        ([transcoder(0, component_out="layers.1.mlp_out")], "reads layer 0 and predicts layer 1"),
        ([transcoder(0, component_out="layers.0.mlp")], "component_out 'layers.0.mlp'"),
        ([transcoder(0, component=None)], "component None"),
        ([SAE(transcoder().weights, ReLU(), transcoder().metadata, form=InputForm(normalize="layer_norm"))], "normal"),
    ],
)  # fmt: skip
def test_what_the_layout_cannot_hold_is_refused_and_leaves_nothing(tmp_path, saes, said):
    with pytest.raises(SAEError, match=said):
        SAECollection(saes).save(tmp_path / "set", format="circuit_tracer")
    assert not list(tmp_path.iterdir())


def test_an_unknown_format_is_named(tmp_path: Path):
    with pytest.raises(SAEError, match="one of 'mlxterp', 'circuit_tracer'"):
        SAECollection([transcoder()]).save(tmp_path / "set", format="saelens")
