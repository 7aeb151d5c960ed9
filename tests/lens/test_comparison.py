"""Lenses beside each other: agreement and divergence against plain NumPy, their intervals, and chance."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from mlxterp import InputError, InterpretableModel, MlxterpWarning, TunedLens
from mlxterp.lens import JacobianLens, LensComparison, lens_comparison
from tests.patching.asking import activations_of, opened
from tests.viz.reading import assert_offline

TEXTS = [[(5 * i + 3 * j * j + 1) % 190 + 2 for j in range(9 + i)] for i in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return tmp_path_factory.mktemp("models") / "llama"


def halved(model: InterpretableModel) -> JacobianLens:
    """A lens of layer 1 alone, to the last."""
    return JacobianLens({1: np.diag(np.linspace(0.2, 2.0, model.d_model)).astype(np.float32)}, 2, 1)


def log_probabilities(model: InterpretableModel, x: np.ndarray) -> np.ndarray:
    logits = model.language_model.backend.get(model.unembed(x.astype(np.float32))).astype(np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def test_figures_are_those_of_plain_numpy(backend, folder):
    model = opened("llama", folder, backend)
    found = lens_comparison(model, TEXTS, {"half": halved(model)}, skip=2)
    assert found.names == ("logit", "half") and found.layers == (0, 1, 2)
    assert found.tokens.tolist() == [len(ids) - 2 for ids in TEXTS]
    agreed, apart, tops, own = [], [], [], []
    for ids in TEXTS:
        x = activations_of(model, [ids], "layers.1.resid_post")[0, 2:]
        final = log_probabilities(model, activations_of(model, [ids], "layers.2.resid_post")[0, 2:])
        said = log_probabilities(model, x * np.linspace(0.2, 2.0, model.d_model))
        agreed.append((said.argmax(-1) == final.argmax(-1)).sum())
        apart.append((np.exp(final) * (final - said)).sum())
        tops, own = [*tops, *said.argmax(-1)], [*own, *final.argmax(-1)]
    assert found.agreed[1, 1].tolist() == agreed
    assert np.allclose(found.divergence[1, 1], apart, atol=1e-3)
    assert found.kl("half")[1] == pytest.approx(sum(apart) / len(tops), abs=1e-4)
    assert found.agreement("half")[1] == pytest.approx(sum(agreed) / len(tops))
    dealt = np.mean([top == token for top in tops for token in own])
    assert found.chance[1, 1] == pytest.approx(dealt)
    assert np.isnan(found.agreed[1, 0]).all() and np.isnan(found.chance[1, 0])  # it has no layer 0


def test_after_the_last_layer_every_lens_is_the_model(backend, folder):
    model = opened("llama", folder, backend)
    found = lens_comparison(model, TEXTS, {"half": halved(model)}, layers=[-1, 1])
    assert found.layers == (2, 1)
    for name in found.names:
        assert found.agreement(name)[0] == 1.0 and found.kl(name)[0] == 0.0
        assert found.interval(name)[0].tolist() == [1.0, 1.0]


def test_intervals_hold_the_value_and_differences_are_paired(folder):
    model = opened("llama", folder, "torch")
    found = lens_comparison(model, TEXTS, {"half": halved(model)}, layers=[1])
    for what in ("agreement", "kl"):
        [[low, high]] = found.interval("half", what)
        value = (found.agreement("half") if what == "agreement" else found.kl("half"))[0]
        assert low <= value <= high and low < high
        assert found.interval("half", what, base="half").tolist() == [[0.0, 0.0]]
    again = lens_comparison(model, TEXTS, {"half": halved(model)}, layers=[1])
    assert np.array_equal(again.interval("half", "kl"), found.interval("half", "kl"))


def test_it_prints_plots_and_tabulates(folder, tmp_path):
    pytest.importorskip("pandas")
    pytest.importorskip("matplotlib")
    model = opened("llama", folder, "torch")
    found = lens_comparison(model, TEXTS, {"half": halved(model)})
    text = str(found)
    assert "top-1 half" in text and "chance" in text and "—" in text and "95 % intervals" in text
    assert_offline(found._repr_html_())
    assert found.plot(tmp_path / "lenses.png").axes and (tmp_path / "lenses.png").stat().st_size > 1000
    frame = found.to_pandas()
    assert len(frame) == 6 and {"lens", "layer", "agreement", "chance", "kl_low", "kl_high"} <= set(
        frame.columns
    )
    assert repr(found) == "LensComparison(logit, half; 3 layers, 6 texts)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lenses": {"x": "lens"}}, r"lenses\['x'\] is str"),
        ({"lenses": ["x"]}, "lenses is {name: lens}, got list"),
        ({"lenses": {"logit": 0}}, "is int; expected a lens"),
        ({"texts": [[1], [2]]}, "No text has more than 1 tokens"),
        ({"texts": "one text"}, "list of texts"),
        ({"skip": -1}, "skip"),
        ({"context_length": 1}, "context_length"),
    ],
)
def test_bad_requests_say_what_to_do(folder, options, message):
    model = opened("llama", folder, "torch")
    with pytest.raises(InputError, match=message):
        lens_comparison(model, **{"texts": TEXTS, **options})


def test_the_name_of_the_logit_lens_is_taken(folder):
    model = opened("llama", folder, "torch")
    with pytest.raises(InputError, match="give this one another name"):
        lens_comparison(model, TEXTS, {"logit": halved(model)})
    found = lens_comparison(model, TEXTS, {})
    assert isinstance(found, LensComparison) and found.names == ("logit",)
    with pytest.raises(InputError, match="one of 'logit'"):
        found.kl("jacobian")


def test_lenses_that_the_model_holds_are_compared_by_themselves(folder):
    model = opened("llama", folder, "torch")
    model.session.jacobian_lens = model.session.tuned_lens = None
    assert lens_comparison(model, TEXTS).names == ("logit",)
    model.load_tuned_lens(TunedLens(3, model.d_model))
    model.load_jacobian_lens(halved(model).on(model))
    found = lens_comparison(model, TEXTS)
    assert found.names == ("logit", "jacobian", "tuned") and np.isnan(found.kl("jacobian")[0])
    assert np.array_equal(found.kl("tuned"), found.kl("logit"))  # it is the identity
    assert lens_comparison(model, TEXTS, {}).names == ("logit",)


def test_on_a_trained_model_a_jacobian_lens_is_above_chance_and_noise(demo):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MlxterpWarning)
        lens = demo.model.fit_jacobian_lens(
            demo.texts[:20], layers=[2], prompts=4, context_length=40, verbose=False
        )
    found = lens_comparison(demo.model, demo.texts[-6:], {"jacobian": lens}, layers=[2], context_length=60)
    assert found.interval("jacobian")[0, 0] > 5 * found.chance[1, 0]
