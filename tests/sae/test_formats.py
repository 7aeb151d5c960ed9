"""SAEs that other libraries wrote, with their own outputs: every format, in both wings."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxterp import SAE, MlxterpWarning, SAEError
from mlxterp.sae import FORMATS
from mlxterp.variants import BatchTopK, JumpReLU, TopK
from mlxterp.weights import SAEWeights

SHARED = Path(__file__).resolve().parents[3] / "shared" / "fixtures" / "sae"
torch = pytest.importorskip("torch", reason="many of these files are PyTorch's")


@cache
def manifest() -> dict[str, dict[str, Any]]:
    if not SHARED.is_dir():
        return {}
    return {f["name"]: f for f in json.loads((SHARED / "MANIFEST.json").read_text())["fixtures"]}


NAMES = sorted(manifest()) or [pytest.param("", marks=pytest.mark.skip(reason=f"{SHARED} is not here"))]
NOT_IN_THE_FILE = {"hub_qwen_scope": {"k": 5}, "hub_llama_scope_r1": {"norm_scaling_factor": 0.9}}
"""Numbers that a format does not store: part of a repository's name, or of SAELens's registry."""
ANOTHER_READING = {"hub_llama_scope"}
"""SAELens's features there are larger by sqrt(d_model) / norm than those of the SAE's own library."""
needs_fixtures = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here")


def io_of(name: str) -> dict[str, np.ndarray]:
    with np.load(SHARED / name / "io.npz") as file:
        return {key: file[key] for key in file.files}


def load(name: str, backend: str | None = None, **options) -> SAE:
    device = "cpu" if backend == "torch" else None
    return SAE.load(SHARED / name, backend=backend, device=device, **NOT_IN_THE_FILE.get(name, {}), **options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:This BatchTopK SAE")
def test_features_and_reconstruction_are_those_of_the_library_that_wrote_it(name, backend):
    io, sae = io_of(name), load(name, backend)
    x = io["x"]
    features, reconstruction = (
        io.get(f"{key}_inference", io[key]) for key in ("features", "recon")
    )  # a training checkpoint is read as what it is exported as
    out, found = sae(x)
    if name not in ANOTHER_READING:
        assert np.array_equal(found != 0, features != 0)
        assert np.abs(found - features).max() < 2e-4
    assert np.abs(out - reconstruction).max() < 1e-3
    sparse = sae.encode_sparse(x)
    np.testing.assert_allclose(sparse.to_dense(), found.reshape(-1, sae.d_hidden), atol=2e-4)
    assert np.abs(sae.decode(sparse, like=x).reshape(out.shape) - out).max() < 1e-3
    assert np.abs(sae.reconstruct(x) - out).max() < 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:This BatchTopK SAE")
def test_it_is_the_same_sae_after_saving_and_loading(name, tmp_path):
    sae, x = load(name), io_of(name)["x"]
    again = SAE.load(sae.save(tmp_path / "sae"))
    assert again.fingerprint == sae.fingerprint
    assert again.component == sae.component
    for ours, theirs in zip(again(x), sae(x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)  # a BLAS rounds by memory layout


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_is_moved_and_renamed_loads_too(name, tmp_path):
    """But for what only a path says: the embedding's scale, k of Qwen Scope."""
    fixture = manifest()[name]
    source = SHARED / name / fixture.get("subdir", "")
    files = [p for p in source.rglob("*") if p.is_file() and p.name != "io.npz"]
    folder = max({p.parent for p in files}, key=lambda p: len(p.parts))
    if folder.name == "checkpoints":
        folder = folder.parent
    shutil.copytree(folder, tmp_path / "x", ignore=shutil.ignore_patterns("io.npz"))
    sae = SAE.load(tmp_path / "x", **NOT_IN_THE_FILE.get(name, {}))
    assert sae.metadata["format"] == load(name).metadata["format"]
    assert sae.d_hidden == fixture["d_sae"]


@needs_fixtures
def test_an_l0_in_a_parents_name_is_k_of_a_qwen_scope_sae(tmp_path):
    with pytest.raises(SAEError, match=r"k=50"):
        SAE.load(SHARED / "hub_qwen_scope")
    folder = tmp_path / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_5"
    shutil.copytree(SHARED / "hub_qwen_scope", folder)
    assert SAE.load(folder / "layer3.sae.pt").k == 5
    assert SAE.load(folder).component == "layers.3.resid_post"


@needs_fixtures
def test_a_missing_scale_is_not_passed_over_in_silence():
    with pytest.warns(MlxterpWarning, match="norm_scaling_factor="):
        SAE.load(SHARED / "hub_llama_scope_r1")


