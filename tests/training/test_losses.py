"""The gradients that are written out are those of autodiff, for every architecture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlxterp import get_backend
from mlxterp.training.config import ARCHITECTURES, TrainRecipe
from mlxterp.training.losses import Batch, forward_and_backward
from mlxterp.weights import SAEWeights

D_MODEL, D_HIDDEN, K, N = 9, 40, 4, 60
VARIANCE, SPARSITY, BANDWIDTH = 7.0, 0.3, 1.5
PREFIXES = (4, 11, D_HIDDEN)


def weights_for(architecture: str, d_out: int, skip: bool) -> SAEWeights:
    rng = np.random.default_rng(3)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    extra: dict[str, np.ndarray] = {}
    if architecture == "jumprelu":
        extra["threshold"] = np.abs(normal(D_HIDDEN)) + 1
    if architecture == "gated":
        extra |= {"gate_scale": np.abs(normal(D_HIDDEN)) + 0.5, "b_mag": normal(D_HIDDEN)}
    if skip:
        extra["W_skip"] = normal(D_MODEL, d_out)
    b_enc = normal(D_HIDDEN) - 1
    return SAEWeights(
        normal(D_MODEL, D_HIDDEN), b_enc, normal(D_HIDDEN, d_out), normal(d_out), d_out == D_MODEL and not skip, extra
    )  # fmt: skip


class Reference:
    """The losses in float64, for torch's autograd."""

    def __init__(self, torch: Any, weights: SAEWeights):
        self.torch = torch
        self.w = {
            name: torch.tensor(array, dtype=torch.float64, requires_grad=True)
            for name, array in weights.arrays().items()
        }
        self.subtract = weights.subtract_b_dec

    def pre(self, x: Any) -> Any:
        inside = x - self.w["b_dec"] if self.subtract else x
        return inside @ self.w["W_enc"] + self.w["b_enc"]

    def error(self, x: Any, y: Any, features: Any, frozen: bool = False) -> Any:
        W_dec, b_dec = self.w["W_dec"], self.w["b_dec"]
        if frozen:
            W_dec, b_dec = W_dec.detach(), b_dec.detach()
        out = features @ W_dec + b_dec
        if "W_skip" in self.w:
            out = out + x @ (self.w["W_skip"].detach() if frozen else self.w["W_skip"])
        return ((y - out) ** 2).sum() / (len(x) * VARIANCE)

    def loss(self, architecture: str, x: Any, y: Any) -> Any:
        torch = self.torch
        h = self.pre(x)
        if architecture == "topk":
            floor = h.sort(dim=1).values[:, -K, None]
            return self.error(x, y, torch.where(h >= floor, h.relu(), 0.0))
        if architecture in ("batchtopk", "matryoshka_batchtopk"):
            floor = h.relu().flatten().sort().values[-K * len(x)]
            features = torch.where(h >= floor, h.relu(), 0.0)
            if architecture == "batchtopk":
                return self.error(x, y, features)
            below = torch.arange(D_HIDDEN)
            return sum(self.error(x, y, features * (below < p)) for p in PREFIXES) / len(PREFIXES)
        if architecture == "relu":
            features = h.relu()
            return self.error(x, y, features) + SPARSITY * features.sum() / len(x) / VARIANCE**0.5
        if architecture == "jumprelu":
            step, features = _jump(torch).apply(h, self.w["threshold"])
            l0 = step.sum() / len(x)
            return self.error(x, y, features) + SPARSITY * (l0 / K - 1) ** 2
        gate = h.relu()
        magnitude = (h - self.w["b_enc"]) * self.w["gate_scale"] + self.w["b_mag"]
        features = (h > 0) * magnitude.relu()
        return (
            self.error(x, y, features)
            + self.error(x, y, gate, frozen=True)
            + SPARSITY * gate.sum() / len(x) / VARIANCE**0.5
        )


