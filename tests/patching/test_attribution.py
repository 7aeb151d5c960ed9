"""Attribution patching: exact where the model is linear, the derivative elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlxterp import InputError, InterpretableModel, logit_difference
from mlxterp.interventions import add_vector
from mlxterp.patching import DISTANCES
from tests.architectures import build, configs
from tests.patching.asking import (
    CLEAN,
    CORRUPTED,
    activation,
    activations_of,
    attribution,
    logits_of,
    numpy_of,
    opened,
    without_final_norm,
)

METRIC = logit_difference(5, 6)


@pytest.mark.parametrize(("component", "by"), [("resid_post", "position"), ("resid_post", "layer"),
                                               ("mlp_out", "position"), ("mlp", "layer")])  # fmt: skip
def test_where_the_logits_are_linear_it_is_activation_patching(backend, folder, component, by):
    opened.cache_clear()
    model = without_final_norm(opened("llama", folder, backend))
    opened.cache_clear()
    arguments: dict[str, Any] = {"layers": -1, "metric": METRIC, "by": by}
    expected = activation(model, CLEAN, CORRUPTED, component, **arguments)
    found = attribution(model, CLEAN, CORRUPTED, component, **arguments)
    assert np.abs(expected.effects).max() > 0.1
    assert np.allclose(found.effects, expected.effects, atol=1e-4)
    assert (found.clean, found.corrupted) == pytest.approx((expected.clean, expected.corrupted), rel=1e-5)


@pytest.mark.parametrize("metric", [*sorted(DISTANCES), METRIC])
@pytest.mark.parametrize(
    ("component", "by"), [("resid_pre", "layer"), ("attn.z", "head"), ("mlp", "position")]
)
def test_it_is_the_derivative_towards_the_clean_activation(model, component, by, metric):
    found = attribution(model, CLEAN, CORRUPTED, component, layers=1, metric=metric, by=by)
    name = f"layers.1.{component}"
    step = activations_of(model, CLEAN, name) - activations_of(model, CORRUPTED, name)
    clean = logits_of(model, CLEAN)

    def value(share: float, mask: np.ndarray) -> float:
        change = {name: add_vector((share * step * mask).astype(np.float32))}
        logits = logits_of(model, CORRUPTED, change)
        if isinstance(metric, str):
            return float(DISTANCES[metric][0](logits[:, -1], clean[:, -1]).mean())
        return float(logits[0, -1, 5] - logits[0, -1, 6])

    masks = _masks(step.shape, by)
    slopes = [(value(0.02, mask) - value(-0.02, mask)) / 0.04 for mask in masks]
    estimated = np.atleast_1d(found.raw[0]) - found.corrupted
    assert np.allclose(estimated, slopes, atol=5e-3 * max(np.abs(slopes).max(), abs(found.corrupted) * 1e-2))


def _masks(shape: tuple[int, ...], by: str) -> list[np.ndarray]:
    if by == "layer":
        return [np.ones(shape)]
    masks = [np.zeros(shape) for _ in range(shape[1])]  # heads, or positions of a module's output
    for i, mask in enumerate(masks):
        mask[:, i] = 1
    return masks


def test_positions_and_heads_add_up_to_the_layer(model):
    whole = attribution(model, CLEAN, CORRUPTED, "attn.z", metric=METRIC)
    for by in ("position", "head"):
        parts = attribution(model, CLEAN, CORRUPTED, "attn.z", metric=METRIC, by=by)
        assert np.allclose(parts.effects.sum(axis=1), whole.effects, atol=1e-9)
    some = attribution(model, CLEAN, CORRUPTED, "attn.z", metric=METRIC, positions=[2, -1])
    by_position = attribution(model, CLEAN, CORRUPTED, "attn.z", metric=METRIC, by="position")
    assert np.allclose(some.effects, by_position.effects[:, [2, 6]].sum(axis=1), atol=1e-9)


def test_all_components_take_one_backward_pass(model, monkeypatch):
    calls: list[int] = []
    gradients = type(model.language_model).gradients

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return gradients(*args, **options)

    monkeypatch.setattr(type(model.language_model), "gradients", counted)
    found = attribution(model, CLEAN, CORRUPTED, ["resid_pre", "attn_out", "mlp_out"], by="position")
    assert len(calls) == 1 and [r.raw.shape for r in found.values()] == [(3, 7)] * 3


def test_small_changes_are_estimated_well(model):
    """The nearer the runs, the better: patched values, not the share of the way."""
    clean = CORRUPTED[:-2] + CLEAN[-2:]
    for by in ("layer", "head"):
        estimate = attribution(model, clean, CORRUPTED, "attn.z", metric="kl", by=by)
        exact = activation(model, clean, CORRUPTED, "attn.z", metric="kl", by=by)
        assert estimate.raw.shape == exact.raw.shape
        assert np.corrcoef(estimate.raw.ravel(), exact.raw.ravel())[0, 1] > 0.5


def test_a_batch_adds_up(model):
    clean, corrupted = [CLEAN, CLEAN[:6]], [CORRUPTED, CORRUPTED[:6]]
    together = attribution(model, clean, corrupted, "mlp", metric=METRIC)
    alone = [attribution(model, a, b, "mlp", metric=METRIC) for a, b in zip(clean, corrupted, strict=True)]
    assert np.allclose(together.raw, alone[0].raw + alone[1].raw, atol=1e-4)


def test_a_function_without_a_gradient_raises(model):
    with pytest.raises(InputError, match="one number"):
        attribution(model, CLEAN, CORRUPTED, metric=lambda logits: 1.0)


def test_a_looped_model_is_patched_in_its_last_round():
    pytest.importorskip("mlx.core")
    if "nanbeige" not in configs():
        pytest.skip("needs the shared architectures")
    model = InterpretableModel(build("nanbeige"))
    clean, corrupted = [3, 14, 15, 9, 26], [3, 14, 7, 9, 2]
    exact = activation(model, clean, corrupted, "resid_post", layers=0, metric=METRIC)
    assert exact.effects[0] == pytest.approx(1, abs=1e-3)
    found = attribution(model, clean, corrupted, "resid_post", layers=0, metric=METRIC)
    gradient = numpy_of(
        model, model.gradients(corrupted, METRIC, at="layers.0.resid_post")["layers.0.resid_post"]
    )
    step = activations_of(model, clean, "layers.0.resid_post") - activations_of(
        model, corrupted, "layers.0.resid_post"
    )
    assert found.raw[0] - found.corrupted == pytest.approx((gradient * step).sum(), abs=1e-4)


def test_both_wings_agree(folder):
    pytest.importorskip("mlx.core")
    pytest.importorskip("torch")
    wings = [opened("llama", folder, name) for name in ("mlx", "torch")]
    for ask in (activation, attribution):
        for by in ("layer", "position", "head"):
            a, b = (ask(wing, CLEAN, CORRUPTED, "attn.z", metric="kl", by=by) for wing in wings)
            assert np.allclose(a.effects, b.effects, atol=1e-4), (ask, by)
