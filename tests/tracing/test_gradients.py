"""Gradients of the logits with respect to activations."""

from __future__ import annotations

import numpy as np
import pytest

from mlxterp import ComponentError, GradientError, InputError, InterpretableModel, logit_difference
from mlxterp.interventions import add_vector
from tests.architectures import build, configs
from tests.tiny import WordTokenizer, tiny_llama

mx = pytest.importorskip("mlx.core")

IDS = [3, 14, 15, 9, 26, 5, 35]
ARCHITECTURES = [t for t in ("llama", "gpt2", "gemma2", "gemma3", "mamba", "mamba2", "cohere", "deepseek_v3",
                             "lfm2", "olmo2", "phi3", "qwen3", "stablelm", "minicpm3", "recurrent_gemma")
                 if t in configs()]  # fmt: skip


def finite_difference(model: InterpretableModel, objective, name: str, direction: np.ndarray) -> float:
    """Directional derivative: central differences at two steps, extrapolated to 0 (Richardson)."""

    def slope(step: float) -> float:
        values = [
            objective(model.trace(IDS, {name: add_vector(direction * s)}).output) for s in (step, -step)
        ]
        return float((values[0] - values[1]).item()) / (2 * step)

    return (4 * slope(5e-3) - slope(1e-2)) / 3


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_gradients_agree_with_finite_differences(model_type):
    model = InterpretableModel(build(model_type))
    weights = mx.random.normal((model.vocab_size,), key=mx.random.key(2))

    def objective(logits):
        return (logits[0, -1] * weights).sum() + logits[0, 2, 5]

    names = ["layers.0.resid_post", "layers.1.attn", "layers.2.resid_pre", "layers.-1.resid_post"]
    gradients = model.gradients(IDS, objective, at=names)
    for name in names:
        gradient = np.array(gradients[name], dtype=np.float64)
        assert gradient.shape[-1] == model.d_model
        direction = gradient / np.linalg.norm(gradient)  # the steepest, so rounding matters least
        expected = np.linalg.norm(gradient)
        found = finite_difference(model, objective, name, direction.astype(np.float32))
        assert found == pytest.approx(expected, rel=1e-3), name


def test_heads_and_residual_names_have_gradients_too():
    model = tiny_llama()
    names = ["layers.1.attn.z", "layers.1.attn_out", "layers.1.attn.pattern", "embed"]
    gradients = model.gradients(IDS, logit_difference(3, 4), at=names)
    assert gradients["layers.1.attn.z"].shape == (1, 4, 7, 8)
    assert gradients["layers.1.attn.pattern"].shape == (1, 4, 7, 7)
    assert all(mx.any(g != 0).item() for g in gradients.values())


def test_a_logit_difference_is_that_of_each_texts_own_end():
    model = tiny_llama(tokenizer=WordTokenizer())
    objective = logit_difference("cat", "dog")
    batch = model.gradients(["the cat sat on", "a dog"], objective, at="layers.1")["layers.1"]
    single = model.gradients("a dog", objective, at="layers.1")["layers.1"]
    assert mx.allclose(batch[1, :2], single[0], atol=1e-6)
    assert not batch[1, 2:].any().item()


def test_gradients_take_interventions_into_account():
    model = tiny_llama()
    plain = model.gradients(IDS, logit_difference(3, 4), at="layers.2")["layers.2"]
    edited = model.gradients(IDS, logit_difference(3, 4), at="layers.2",
                             interventions={"layers.3.mlp": lambda x: x * 0})["layers.2"]  # fmt: skip
    assert not mx.allclose(plain, edited)


def test_an_objective_that_is_no_function_is_named():
    with pytest.raises(InputError, match=r"The objective is NoneType; expected a function of the logits"):
        tiny_llama().gradients(IDS, None, at="layers.1.mlp")  # type: ignore[arg-type]


def test_a_gradient_that_is_not_finite_raises():
    model = tiny_llama()
    with pytest.raises(GradientError, match=r"layers\.1"):
        model.gradients(IDS, lambda logits: mx.sqrt(logits[0, 0, 0] * 0), at="layers.1")


@pytest.mark.parametrize(
    ("objective", "at", "error"),
    [
        (lambda logits: logits, "layers.1", InputError),
        (lambda logits: 3.0, "layers.1", InputError),
        (lambda logits: logits.sum(), [], InputError),
        (lambda logits: logits.sum(), "layers.9", ComponentError),
        (logit_difference(3, 4, position=7), "layers.1", InputError),
        (logit_difference("cat", "dog"), "layers.1", InputError),
    ],
)
def test_bad_requests_raise(objective, at, error):
    with pytest.raises(error):
        tiny_llama().gradients(IDS, objective, at=at)