def _jump(torch: Any) -> Any:
    """The step and JumpReLU with the pseudo-derivatives of arXiv 2407.14435, equations 11 and 12."""

    class Jump(torch.autograd.Function):
        @staticmethod
        def forward(ctx, h, threshold):
            ctx.save_for_backward(h, threshold)
            on = (h > threshold).to(h.dtype)
            return on, h * on

        @staticmethod
        def backward(ctx, into_step, into_features):
            h, threshold = ctx.saved_tensors
            window = ((h - threshold).abs() < BANDWIDTH / 2).to(h.dtype) * (h > 0)
            into_threshold = -(into_step + threshold * into_features) * window / BANDWIDTH
            return into_features * (h > threshold), into_threshold.sum(0)

    return Jump


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["sae", "transcoder", "skip"])
def test_gradients_are_those_of_autodiff(backend, architecture, kind):
    torch = pytest.importorskip("torch")
    d_out = D_MODEL if kind == "sae" else 6
    weights = weights_for(architecture, d_out, kind == "skip")
    rng = np.random.default_rng(4)
    x = rng.standard_normal((N, D_MODEL)).astype(np.float32)
    y = x if kind == "sae" else rng.standard_normal((N, d_out)).astype(np.float32)
    reference = Reference(torch, weights)
    expected = reference.loss(architecture, *(torch.tensor(a, dtype=torch.float64) for a in (x, y)))
    expected.backward()

    wing = get_backend(backend)
    native = wing.put_weights(weights, "cpu" if backend == "torch" else None)
    recipe = TrainRecipe(
        architecture,
        K,
        VARIANCE,
        10,
        2,
        0.0,
        PREFIXES if "matryoshka" in architecture else (),
        SPARSITY,
        BANDWIDTH,
    )
    batch = Batch(wing, wing.group(), recipe, native, wing.put(x), wing.put(y), N, SPARSITY)
    found = forward_and_backward(batch)

    loss = float((found.error * found.error).sum()) * batch.scale + found.penalty
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    gradients = found.gradients.arrays()
    assert set(gradients) == set(reference.w)
    for name, array in gradients.items():
        wanted = reference.w[name].grad.numpy()
        np.testing.assert_allclose(
            wing.get(array), wanted, atol=1e-5 * max(1.0, np.abs(wanted).max()), err_msg=name
        )


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("dead", [[3, 7, 20], list(range(5, 30))])
def test_gradients_of_what_dead_features_explain_are_those_of_autodiff(backend, subtract, dead):
    torch = pytest.importorskip("torch")
    k, scale = 6, 0.3
    weights = weights_for("topk", D_MODEL if subtract else 6, not subtract)
    weights = SAEWeights(weights.W_enc, weights.b_enc, weights.W_dec, weights.b_dec, subtract)
    rng = np.random.default_rng(6)
    x, error = (rng.standard_normal((N, d)).astype(np.float32) for d in (D_MODEL, len(weights.b_dec)))
    reference = Reference(torch, weights)
    h = reference.pre(torch.tensor(x, dtype=torch.float64))[:, dead]
    floor = h.sort(dim=1).values[:, -min(k, len(dead)), None]
    features = torch.where(h >= floor, h.relu(), 0.0)
    rest = ((torch.tensor(error, dtype=torch.float64) - features @ reference.w["W_dec"][dead]) ** 2).sum()
    (scale * rest).backward()

    wing = get_backend(backend)
    native = wing.put_weights(weights, "cpu" if backend == "torch" else None)
    zeros = wing.put_weights(weights.map(np.zeros_like), "cpu" if backend == "torch" else None)
    found, gradients = wing.add_auxiliary(
        zeros, wing.put(x), wing.put(error), native, np.array(dead), k, scale
    )
    assert float(found) == pytest.approx(float(rest.detach()), rel=1e-5)
    for name, array in gradients.arrays().items():
        grad = reference.w[name].grad
        wanted = np.zeros(array.shape) if grad is None else grad.numpy()
        np.testing.assert_allclose(
            wing.get(array), wanted, atol=1e-5 * max(1.0, np.abs(wanted).max()), err_msg=name
        )


@pytest.mark.parametrize("level", [0.0, 0.5, 1.3, 50.0])
def test_the_last_batchs_level_does_not_change_what_is_selected(backend, level):
    from mlxterp.training.losses import select_over_batch

    wing = get_backend(backend)
    weights = weights_for("batchtopk", D_MODEL, False)
    native = wing.put_weights(weights, "cpu" if backend == "torch" else None)
    x = np.random.default_rng(5).standard_normal((N, D_MODEL)).astype(np.float32)
    recipe = TrainRecipe("batchtopk", K, 1.0, 10, 2, 0.0)
    batch = Batch(wing, wing.group(), recipe, native, wing.put(x), wing.put(x), N, 0.0, level)
    features, smallest = select_over_batch(batch)
    h = (x - weights.b_dec) @ weights.W_enc + weights.b_enc
    best = np.sort(np.maximum(h, 0), axis=None)[-K * N :]
    np.testing.assert_allclose(np.sort(features.values), best, rtol=1e-5)
    assert smallest == pytest.approx(best[0], rel=1e-5)


def test_equal_activations_are_counted_to_the_number_asked_for(backend):
    from mlxterp.training.losses import select_over_batch

    wing = get_backend(backend)
    ones = SAEWeights(
        np.ones((2, 6), np.float32),
        np.zeros(6, np.float32),
        np.ones((6, 2), np.float32),
        np.zeros(2, np.float32),
    )
    x = np.ones((5, 2), np.float32)
    recipe = TrainRecipe("batchtopk", 2, 1.0, 10, 2, 0.0)
    native = wing.put_weights(ones, "cpu" if backend == "torch" else None)
    for level in (0.0, 2.0):
        batch = Batch(wing, wing.group(), recipe, native, wing.put(x), wing.put(x), 5, 0.0, level)
        assert len(select_over_batch(batch)[0].values) == 10
