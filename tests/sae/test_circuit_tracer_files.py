"""Transcoders as circuit-tracer writes them: what is active is what its own classes compute, in plain NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mlxterp import SAE, MlxterpWarning, SAEError
from mlxterp.variants import JumpReLU, ReLU, TopK

pytest.importorskip("yaml", reason="config.yaml needs PyYAML")
D, N, OUT, LAYERS = 8, 24, 6, 3
rng = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


BASE = {"W_enc": numbers(N, D), "b_enc": numbers(N), "W_dec": numbers(N, OUT), "b_dec": numbers(OUT)}
THRESHOLD = np.abs(numbers(N))
X = numbers(50, D)
H = X @ BASE["W_enc"].T + BASE["b_enc"]


def jump_relu(h: np.ndarray, threshold: np.ndarray | float) -> np.ndarray:
    return h * (h > threshold)


def top_k(h: np.ndarray, k: int) -> np.ndarray:
    """The k largest, with their sign."""
    kept = np.argsort(-h, axis=1)[:, :k]
    gate = np.zeros_like(h)
    np.put_along_axis(gate, kept, 1, axis=1)
    return h * gate


def write(folder: Path, config: str | None = None, **arrays: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {n.replace("__", "."): np.ascontiguousarray(a) for n, a in (BASE | arrays).items()},
        folder / "layer_3.safetensors",
    )
    if config is not None:
        (folder / "config.yaml").write_text(f"model_kind: transcoder_set\n{config}")
    return folder


def assert_features(sae: SAE, expected: np.ndarray) -> None:
    out, features = sae(X)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)
    assert np.array_equal(features != 0, expected != 0)
    np.testing.assert_allclose(out, expected @ BASE["W_dec"] + BASE["b_dec"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(sae.encode_sparse(X).to_dense(), expected, rtol=1e-4, atol=1e-4)


def test_a_threshold_makes_a_jump_relu(tmp_path, backend):
    sae = SAE.load(write(tmp_path, activation_function__threshold=THRESHOLD), backend=backend)
    assert sae.activation == JumpReLU()
    assert_features(sae, jump_relu(H, THRESHOLD))


def test_one_threshold_is_that_of_all_features(tmp_path):
    for threshold in (np.float32(0.4), np.array([0.4], np.float32)):
        sae = SAE.load(write(tmp_path, activation_function__threshold=np.asarray(threshold)))
        assert_features(sae, jump_relu(H, 0.4))


def test_k_keeps_the_k_largest_with_their_sign(tmp_path, backend):
    sae = SAE.load(write(tmp_path, k=np.array(20)), backend=backend)
    assert sae.activation == TopK(20, relu=False)
    assert (sae.encode(X) < 0).any()
    assert_features(sae, top_k(H, 20))
    again = SAE.load(sae.save(tmp_path / "ours"))
    assert_features(again, top_k(H, 20))


@given(st.integers(1, N))
def test_k_of_config_yaml_is_k(tmp_path_factory, k):
    sae = SAE.load(write(tmp_path_factory.mktemp("t"), f"activation: topk\nk: {k}\n"))
    assert_features(sae, top_k(H, k))


def test_config_yaml_may_lie_above(tmp_path):
    (tmp_path / "config.yaml").write_text("model_kind: transcoder_set\nactivation: topk\nk: 4\n")
    assert SAE.load(write(tmp_path / "layers")).activation == TopK(4, relu=False)
    (tmp_path / "config.yaml").write_text("activation: topk\nk: 4\n")  # of something else
    assert SAE.load(tmp_path / "layers").activation == ReLU()


def test_k_of_the_call_wins_and_a_missing_one_is_asked_for(tmp_path):
    folder = write(tmp_path, "activation: topk\n")
    with pytest.raises(SAEError, match=r"neither it nor .* says k.*SAE\.load\(path, k=128\)"):
        SAE.load(folder)
    assert_features(SAE.load(folder, k=5), top_k(H, 5))
    (folder / "config.yaml").write_text("activation: topk\nscan: facebook/crv-8b-instruct-transcoders\n")
    with pytest.raises(SAEError, match="k is 128"):  # as circuit-tracer has it, too many for this one
        SAE.load(folder)


@pytest.mark.parametrize(
    ("config", "arrays", "message"),
    [
        ("activation: gelu\n", {}, "unknown activation 'gelu'. Known: relu, topk, jumprelu"),
        ("activation: jumprelu\n", {}, r"lacks activation_function\.threshold"),
        ("activation: topk\nk: 3\n", {"k": np.array(4)}, "says k 3, .* holds k 4"),
        (
            "activation: relu\n",
            {"activation_function__threshold": THRESHOLD},
            r"holds activation_function\.threshold",
        ),
        ("activation: topk\nk: 3\n", {"activation_function__threshold": THRESHOLD}, "holds activation_f"),
        ("", {"k": np.array(4), "activation_function__threshold": THRESHOLD}, "holds activation_f"),
        ("", {"log_thresholds": THRESHOLD}, "holds log_thresholds"),
        ("", {"activation_function__threshold": THRESHOLD - 1}, "values below 0"),
        ("activation: topk\nk: 2.5\n", {}, "'k' is 2.5"),
        ("activation: topk\nk: 5\nk: 1\n", {}, "the key 'k' comes twice"),
        ("model_kind: cross_layer_transcoder\n", {}, "comes twice"),
        ("activation: [relu]\n", {}, "expected str"),
    ],
)
def test_what_contradicts_itself_or_is_not_known_is_refused(tmp_path, config, arrays, message):
    with pytest.raises(SAEError, match=message):
        SAE.load(write(tmp_path, config, **arrays))


def test_relu_is_what_is_left(tmp_path):
    assert_features(SAE.load(write(tmp_path)), np.maximum(H, 0))
    assert_features(SAE.load(write(tmp_path, "activation: relu\n")), np.maximum(H, 0))


def test_a_k_that_config_yaml_says_without_topk_is_named(tmp_path):
    with pytest.warns(MlxterpWarning, match=r"config\.yaml: k\)"):
        SAE.load(write(tmp_path, "k: 4\n"))


# -- cross-layer --------------------------------------------------------------------------------


def write_cross_layer(folder: Path, config: str | None = None, **extra: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"W_enc_1": BASE["W_enc"], "b_enc_1": BASE["b_enc"], "b_dec_1": BASE["b_dec"], **extra}
    save_file(arrays, folder / "W_enc_1.safetensors")
    decoder = np.stack([BASE["W_dec"], *[np.zeros_like(BASE["W_dec"])] * (LAYERS - 1)], axis=1)
    save_file({"W_dec_1": decoder}, folder / "W_dec_1.safetensors")
    if config is not None:
        (folder / "config.yaml").write_text(f"model_kind: cross_layer_transcoder\n{config}")
    return folder


def test_a_threshold_of_a_layer_makes_a_cross_layer_jump_relu(tmp_path, backend):
    sae = SAE.load(write_cross_layer(tmp_path, threshold_1=THRESHOLD), backend=backend)
    assert sae.activation == JumpReLU()
    assert_features(sae, jump_relu(H, THRESHOLD))
    assert_features(SAE.load(write_cross_layer(tmp_path / "relu")), np.maximum(H, 0))


@pytest.mark.parametrize(
    ("config", "arrays", "message"),
    [
        ("activation: jump_relu\n", {}, "lacks threshold_1"),
        ("activation: topk\nk: 2\n", {}, "unknown activation 'topk'"),
        ("activation: relu\n", {"threshold_1": THRESHOLD}, "holds threshold_1"),
        ("", {"threshold_2": THRESHOLD}, "holds threshold_2"),
        ("", {"W_skip_1": BASE["W_enc"]}, "holds W_skip_1"),
    ],
)
def test_a_cross_layer_transcoder_of_another_kind_is_refused(tmp_path, config, arrays, message):
    with pytest.raises(SAEError, match=message):
        SAE.load(write_cross_layer(tmp_path, config, **arrays))


@pytest.mark.filterwarnings("error::mlxterp.MlxterpWarning")
def test_what_circuit_tracer_itself_writes_is_read_without_a_warning(tmp_path):
    config = (
        "feature_input_hook: mlp.hook_in\nfeature_output_hook: hook_mlp_out\nmodel_name: Qwen/Qwen3-4B\n"
        "revision: main\nscan: [a, b]\nactivation: topk\nk: 3\nrepo_id: a/b\nsubfolder: null\ntranscoders:\n- hf://a/b/c\n"
    )
    assert SAE.load(write(tmp_path, config)).component == "layers.3.mlp.input"
