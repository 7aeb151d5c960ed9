"""Settings that change what an SAE computes: followed, or refused by name; against formulas in plain NumPy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlxterp import SAE, MlxterpWarning, SAEError
from mlxterp.variants import BatchTopK, JumpReLU, ReLU, TopK
from mlxterp.weights import SAEWeights

D, N, OUT = 8, 24, 6
rng = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


W_ENC, B_ENC, W_DEC, B_DEC = numbers(D, N), numbers(N), numbers(N, D), numbers(D)
X = numbers(5, D)


def write(
    folder: Path, config: dict[str, Any], arrays: dict[str, np.ndarray], names: tuple[str, str]
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(json.dumps(config))
    save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, folder / names[1])
    return folder


def saelens(folder: Path, arrays: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    config = {"architecture": "standard", "metadata": {"sae_lens_version": "6.1.0"}} | config
    arrays = {"W_enc": W_ENC, "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC} | (arrays or {})
    return write(folder, config, arrays, ("cfg.json", "sae_weights.safetensors"))


def llamascopium(folder: Path, arrays: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    config = {"sae_type": "sae", "d_model": D, "act_fn": "relu", "hook_point_in": "blocks.1.ln2.x"} | config
    arrays = {"W_E": W_ENC, "b_E": B_ENC, "W_D": W_DEC, "b_D": B_DEC} | (arrays or {})
    return write(folder, config, arrays, ("config.json", "sae_weights.safetensors"))


@pytest.mark.parametrize("normalize", ["layer_norm", "constant_norm_rescale"])
def test_a_transcoder_of_saelens_gives_its_output_as_it_is(tmp_path, normalize):
    arrays = {"W_dec": numbers(N, OUT), "b_dec": numbers(OUT)}
    path = saelens(
        tmp_path / "t", arrays, architecture="transcoder", apply_b_dec_to_input=False, d_out=OUT,
        normalize_activations=normalize,
    )  # fmt: skip
    sae = SAE.load(path)
    out, features = sae(X)
    np.testing.assert_allclose(out, features @ arrays["W_dec"] + arrays["b_dec"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(sae.decode(features), out, rtol=1e-4, atol=1e-4)  # needs no input
    again = SAE.load(sae.save(tmp_path / "again", format="saelens"))
    np.testing.assert_allclose(again(X)[0], out, rtol=1e-4, atol=1e-4)


def test_llamascopium_scales_input_and_output_by_their_own_norms(tmp_path):
    norms = {
        f"dataset_average_activation_norm.{hook}": np.array(value, np.float32)
        for hook, value in (("in", 6.0), ("out", 2.0))
    }
    config = {"norm_activation": "dataset-wise", "hook_point_in": "in", "hook_point_out": "out"}
    sae = SAE.load(llamascopium(tmp_path / "l", norms, **config, sparsity_include_decoder_norm=False))
    s_in, s_out = np.sqrt(D) / 6, np.sqrt(D) / 2
    features = np.maximum(s_in * X @ W_ENC + B_ENC, 0)
    np.testing.assert_allclose(sae.encode(X), features, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(sae.reconstruct(X), (features @ W_DEC + B_DEC) / s_out, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sae_type": "crosscoder"}, "unknown sae_type 'crosscoder'. Known: sae"),
        ({"use_glu_encoder": True}, "gated linear encoder"),
        ({"norm_activation": "batch-wise"}, "unknown norm_activation"),
        ({"act_fn": "gelu"}, "unknown act_fn 'gelu'"),
        ({"use_decoder_bias": False}, "holds b_D"),
    ],
)
def test_llamascopium_settings_that_are_not_known_are_refused(tmp_path, changes, message):
    with pytest.raises(SAEError, match=message):
        SAE.load(llamascopium(tmp_path / "l", **changes))


@pytest.mark.parametrize(
    ("arrays", "changes", "message"),
    [
        ({"threshold": np.abs(B_ENC)}, {}, "holds threshold in sae_weights.safetensors, which a relu SAE"),
        ({"b_gate": B_ENC, "r_mag": B_ENC, "b_mag": B_ENC}, {}, "holds b_gate"),
        ({}, {"normalize_activations": "constant_scalar_rescale"}, "known for temporal SAEs only"),
        ({}, {"reshape_activations": "hook_q"}, "unknown reshape_activations"),
        ({}, {"architecture": "topk", "k": 2.5}, "'k' is 2.5, expected int"),
        ({}, {"d_sae": N + 1}, "the config says"),
    ],
)
def test_saelens_settings_and_arrays_that_disagree_are_refused(tmp_path, arrays, changes, message):
    with pytest.raises(SAEError, match=message):
        SAE.load(saelens(tmp_path / "s", arrays, **changes))


def test_a_gated_sae_is_finetuned_too(tmp_path):
    arrays = {
        "b_gate": B_ENC,
        "b_mag": B_ENC,
        "r_mag": 0.1 * B_ENC,
        "finetuning_scaling_factor": np.abs(B_ENC),
    }
    path = saelens(tmp_path / "g", arrays, architecture="gated", finetuning_scaling_factor=True)
    sae = SAE.load(path)
    out, features = sae(X)
    np.testing.assert_allclose(out, features * np.abs(B_ENC) @ W_DEC + B_DEC, rtol=1e-4, atol=1e-4)


def test_the_nearest_folder_tells_what_an_sae_is(tmp_path):
    arrays = {"W_enc": W_ENC, "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC, "threshold": np.abs(B_ENC)}
    folder = tmp_path / "embedding" / "gemma-scope-2b-pt-res" / "layer_3" / "width_16k" / "average_l0_71"
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **arrays)  # type: ignore[arg-type]
    sae = SAE.load(folder)
    assert sae.component == "layers.3.resid_post"
    np.testing.assert_array_equal(sae.W_enc, W_ENC)
    folder = tmp_path / "transcoder_study" / "resid_post" / "layer_5_width_16k_l0_big"
    folder.mkdir(parents=True)
    save_file(
        {name.lower(): np.ascontiguousarray(a) for name, a in arrays.items()}, folder / "params.safetensors"
    )
    assert SAE.load(folder).metadata.get("component_out") is None


def test_one_bad_file_does_not_hide_an_sae(tmp_path):
    saelens(tmp_path / "run" / "sae")
    (tmp_path / "run" / "optimizer.pt").write_bytes(b"not a file of torch")
    assert SAE.load(tmp_path / "run").activation == ReLU()


def test_saving_does_not_replace_another_librarys_sae(tmp_path):
    llamascopium(tmp_path / "theirs")
    sae = SAE.load(tmp_path / "theirs")
    with pytest.raises(SAEError, match="would be overwritten"):
        sae.save(tmp_path / "theirs")
    ours = sae.save(tmp_path / "ours")
    (ours / ".DS_Store").write_text("")
    assert sae.save(ours) == ours


def test_a_k_that_is_not_used_is_said(tmp_path):
    with pytest.warns(MlxterpWarning, match="k=3 was not used"):
        SAE.load(saelens(tmp_path / "s"), k=3)
    assert SAE.load(saelens(tmp_path / "t", architecture="topk", k=2), k=np.int64(3)).k == 3  # type: ignore[arg-type]


def test_yaml_that_refers_to_itself_is_refused(tmp_path):
    folder = write(tmp_path / "t", {}, {"D": W_DEC, "b": B_DEC}, ("unused.json", "latest_ckpt.safetensors"))
    (folder / "conf.yaml").write_text("a: &a [1, 1]\nsae: {n_heads: *a}\n")
    with pytest.raises(SAEError, match="alias"):
        SAE.load(folder)


@pytest.mark.filterwarnings("ignore:This BatchTopK SAE")
def test_no_rows_have_no_features(backend):
    threshold = {"threshold": np.abs(B_ENC)}
    for activation, extra in ((BatchTopK(3), {}), (ReLU(), {}), (JumpReLU(), threshold), (TopK(2), {})):
        sae = SAE(SAEWeights(W_ENC, B_ENC, W_DEC, B_DEC, extra=extra), activation, backend=backend)
        assert sae.encode(X[:0]).shape == (0, N)
        assert sae.encode_sparse(X[:0]).n == 0
        assert sae.reconstruct(X[:0]).shape == (0, D)


def test_features_beyond_float32_are_refused(backend):
    sae = SAE(SAEWeights(W_ENC, B_ENC, W_DEC, B_DEC), ReLU(), backend=backend)
    with pytest.raises(SAEError, match="not finite"), np.errstate(over="ignore"):
        sae.encode(np.full((2, D), 3e38, np.float32))


def test_no_gradient_flows_through_an_sae_in_part():
    torch = pytest.importorskip("torch")
    weights = SAEWeights(W_ENC, B_ENC, W_DEC, B_DEC, subtract_b_dec=False, extra={"W_skip": numbers(D, D)})
    out, features = SAE(weights, ReLU(), backend="torch", device="cpu")(torch.tensor(X, requires_grad=True))
    assert not out.requires_grad and not features.requires_grad
