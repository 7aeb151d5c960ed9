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
