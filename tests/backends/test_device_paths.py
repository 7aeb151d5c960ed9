"""What runs on a GPU whose kernels cannot be used, run here on the CPU: the wings' own walks and gathers."""

from __future__ import annotations

import numpy as np
import pytest

from mlxterp import get_backend
from mlxterp.variants import TopK
from mlxterp.weights import NAMES, SAEWeights
from tests import oracle
from tests.backends.test_encoding import dense, random_weights, whole_weights


@pytest.mark.parametrize(("d_hidden", "k"), [(300, 5), (9001, 64), (4096, 200), (40, 40)])
@pytest.mark.parametrize("tied", [False, True])
def test_the_walk_of_each_wing_selects_as_the_oracle(backend, d_hidden, k, tied):
    rng = np.random.default_rng(k)
    weights = whole_weights(rng, 3, d_hidden) if tied else random_weights(3, d_hidden, subtract_b_dec=False)
    x = (rng.integers(-2, 3, (7, 3)) if tied else rng.standard_normal((7, 3))).astype(np.float32)
    wing = get_backend(backend)
    native = wing.put_weights(weights, "cpu" if backend == "torch" else None)
    if backend == "mlx":
        from mlxterp.backends.mlx import selecting as mlx_selecting

        keys = np.array(mlx_selecting._best_keys(wing.put(x), native, k))
        ids = 0xFFFFFFFF - (keys & 0xFFFFFFFF).astype(np.int64)
        values = (keys >> 32).astype(np.uint32).view(np.float32)
    else:
        from mlxterp.backends.torch import selecting as torch_selecting

        ids, values = (wing.get(a) for a in torch_selecting._walk(wing.put(x), native, k))
    expected = oracle.encode(x, weights, k) if tied else oracle.topk(x @ weights.W_enc + weights.b_enc, k)
    np.testing.assert_allclose(dense(ids, values, d_hidden), expected, rtol=1e-4, atol=1e-5)


def test_mlx_decodes_and_differentiates_the_same_without_numpy(monkeypatch):
    mx = pytest.importorskip("mlx.core")
    from mlxterp.backends.mlx import backward, decoding

    rng = np.random.default_rng(0)
    weights: SAEWeights = random_weights(6, 50)
    wing = get_backend("mlx")
    native = wing.put_weights(weights)
    x, g = (wing.put(rng.standard_normal((40, 6)).astype(np.float32)) for _ in range(2))
    ids, values = wing.encode(x, native, TopK(5))
    expected = wing.decode(ids, values, native), wing.backward(x, ids, values, native, g)
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    np.testing.assert_allclose(
        np.array(decoding.decode(ids, values, native)), np.array(expected[0]), rtol=1e-4, atol=1e-5
    )
    found = backward.backward(x, ids, values, native, g)
    for name in NAMES:
        ours, theirs = np.array(getattr(found, name)), np.array(getattr(expected[1], name))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4, err_msg=name)
