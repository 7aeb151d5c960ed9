"""Sparse gradients are those of autodiff."""

from __future__ import annotations

import numpy as np
import pytest

from mlxterp import get_backend
from mlxterp.variants import Activation, GroupMax, TopK
from mlxterp.weights import NAMES, SAEWeights


def weights_for(rng: np.random.Generator, d: int, n: int, d_out: int, subtract: bool) -> SAEWeights:
    shapes = ((d, n), (n,), (n, d_out), (d_out,))
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    return SAEWeights(*arrays, subtract_b_dec=subtract)


def dense_autodiff(
    x: np.ndarray, weights: SAEWeights, ids: np.ndarray, g: np.ndarray
) -> dict[str, np.ndarray]:
    """By torch's autograd in float64, with the selection as a mask of full size."""
    torch = pytest.importorskip("torch")
    w = {
        name: torch.tensor(getattr(weights, name), dtype=torch.float64, requires_grad=True) for name in NAMES
    }
    inside = torch.tensor(x, dtype=torch.float64)
    if weights.subtract_b_dec:
        inside = inside - w["b_dec"]
    pre = (inside @ w["W_enc"] + w["b_enc"]).relu()
    mask = torch.zeros_like(pre).scatter_(1, torch.tensor(ids), 1.0)
    out = (pre * mask) @ w["W_dec"] + w["b_dec"]
    out.backward(torch.tensor(g, dtype=torch.float64))
    return {name: tensor.grad.numpy() for name, tensor in w.items()}


@pytest.mark.parametrize("activation", [TopK(4), TopK(30), GroupMax(5)], ids=str)
@pytest.mark.parametrize(("subtract", "d_out"), [(True, 7), (False, 9)])
@pytest.mark.parametrize("scale", [1.0, -30.0])
def test_sparse_gradients_are_those_of_autodiff(backend, activation: Activation, subtract, d_out, scale):
    rng = np.random.default_rng(1)
    weights = weights_for(rng, 7, 30, d_out, subtract)
    if scale < 0:  # hardly any feature is active, most slots are empty
        weights = SAEWeights(weights.W_enc, weights.b_enc - 4, weights.W_dec, weights.b_dec, subtract)
    wing = get_backend(backend)
    native = wing.put_weights(weights, "cpu" if backend == "torch" else None)
    x, g = (
        rng.standard_normal((40, 7)).astype(np.float32),
        rng.standard_normal((40, d_out)).astype(np.float32),
    )
    rows = wing.put(x)
    ids, values = wing.encode(rows, native, activation)
    found = wing.backward(rows, ids, values, native, wing.put(g))
    expected = dense_autodiff(x, weights, wing.get(ids).astype(np.int64), g)
    for name in NAMES:
        size = max(1.0, float(np.abs(expected[name]).max()))
        np.testing.assert_allclose(
            wing.get(getattr(found, name)), expected[name], atol=1e-6 * size, err_msg=name
        )


def test_tensors_that_were_made_in_inference_mode_have_the_same_gradients():
    torch, wing = pytest.importorskip("torch"), get_backend("torch")
    weights = weights_for(np.random.default_rng(1), 7, 30, 7, True)
    x, g = np.random.default_rng(2).standard_normal((2, 40, 7)).astype(np.float32)

    def gradients() -> list[np.ndarray]:
        native, rows = wing.put_weights(weights, "cpu"), wing.put(x)
        ids, values = wing.encode(rows, native, TopK(4))
        found = wing.backward(rows, ids, values, native, wing.put(g))
        slopes = wing.slopes(wing.encode_sparse(rows, native, TopK(4)), native.W_dec, wing.put(g))
        return [*(wing.get(getattr(found, name)) for name in NAMES), slopes]

    expected = gradients()
    with torch.inference_mode():
        found = gradients()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
