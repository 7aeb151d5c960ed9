"""Every wing encodes and decodes as `oracle` says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxterp import available_backends, get_backend
from mlxterp.variants import TopK
from mlxterp.weights import SAEWeights
from tests import oracle


def random_weights(d_model: int, d_hidden: int, seed: int = 0, subtract_b_dec: bool = True) -> SAEWeights:
    rng = np.random.default_rng(seed)
    decoder = rng.standard_normal((d_hidden, d_model)).astype(np.float32)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    b_enc, b_dec = (0.1 * rng.standard_normal(n).astype(np.float32) for n in (d_hidden, d_model))
    return SAEWeights(decoder.T.copy(), b_enc, decoder, b_dec, subtract_b_dec)


def whole_weights(rng: np.random.Generator, d_model: int, d_hidden: int) -> SAEWeights:
    """Small whole numbers: sums are exact in every library, and ties are everywhere."""
    W_enc = rng.integers(-2, 3, (d_model, d_hidden)).astype(np.float32)
    W_dec = rng.integers(-2, 3, (d_hidden, d_model)).astype(np.float32)
    return SAEWeights(W_enc, np.zeros(d_hidden, np.float32), W_dec, np.zeros(d_model, np.float32))


def encode(name: str, x: np.ndarray, weights: SAEWeights, k: int) -> tuple[np.ndarray, np.ndarray]:
    backend = get_backend(name)
    native = backend.put_weights(weights, "cpu" if name == "torch" else None)
    ids, values = backend.encode(backend.put(x), native, TopK(k))
    return backend.get(ids).astype(np.int64), backend.get(values)


def dense(ids: np.ndarray, values: np.ndarray, d_hidden: int) -> np.ndarray:
    out = np.zeros((len(ids), d_hidden), np.float32)
    np.put_along_axis(out, ids, values, axis=1)
    return out


@pytest.mark.parametrize(
    ("d_model", "d_hidden", "k", "n"),
    [(8, 40, 4, 33), (16, 9000, 32, 5), (16, 4096, 200, 6), (8, 4097, 3, 4), (4, 12, 12, 7), (3, 1, 1, 5)],
)
@pytest.mark.parametrize("subtract_b_dec", [True, False])
def test_every_backend_encodes_as_the_oracle(backend, d_model, d_hidden, k, n, subtract_b_dec):
    weights = random_weights(d_model, d_hidden, subtract_b_dec=subtract_b_dec)
    x = np.random.default_rng(1).standard_normal((n, d_model)).astype(np.float32)
    ids, values = encode(backend, x, weights, k)
    expected = oracle.encode(x, weights, k)
    np.testing.assert_allclose(dense(ids, values, d_hidden), expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 300), st.integers(1, 40), st.integers(1, 6))
def test_among_equals_the_lowest_ids_win_exactly(seed, d_hidden, k, n):
    rng = np.random.default_rng(seed)
    weights, x = whole_weights(rng, 3, d_hidden), rng.integers(-2, 3, (n, 3)).astype(np.float32)
    expected = oracle.encode(x, weights, k)
    for name in available_backends():
        ids, values = encode(name, x, weights, k)
        assert np.array_equal(dense(ids, values, d_hidden), expected), name


@pytest.mark.parametrize("k", [1, 5, 64, 300])
def test_ties_are_settled_across_chunks_of_features(backend, k):
    rng = np.random.default_rng(k)
    weights, x = whole_weights(rng, 3, 9001), rng.integers(-2, 3, (20, 3)).astype(np.float32)
    ids, values = encode(backend, x, weights, k)
    assert np.array_equal(dense(ids, values, 9001), oracle.encode(x, weights, k))


def test_rows_come_strongest_first_and_equals_by_id(backend):
    rng = np.random.default_rng(3)
    weights, x = whole_weights(rng, 3, 200), rng.integers(-2, 3, (20, 3)).astype(np.float32)
    ids, values = encode(backend, x, weights, 10)
    for row_ids, row in zip(ids, values, strict=True):
        active = row > 0
        order = list(zip(-row[active], row_ids[active], strict=True))
        assert order == sorted(order)


def test_every_slot_of_a_row_names_another_feature(backend):
    weights = random_weights(4, 30)
    ids, _ = encode(backend, np.zeros((3, 4), np.float32) + weights.b_dec, weights, 30)
    assert all(sorted(row) == list(range(30)) for row in ids.tolist())


def test_a_row_without_positive_pre_activations_has_no_features(backend):
    weights = random_weights(4, 50)
    silent = SAEWeights(weights.W_enc, np.full(50, -100, np.float32), weights.W_dec, weights.b_dec)
    _, values = encode(backend, np.ones((3, 4), np.float32), silent, 5)
    assert not values.any()


def test_minus_zero_is_not_active(backend):
    weights = SAEWeights(
        np.array([[1.0, -1.0]], np.float32), np.zeros(2, np.float32), np.ones((2, 1), np.float32),
        np.zeros(1, np.float32), subtract_b_dec=False,
    )  # fmt: skip
    ids, values = encode(backend, np.array([[-0.0], [0.0], [2.0]], np.float32), weights, 1)
    assert values.ravel().tolist() == [0.0, 0.0, 2.0]
    assert ids[2, 0] == 0


def test_bfloat16_input_accumulates_in_float32(backend):
    wing = get_backend(backend)
    weights = random_weights(64, 2000)
    x = np.random.default_rng(2).standard_normal((9, 64)).astype(np.float32)
    if backend == "mlx":
        import mlx.core as mx

        half = mx.array(x).astype(mx.bfloat16)
    else:
        import torch

        half = torch.tensor(x).bfloat16()
    native = wing.put_weights(weights, "cpu" if backend == "torch" else None)
    ids, values = wing.encode(half, native, TopK(16))
    expected = oracle.encode(wing.get(half), weights, 16)
    np.testing.assert_allclose(
        dense(wing.get(ids).astype(np.int64), wing.get(values), 2000), expected, rtol=1e-4, atol=1e-5
    )


def test_no_rows_give_no_features(backend):
    ids, values = encode(backend, np.zeros((0, 4), np.float32), random_weights(4, 10), 3)
    assert ids.shape == values.shape == (0, 3)


@pytest.mark.parametrize(("n", "d_model"), [(70, 8), (300, 400), (0, 8)])
def test_decoding_pairs_equals_decoding_dense(backend, n, d_model):
    wing = get_backend(backend)
    weights = random_weights(d_model, 60)
    native = wing.put_weights(weights, "cpu" if backend == "torch" else None)
    x = wing.put(np.random.default_rng(4).standard_normal((n, d_model)).astype(np.float32))
    ids, values = wing.encode(x, native, TopK(20))
    features = wing.to_dense(ids, values, 60)
    expected = oracle.decode(wing.get(features), weights)
    np.testing.assert_allclose(wing.get(wing.decode(ids, values, native)), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(wing.get(wing.decode_dense(features, native)), expected, rtol=1e-4, atol=1e-5)


def test_many_rows_are_walked_in_blocks(backend, monkeypatch):
    import importlib

    module = importlib.import_module(f"mlxterp.backends.{backend}.selecting")
    weights = random_weights(6, 50)
    x = np.random.default_rng(5).standard_normal((17, 6)).astype(np.float32)
    expected = encode(backend, x, weights, 4)
    monkeypatch.setattr(module, "CELLS", 150)  # three rows at a time
    monkeypatch.setattr(module, "CHUNK", 16)
    ids, values = encode(backend, x, weights, 4)
    assert np.array_equal(ids, expected[0])
    np.testing.assert_allclose(values, expected[1], rtol=1e-5)
