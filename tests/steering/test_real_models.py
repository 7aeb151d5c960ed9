"""On real trained models: what says nothing changes no bit, clamping is decoding, steered generation is recomputing."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

import mlxterp
from mlxterp import SAE, InterpretableModel
from mlxterp.steering import ablate, add_direction, add_feature, amplify, clamp, feature
from mlxterp.variants import TopK
from mlxterp.weights import SAEWeights

TEXT = "Once upon a time there was a little dog named Tim. He liked to play with a red ball."


@pytest.fixture(params=["stories260K", "TinyStories-656K", "tinystories_instruct_3m_gpt2"])
def model(shared: Path, backend: str, request: pytest.FixtureRequest) -> InterpretableModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlxterp.ConfigWarning)
        return InterpretableModel(str(shared / "data" / "models" / request.param), backend=backend)


def get(model: InterpretableModel, x) -> np.ndarray:
    return model.language_model.backend.get(x)


def sae_of(model: InterpretableModel) -> SAE:
    """Directions of the model's own activations, so that features are active."""
    place = f"layers.{model.n_layers // 2}.resid_post"
    x = get(model, model.trace(TEXT, capture=[place]).activations[place])[0].astype(np.float32)
    draw = np.random.default_rng(0)
    rows = x[draw.integers(0, len(x), 256)] + draw.normal(size=(256, x.shape[1])).astype(np.float32) * x.std()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    mean = x.mean(axis=0)
    weights = SAEWeights(rows.T.copy(), -rows @ mean, rows, mean)
    return SAE(weights, TopK(16), {"component": place}, backend=model.language_model.backend.name)


def test_nothing_is_exactly_nothing(model):
    sae = sae_of(model)
    clean, written = get(model, model(TEXT)), model.generate(TEXT, 12)
    f = model.get_top_features_for_text(TEXT, sae, model.n_layers // 2, "resid_post")[0][0]
    with (
        model.steer(amplify(sae, f, 1.0), add_feature(sae, f + 1, 0.0)),
        model.steer(ablate(sae, f, positions=[])),
    ):
        assert np.array_equal(get(model, model(TEXT)), clean) and model.generate(TEXT, 12) == written
    with model.attach_sae(sae):
        sae.concepts.enable_text_tracking()
        assert np.array_equal(get(model, model(TEXT)), clean) and model.generate(TEXT, 12) == written
    with model.steer(clamp(sae, f, 9.0)):
        model(TEXT)
    assert np.array_equal(get(model, model(TEXT)), clean)


def test_a_clamp_is_decoding_with_the_error_kept(model):
    sae, place = sae_of(model), str(sae_of(model).component)
    h = get(model, model.trace(TEXT, capture=[place]).activations[place])[0]
    f = int(sae.encode(h).sum(axis=0).argmax())
    z = sae.encode(h)
    z[:, f] = 2.0
    with model.steer(clamp(sae, f, 2.0)):
        found = get(model, model.trace(TEXT, capture=[place]).activations[place])[0]
    expected = sae.decode(z) + (h - sae.reconstruct(h))
    assert np.abs(found - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


def test_steered_generation_is_a_steered_recomputation(model):
    sae, place = sae_of(model), str(sae_of(model).component)
    h = get(model, model.trace(TEXT, capture=[place]).activations[place])[0]
    f = int(sae.encode(h).sum(axis=0).argmax())
    length = float(np.linalg.norm(h, axis=1).mean())
    for edits in (
        [add_feature(sae, f, 0.3, units="norm")],
        [clamp(sae, f, length / 3)],
        [add_direction(sae.W_dec[f], length / 4, place, when=feature(sae, f) > 0.0)],
    ):
        ids = model.tokenize(TEXT)
        with model.steer(edits):
            for token, _ in model.language_model.stream(ids, 10, prefill_step_size=7):
                if token is None:  # between parts of the prompt, or at the end
                    continue
                logits = get(model, model(ids))[0, -1]
                assert logits[token] >= logits.max() - 1e-4 * np.abs(logits).max()  # but for ties of rounding
                ids.append(token)