@needs_fixtures
def test_other_readings_of_dictionary_learning_can_be_asked_for():
    io, sae = io_of("dictionary_learning_autoencoder"), load("dictionary_learning_autoencoder")
    assert np.abs(sae.encode(io["x"]) - io["features"]).max() < 2e-4
    raw = load("dictionary_learning_autoencoder", format="dictionary_learning_unnormalized")
    assert np.abs(raw.encode(io["x"]) - io["features_unnormalized"]).max() < 2e-4
    io, sae = io_of("dictionary_learning_topk"), load("dictionary_learning_topk")
    threshold = np.full(sae.d_hidden, sae.metadata["threshold"], np.float32)
    w = sae.weights
    weights = SAEWeights(w.W_enc, w.b_enc, w.W_dec, w.b_dec, extra={"threshold": threshold})
    assert np.abs(SAE(weights, JumpReLU()).encode(io["x"]) - io["features_threshold"]).max() < 2e-4
    io, sae = io_of("dictionary_learning_batchtopk"), load("dictionary_learning_batchtopk")
    with pytest.warns(MlxterpWarning, match="BatchTopK"):
        by_batch = SAE(sae.weights, BatchTopK(5)).encode(io["x"])
    assert np.abs(by_batch - io["features_batchtopk"]).max() < 2e-4


@needs_fixtures
def test_the_hook_is_a_component_whatever_the_library_calls_it():
    known = {
        "saelens_standard": "layers.3.resid_pre",
        "saelens_standard_hookz": "layers.3.attn.z",
        "sparsify_topk": "layers.3.resid_post",
        "dictionary_learning_topk": "layers.3.resid_post",
        "hub_gemma_scope2_resid": "layers.3.resid_post",
        "hub_gemma_scope_embedding": "embed",
        "hub_circuit_tracer_transcoder": "layers.3.mlp.input",
        "hub_goodfire": "layers.19.resid_post",
        "microw_topk": "layers.3.resid_post",
        "mlxterp_topk": "layers.3.mlp",
        "openmoss_v2_topk": "layers.3.resid_post",
    }
    assert {name: load(name).component for name in known} == known
    assert load("saelens_skip_transcoder").metadata["component_out"] == "layers.3.mlp_out"


@needs_fixtures
def test_a_format_can_be_named_and_a_wrong_one_is_refused():
    assert "saelens" in FORMATS
    assert load("saelens_topk", format="saelens").activation == TopK(5)
    with pytest.raises(
        SAEError, match=r"does not look like sparsify \(cfg\.json \+ sae\.safetensors\); it holds"
    ):
        load("saelens_topk", format="sparsify")


@needs_fixtures
def test_a_folder_of_several_saes_asks_for_one(tmp_path):
    for name in ("a", "b"):
        shutil.copytree(SHARED / "saelens_topk", tmp_path / name)
    with pytest.raises(SAEError, match="holds 2 SAEs: a, b"):
        SAE.load(tmp_path)


def test_bfloat16_weights_are_read(tmp_path):
    from safetensors.torch import save_file

    rng = np.random.default_rng(0)
    arrays = {
        name: torch.tensor(rng.standard_normal(shape)).bfloat16()
        for name, shape in {"W_enc": (4, 9), "b_enc": (9,), "W_dec": (9, 4), "b_dec": (4,)}.items()
    }
    save_file(arrays, tmp_path / "sae_weights.safetensors")
    config = {
        "architecture": "topk",
        "k": 2,
        "d_in": 4,
        "d_sae": 9,
        "metadata": {"sae_lens_version": "6.1.0"},
    }
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    sae = SAE.load(tmp_path)
    for name, array in arrays.items():
        assert np.array_equal(getattr(sae, name), array.float().numpy())


@pytest.mark.parametrize("k", [5, np.int32(5), np.array(5)])
def test_settings_of_a_file_are_numbers_of_any_library(k, shared):
    assert SAE.load(shared / "fixtures/sae/hub_qwen_scope", k=k).activation == TopK(5)
    scaled = shared / "fixtures/sae/hub_llama_scope_r1"
    expected = SAE.load(scaled, norm_scaling_factor=0.5).W_enc
    for scale in (np.float32(0.5), np.array(0.5)):
        assert np.array_equal(SAE.load(scaled, norm_scaling_factor=scale).W_enc, expected)  # type: ignore[arg-type]
    for bad in (0.0, float("nan"), float("inf"), "1", True):
        with pytest.raises(SAEError, match="norm_scaling_factor is"):
            SAE.load(scaled, norm_scaling_factor=bad)  # type: ignore[arg-type]
