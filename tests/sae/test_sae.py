"""`SAE`: features and back in either library, and on disk."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlxterp
from mlxterp import SAE, BackendError, InputError, SAEError, SparseFeatures
from mlxterp.sae import explained_variance
from mlxterp.variants import JumpReLU, TopK
from mlxterp.weights import NAMES, SAEWeights
from tests import oracle


def make_weights(d_model: int = 8, d_hidden: int = 40, d_out: int | None = None, seed: int = 0) -> SAEWeights:
    rng = np.random.default_rng(seed)
    shapes = [(d_model, d_hidden), (d_hidden,), (d_hidden, d_out or d_model), (d_out or d_model,)]
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    return SAEWeights(*arrays, subtract_b_dec=d_out is None)


def make_sae(backend: str | None = None, k: int = 5, metadata: dict | None = None, **sizes) -> SAE:
    device = "cpu" if backend == "torch" else None
    return SAE(make_weights(**sizes), TopK(k), metadata, backend=backend, device=device)


def activations(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def native(backend: str, x: np.ndarray):
    return mlxterp.get_backend(backend).put(x)


# -- features and back --------------------------------------------------------------------------


def test_encoding_and_decoding_are_as_the_oracle_says(backend):
    sae, weights, x = make_sae(backend), make_weights(), activations(30, 8)
    features = oracle.encode(x, weights, 5)
    np.testing.assert_allclose(sae.encode(x), features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sae.encode_sparse(x).to_dense(), features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sae.decode(features), oracle.decode(features, weights), rtol=1e-4, atol=1e-4)


def test_sparse_features_decode_as_dense_ones(backend):
    sae, x = make_sae(backend), activations(30, 8)
    sparse, dense = sae.decode(sae.encode_sparse(x)), sae.decode(sae.encode(x))
    np.testing.assert_allclose(sparse, dense, rtol=1e-4, atol=1e-4)


def test_sparse_features_beyond_the_sae_are_not_decoded(backend):
    sae = make_sae(backend)
    for bad in (-1, sae.d_hidden):
        features = SparseFeatures(
            np.array([0, 1]), np.array([bad], np.int32), np.ones(1, np.float32), sae.d_hidden
        )
        with pytest.raises(InputError, match=f"id {bad}, which is outside"):
            sae.decode(features)


def test_rows_of_unequal_length_decode_too(backend):
    sae = make_sae(backend)
    dense = np.zeros((3, 40), np.float32)
    dense[0, [1, 7, 39]], dense[2, 4] = 2.0, -1.0
    expected = oracle.decode(dense, make_weights())
    np.testing.assert_allclose(sae.decode(SparseFeatures.from_dense(dense)), expected, rtol=1e-4, atol=1e-5)


def test_calling_gives_reconstruction_and_features(backend):
    sae, x = make_sae(backend), activations(4, 3, 8)
    reconstruction, features = sae(x)
    assert (reconstruction.shape, features.shape) == ((4, 3, 8), (4, 3, 40))
    np.testing.assert_array_equal(features, sae.encode(x))
    np.testing.assert_allclose(reconstruction, sae.decode(features), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(reconstruction, sae.reconstruct(x))


def test_a_native_array_gives_a_native_array_of_the_same_library(backend):
    other = "torch" if backend == "mlx" else "mlx"
    for sae in (make_sae(backend), make_sae(other)):
        x = native(backend, activations(2, 3, 8))
        kind = mlxterp.get_backend(backend).array_type
        features = sae.encode(x)
        assert isinstance(features, kind)
        assert tuple(features.shape) == (2, 3, 40)
        assert all(isinstance(out, kind) for out in (sae.decode(features), *sae(x)))
        assert isinstance(sae.encode_sparse(x), SparseFeatures)


def test_numpy_in_gives_numpy_out_whatever_its_numbers_are(backend):
    sae = make_sae(backend)
    for dtype in (np.float16, np.float32, np.float64, np.int64):
        features = sae.encode(activations(5, 8).astype(dtype))
        assert isinstance(features, np.ndarray)
        assert features.dtype == np.float32


def test_one_token_alone_is_encoded_as_in_a_batch(backend):
    sae, x = make_sae(backend), activations(6, 8)
    assert sae.encode(x[0]).shape == (40,)
    np.testing.assert_allclose(sae.encode(x[0]), sae.encode(x)[0], rtol=1e-5)
    assert sae.encode(x[:0]).shape == (0, 40)
    assert sae.encode_sparse(x[:0]).n == 0


def test_both_backends_find_the_same_features():
    x = activations(50, 8)
    mlx, torch = (make_sae(name).encode_sparse(x) for name in ("mlx", "torch"))
    assert np.array_equal(mlx.indices, torch.indices)
    np.testing.assert_allclose(mlx.values, torch.values, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12))
def test_at_most_k_features_are_active_and_none_is_stored_as_zero(seed, k):
    features = make_sae(k=k, seed=seed).encode_sparse(activations(6, 8, seed=seed))
    assert (np.diff(features.indptr) <= k).all()
    assert (features.values > 0).all()


def test_a_transcoder_may_be_wider_on_one_side(backend):
    sae = make_sae(backend, d_out=11)
    assert (sae.d_model, sae.d_out, sae.reconstruct(activations(2, 8)).shape) == (8, 11, (2, 11))


def test_heads_are_joined_for_an_sae_of_z(backend):
    x = activations(3, 2, 4)
    sae = make_sae(backend, metadata={"component": "layers.0.attn.z"})
    np.testing.assert_array_equal(sae.encode(x), sae.encode(x.reshape(3, 8)))
    for metadata in ({}, {"component": "layers.0.mlp"}):
        with pytest.raises(SAEError, match="width 8"):
            make_sae(backend, metadata=metadata).encode(x)


# -- what it refuses ----------------------------------------------------------------------------


def test_another_width_is_refused_with_both_widths():
    sae = make_sae(metadata={"component": "layers.3.mlp"})
    with pytest.raises(SAEError, match=r"width 8 .* shape \(2, 9\).* layers\.3\.mlp"):
        sae.encode(activations(2, 9))
    with pytest.raises(SAEError, match=r"\(…, 40\), got 41"):
        sae.decode(activations(2, 41))
    with pytest.raises(SAEError, match=r"\(…, 40\), got 1 of them"):
        sae.decode([1.0])
    with pytest.raises(SAEError, match="holds text; expected real numbers"):
        sae.decode("ones")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_activations_that_are_not_finite_are_refused(backend, bad):
    x = activations(4, 8)
    x[2, 3] = bad
    with pytest.raises(SAEError, match="NaN or infinite"):
        make_sae(backend).encode_sparse(x)


@pytest.mark.parametrize("k", [0, -1, 41, 2.0, True])
def test_k_lies_between_1_and_d_hidden(k):
    with pytest.raises(SAEError, match="from 1 to 40"):
        SAE(make_weights(), TopK(k))


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_another_shape_or_not_finite_are_refused(name):
    weights = make_weights()
    arrays = {n: getattr(weights, n) for n in NAMES}
    with pytest.raises(SAEError, match=r"has shape|cannot be subtracted"):
        SAEWeights(**arrays | {name: arrays[name][1:]})
    broken = arrays[name].copy()
    broken.flat[0] = np.nan
    with pytest.raises(SAEError, match=f"1 of {broken.size} numbers in {name}"):
        SAE(SAEWeights(**arrays | {name: broken}), TopK(3))


# -- values that stay ---------------------------------------------------------------------------


def test_weights_are_float32_read_only_and_stay_the_same_after_use(backend):
    weights = make_weights()
    sae = make_sae(backend)
    sae.encode(activations(2, 8))
    for name in NAMES:
        array = getattr(sae, name)
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, getattr(weights, name))
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_the_arrays_given_are_not_kept():
    weights = make_weights()
    sae = SAE(weights, TopK(3))
    weights.W_dec[:] = 0
    assert sae.W_dec.any()


def test_a_fingerprint_changes_with_weights_and_k_and_with_nothing_else(backend):
    sae = make_sae(backend)
    assert sae.fingerprint == make_sae(metadata={"model": "x"}).fingerprint
    sae.encode(activations(2, 8))
    assert sae.on("torch", "cpu").fingerprint == sae.fingerprint
    assert sae.fingerprint != make_sae(k=6).fingerprint
    assert sae.fingerprint != make_sae(seed=1).fingerprint


def test_on_chooses_the_backend_for_numpy_input(backend):
    sae = make_sae().on(backend)
    assert sae.backend == backend
    np.testing.assert_allclose(sae.encode(activations(3, 8)), make_sae().encode(activations(3, 8)), rtol=1e-4)
    with pytest.raises(InputError, match="No backend 'jax'"):
        sae.on("jax")


@pytest.mark.parametrize(("name", "device"), [("torch", "nonsense"), ("mlx", "cuda:7")])
def test_a_device_that_is_not_there_is_named(name, device):
    if name not in mlxterp.available_backends():
        pytest.skip(f"{name} is not installed")
    with pytest.raises(mlxterp.BackendError, match=device):
        make_sae().on(name, device).encode(activations(2, 8))


def test_explained_variance_is_one_for_a_perfect_sae_and_zero_for_the_mean(backend):
    eye, zero = np.eye(4, dtype=np.float32), np.zeros(4, np.float32)
    x = np.abs(activations(50, 4))
    perfect = SAE(SAEWeights(eye, zero, eye, zero), TopK(4), backend=backend)
    assert explained_variance(perfect, x) == pytest.approx(1, abs=1e-6)
    constant = SAE(SAEWeights(eye, zero - 1e6, eye, x.mean(axis=0)), TopK(4), backend=backend)
    assert explained_variance(constant, x) == pytest.approx(0, abs=1e-5)
    assert explained_variance(perfect, native(backend, x)) == pytest.approx(1, abs=1e-6)
    with pytest.raises(InputError, match="no variance"):
        explained_variance(perfect, x[[0, 0]])


# -- on disk ------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["", "sae.safetensors", "config.json"])
def test_what_was_saved_loads_from_the_folder_or_either_file(tmp_path, backend, part):
    sae = make_sae(backend, metadata={"component": "layers.1.mlp", "training": {"steps": np.int64(3)}})
    sae.encode(activations(2, 8))
    folder = sae.save(tmp_path / "new" / "sae.mlx")
    loaded = SAE.load(folder / part, backend=backend)
    assert (loaded.fingerprint, loaded.k, loaded.component) == (sae.fingerprint, 5, "layers.1.mlp")
    assert loaded.metadata["training"] == {"steps": 3}
    np.testing.assert_array_equal(loaded.encode(activations(3, 8)), sae.encode(activations(3, 8)))


def test_a_transcoder_comes_back_as_one(tmp_path):
    sae = make_sae(d_out=11)
    loaded = SAE.load(sae.save(tmp_path / "t"))
    assert not loaded.subtract_b_dec
    assert loaded.fingerprint == sae.fingerprint


def test_float16_halves_the_file_and_loads_as_the_rounded_float32(tmp_path, backend):
    sae = make_sae(backend, metadata={"component": "layers.1.mlp"})
    half, whole = sae.save(tmp_path / "half", dtype="float16"), sae.save(tmp_path / "whole")
    loaded = SAE.load(half, backend=backend)
    for name, array in sae.weights.arrays().items():
        kept = getattr(loaded, name)
        assert kept.dtype == np.float32
        np.testing.assert_array_equal(kept, array.astype(np.float16))
    small, large = ((folder / "sae.safetensors").stat().st_size for folder in (half, whole))
    numbers = sum(array.size for array in sae.weights.arrays().values())
    assert large - small == pytest.approx(2 * numbers, abs=8)  # safetensors pads its header to 8 bytes
    assert (loaded.k, loaded.component) == (5, "layers.1.mlp")
    np.testing.assert_array_equal(sae.W_enc, make_sae().W_enc)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_what_float16_changes_in_pre_activations_is_at_most_its_rounding(tmp_path_factory, seed):
    sae = make_sae(k=40, seed=seed)
    loaded = SAE.load(sae.save(tmp_path_factory.mktemp("half") / "sae", dtype="float16"))
    x = activations(6, 8, seed=seed)
    error = np.abs(x) @ np.abs(sae.W_enc) + np.abs(sae.b_dec) @ np.abs(sae.W_enc) * 2 + np.abs(sae.b_enc)
    assert (np.abs(loaded.encode(x) - sae.encode(x)) <= error * 2.0**-10 + 1e-5).all()


def test_a_threshold_is_kept_in_float16_too(tmp_path):
    threshold = np.linspace(0.1, 2, 40, dtype=np.float32)
    sae = SAE(replace(make_weights(), extra={"threshold": threshold}), JumpReLU())
    loaded = SAE.load(sae.save(tmp_path / "sae", dtype="float16"))
    np.testing.assert_array_equal(loaded.weights.extra["threshold"], threshold.astype(np.float16))


def test_a_weight_outside_float16_is_refused_by_name_and_nothing_is_written(tmp_path):
    weights = make_weights()
    weights.b_enc[3] = -65_520  # the first number that rounds to infinity
    sae = SAE(weights, TopK(5))
    with pytest.raises(SAEError, match=r"1 of 40 numbers in b_enc lie outside float16's range.*float32"):
        sae.save(tmp_path / "sae", dtype="float16")
    assert not os.listdir(tmp_path)
    weights.b_enc[3] = -65_519
    loaded = SAE.load(SAE(weights, TopK(5)).save(tmp_path / "sae", dtype="float16"))
    assert loaded.b_enc[3] == -65_504


def test_other_dtypes_and_float16_in_another_format_are_refused(tmp_path):
    with pytest.raises(SAEError, match=r"Unknown dtype 'int8'.*float32, float16"):
        make_sae().save(tmp_path / "sae", dtype="int8")
    with pytest.raises(SAEError, match="float16 is for format='mlxterp'"):
        make_sae().save(tmp_path / "sae", format="saelens", dtype="float16")
    assert not os.listdir(tmp_path)


def test_saved_files_can_be_read_by_others(tmp_path):
    folder = make_sae().save(tmp_path / "sae")
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "sae.safetensors"]
    assert {stat.S_IMODE(os.stat(p).st_mode) for p in folder.iterdir()} == {0o644}
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o755


def test_saving_again_replaces_and_leaves_nothing_else(tmp_path):
    make_sae().save(tmp_path / "sae")
    sae = make_sae(seed=9)
    sae.save(tmp_path / "sae")
    assert SAE.load(tmp_path / "sae").fingerprint == sae.fingerprint
    assert os.listdir(tmp_path) == ["sae"]


def test_a_save_that_fails_leaves_the_old_sae_as_it_was(tmp_path, monkeypatch):
    first = make_sae()
    first.save(tmp_path / "sae")
    with pytest.raises(SAEError, match="JSON"):
        make_sae(seed=2, metadata={"bad": object()}).save(tmp_path / "sae")
    real, calls = os.replace, []

    def fails_the_second_time(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError("disk full")
        real(source, target)

    monkeypatch.setattr(os, "replace", fails_the_second_time)
    with pytest.raises(OSError, match="disk full"):
        make_sae(seed=2).save(tmp_path / "sae")
    assert SAE.load(tmp_path / "sae").fingerprint == first.fingerprint
    assert os.listdir(tmp_path) == ["sae"]


def test_other_peoples_files_are_not_overwritten(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("dear diary")
    (tmp_path / "file").write_text("x")
    for name in ("notes", "file"):
        with pytest.raises(SAEError, match="would be overwritten"):
            make_sae().save(tmp_path / name)
    with pytest.raises(SAEError, match="saved as a folder"):
        make_sae().save(tmp_path / "sae.safetensors")


def _edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "saelens"}, "not an SAE in a format that mlxterp knows"),
        ({"version": 3}, "version 3"),
        ({"activation": {"name": "fancy"}}, "Unknown activation 'fancy'.*topk"),
        ({"activation": {"name": "topk"}}, "topk takes k, relu"),
        ({"activation": {"name": "topk", "k": 41}}, "k is 41"),
        ({"activation": {"name": "jumprelu"}}, "lacks threshold"),
        ({"activation": None}, "lacks 'activation'"),
        ({"form": {"normalise": 1}}, "form is"),
        ({"d_hidden": 41}, r"W_enc has shape \(8, 40\), expected \(8, 41\)"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path, changes, message):
    folder = make_sae().save(tmp_path / "sae")
    _edit_config(folder, **changes)
    with pytest.raises(SAEError, match=message):
        SAE.load(folder)


def test_damaged_files_are_refused(tmp_path):
    folder = make_sae().save(tmp_path / "sae")
    whole = (folder / "sae.safetensors").read_bytes()
    for damaged in (whole[:-4], b"", b"not safetensors at all"):
        (folder / "sae.safetensors").write_bytes(damaged)
        with pytest.raises(SAEError, match="damaged"):
            SAE.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(SAEError, match="damaged"):
        SAE.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("b_enc"), "lacks b_enc"),
        (lambda arrays: arrays.update(W_dec=arrays["W_dec"].T.copy()), "W_dec has shape"),
        (lambda arrays: arrays.update(b_dec=arrays["b_dec"] * 2), "checksum differs"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, message):
    from safetensors.numpy import load_file, save_file

    folder = make_sae().save(tmp_path / "sae")
    arrays = load_file(folder / "sae.safetensors")
    change(arrays)
    save_file(arrays, folder / "sae.safetensors")
    with pytest.raises(SAEError, match=message):
        SAE.load(folder)


def test_what_is_no_sae_is_refused_with_what_was_found(tmp_path):
    with pytest.raises(SAEError, match="no such file"):
        SAE.load(tmp_path / "nowhere")
    (tmp_path / "cfg.json").write_text("{}")
    with pytest.raises(SAEError, match=r"it holds: cfg\.json.*Known are mlxterp: config\.json"):
        SAE.load(tmp_path)
    with pytest.raises(SAEError, match=r"does not look like saelens \(cfg.json \+ sae_weights"):
        SAE.load(tmp_path, format="saelens")
    with pytest.raises(SAEError, match=r"Unknown format 'gguf'. Known: mlxterp, saelens"):
        SAE.load(tmp_path, format="gguf")


def test_another_k_can_be_asked_for_while_loading(tmp_path):
    folder = make_sae().save(tmp_path / "sae")
    assert SAE.load(folder, k=2).k == 2
    with pytest.raises(SAEError, match="from 1 to 40"):
        SAE.load(folder, k=99)


@pytest.mark.parametrize("wing", ["mlx", "torch"])
def test_arrays_of_any_layout_are_taken(wing):
    sae, x = make_sae(wing), activations(4, 8)
    expected = sae.encode(x)
    assert np.allclose(sae.encode(x[::-1]), expected[::-1])  # a row's last bits may depend on its place
    assert np.array_equal(sae.encode(x.astype(">f4")), expected)
    assert np.array_equal(sae.encode(np.ma.array(x)), expected)
    with pytest.raises(SAEError, match="masked numbers"):
        sae.encode(np.ma.array(x, mask=x > 1))


def test_numbers_of_numpy_are_settings_and_tables_are_weights():
    w = make_weights()
    two: Any = np.int64(2)
    assert SAE(w, TopK(two)).k == 2
    pd = pytest.importorskip("pandas")
    tables = SAEWeights(
        pd.DataFrame(w.W_enc), pd.Series(w.b_enc), pd.DataFrame(w.W_dec), pd.Series(w.b_dec), w.subtract_b_dec
    )
    assert SAE(tables, TopK(2)).fingerprint == SAE(w, TopK(2)).fingerprint


@pytest.mark.parametrize("wing", ["mlx", "torch"])
def test_a_device_that_is_not_there_is_refused_at_once(wing, tmp_path):
    make_sae().save(tmp_path / "sae")
    with pytest.raises(BackendError, match="device"):
        SAE.load(tmp_path / "sae", backend=wing, device="nosuch")
