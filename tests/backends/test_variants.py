"""Every variant, in every wing, dense and sparse, as `oracle` says."""

from __future__ import annotations

import importlib
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxterp import SAE, MlxterpWarning, SAEError, available_backends
from mlxterp.variants import (
    AbsTopK,
    Activation,
    BatchTopK,
    Gated,
    GroupMax,
    InputForm,
    JumpReLU,
    ReLU,
    TanhReLU,
    TopK,
    activation_from_dict,
    activation_to_dict,
)
from mlxterp.weights import SAEWeights
from tests import oracle

VARIANTS = [
    ReLU(), TanhReLU(), Gated(), JumpReLU(), TopK(3), TopK(3, relu=False), AbsTopK(3), GroupMax(4), BatchTopK(3),
]  # fmt: skip


def weights_for(
    activation: Activation,
    rng: np.random.Generator,
    d: int,
    n: int,
    whole: bool = False,
    scaled: bool = False,
) -> SAEWeights:
    """Random weights; with `whole`, small whole numbers: exact sums, ties everywhere."""

    def numbers(*shape: int) -> np.ndarray:
        drawn = rng.integers(-2, 3, shape) if whole else rng.standard_normal(shape)
        return drawn.astype(np.float32)

    extra = {}
    if isinstance(activation, JumpReLU):
        extra["threshold"] = np.abs(numbers(n))
    if isinstance(activation, Gated):
        extra |= {"gate_scale": np.exp(numbers(n)), "b_mag": numbers(n)}
    if scaled:
        extra["value_scale"] = np.abs(numbers(n)) + 1
    return SAEWeights(numbers(d, n), numbers(n), numbers(n, d), numbers(d), bool(rng.integers(2)), extra)


def quietly(function, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MlxterpWarning)
        return function(*args)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(VARIANTS),
    st.integers(0, 2**31),
    st.integers(1, 5),
    st.integers(1, 12),
    st.booleans(),
    st.booleans(),
)
def test_dense_and_sparse_features_of_both_wings_are_those_of_the_oracle(
    activation, seed, rows, groups, whole, scaled
):
    rng = np.random.default_rng(seed)
    weights = weights_for(activation, rng, 4, 4 * groups, whole, scaled)
    x = (rng.integers(-2, 3, (rows, 4)) if whole else rng.standard_normal((rows, 4))).astype(np.float32)
    expected = oracle.features(x, weights, activation)
    for backend in available_backends():
        sae = SAE(weights, activation, backend=backend, device="cpu" if backend == "torch" else None)
        dense, sparse = quietly(sae.encode, x), quietly(sae.encode_sparse, x)
        np.testing.assert_allclose(dense, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(sparse.to_dense(), expected, rtol=1e-4, atol=1e-5)
        assert np.array_equal(dense != 0, sparse.to_dense() != 0)
        if whole and not isinstance(activation, (TanhReLU, Gated)):
            assert np.array_equal(dense, expected)


@pytest.mark.parametrize("activation", VARIANTS, ids=lambda a: a.name)
def test_walking_in_small_pieces_changes_nothing(activation, backend, monkeypatch):
    rng = np.random.default_rng(3)
    weights, x = weights_for(activation, rng, 4, 40), rng.standard_normal((17, 4)).astype(np.float32)
    sae = SAE(weights, activation, backend=backend)
    dense, back = quietly(sae.encode, x), quietly(sae.reconstruct, x)
    module = importlib.import_module(f"mlxterp.backends.{backend}.selecting")
    monkeypatch.setattr(module, "CELLS", 64)
    monkeypatch.setattr(module, "CHUNK", 16)
    np.testing.assert_allclose(quietly(sae.encode_sparse, x).to_dense(), dense, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(quietly(sae.reconstruct, x), back, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", VARIANTS, ids=lambda a: a.name)
def test_every_way_back_gives_the_same_reconstruction(activation, backend):
    rng = np.random.default_rng(4)
    weights, x = weights_for(activation, rng, 6, 40), rng.standard_normal((9, 6)).astype(np.float32)
    sae = SAE(weights, activation, backend=backend)
    out, features = quietly(sae, x)
    expected = oracle.decode(oracle.features(x, weights, activation), weights)
    for found in (
        out, quietly(sae.reconstruct, x), sae.decode(features), sae.decode(quietly(sae.encode_sparse, x)),
    ):  # fmt: skip
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalize", ["none", "layer_norm", "constant_norm"])
@pytest.mark.parametrize("center", [False, True])
def test_a_normalisation_of_each_token_is_done_and_undone(backend, normalize, center):
    rng = np.random.default_rng(5)
    form, activation = InputForm(normalize, center), TopK(4)
    weights, x = weights_for(activation, rng, 6, 30), rng.standard_normal((5, 6)).astype(np.float32) + 2
    sae = SAE(weights, activation, form=form, backend=backend)
    inside, scale, shift = oracle.normalize(x, form)
    features = oracle.features(inside, weights, activation)
    out, found = sae(x)
    np.testing.assert_allclose(found, features, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(out, oracle.decode(features, weights) * scale + shift, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(sae.decode(found, like=x), out, rtol=1e-4, atol=1e-4)
    if not form.trivial:
        with pytest.raises(SAEError, match="like=x"):
            sae.decode(found)


def test_a_batch_of_one_row_keeps_k_of_it_and_says_what_it_depends_on(backend):
    rng = np.random.default_rng(6)
    sae = SAE(weights_for(BatchTopK(3), rng, 4, 20), BatchTopK(3), backend=backend)
    with pytest.warns(MlxterpWarning, match="depend on the rows"):
        features = sae.encode(rng.standard_normal((1, 4)).astype(np.float32))
    assert (features != 0).sum() == 3


@pytest.mark.parametrize("activation", VARIANTS, ids=lambda a: a.name)
def test_a_variant_and_its_settings_survive_json(activation):
    assert activation_from_dict(activation_to_dict(activation)) == activation


def test_a_skip_connection_adds_the_raw_input(backend):
    rng = np.random.default_rng(7)
    skip = rng.standard_normal((4, 5)).astype(np.float32)
    shapes = ((4, 20), (20,), (20, 5), (5,))
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    sae = SAE(SAEWeights(*arrays, subtract_b_dec=False, extra={"W_skip": skip}), ReLU(), backend=backend)
    x = rng.standard_normal((3, 4)).astype(np.float32)
    out, features = sae(x)
    np.testing.assert_allclose(out, oracle.decode(features, sae.weights) + x @ skip, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(sae.decode(sae.encode_sparse(x), like=x), out, rtol=1e-4, atol=1e-4)
