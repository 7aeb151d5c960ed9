"""Numbers that a dtype cannot hold are refused where they enter, and logits that are none never become text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlxterp import (
    SAE,
    Controller,
    Detector,
    InputError,
    InterpretableModel,
    MlxterpError,
    NotFiniteError,
    SAEError,
    collect_activations,
    interventions,
    steering,
)
from mlxterp.variants import AbsTopK, Activation, BatchTopK, Gated, GroupMax, JumpReLU, ReLU, TopK
from mlxterp.weights import SAEWeights
from tests.index.small import random_sae
from tests.letters import LetterTokenizer

PLACE = "layers.1.resid_post"
PROMPT = "the cat sat"


@pytest.fixture
def model(letter_model: InterpretableModel) -> InterpretableModel:
    return letter_model


def in_half(model: InterpretableModel) -> InterpretableModel:
    whole: Any = model.language_model.model  # type: ignore[attr-defined]
    if model.language_model.backend.name == "mlx":
        import mlx.core as mx

        whole.set_dtype(mx.float16)
    else:
        import torch

        whole.to(torch.float16)
    return model


def damaged(model: InterpretableModel, number: float = float("nan")) -> InterpretableModel:
    whole: Any = model.language_model.model  # type: ignore[attr-defined]
    weight = whole.model.norm.weight
    if model.language_model.backend.name == "mlx":
        weight[0] = number
    else:
        weight.data[0] = number
    return model


def sae_of(model: InterpretableModel, activation: Activation | None = None) -> SAE:
    return random_sae(
        activation or TopK(4), model.d_model, d_hidden=40, backend=model.language_model.backend.name
    )


# -- where numbers enter ------------------------------------------------------------------------

HUGE = [1e39, -1e39, 3e38, 1e20, float("inf"), float("-inf"), float("nan"), 10**400]


@pytest.mark.parametrize("number", HUGE)
def test_no_strength_that_float32_cannot_hold_is_accepted(number):
    sae, vector = random_sae(TopK(4), 32), np.ones(32, np.float32)
    for make in (
        lambda: steering.add_feature(sae, 3, number),
        lambda: steering.add_feature(sae, 3, number, units="norm"),
        lambda: steering.clamp(sae, 3, number),
        lambda: steering.clamp(sae, 3, number, at_least=True),
        lambda: steering.amplify(sae, 3, number),
        lambda: steering.add_direction(vector, number),
        lambda: steering.project_out(vector, keep=number),
        lambda: steering.threshold_add(vector, 1.0, number),
        lambda: steering.threshold_add(vector, number, 1.0),
        lambda: steering.feature(sae, 3) > number,
        lambda: interventions.scale(number),
        lambda: interventions.clamp(number, None),
        lambda: interventions.clamp(None, number),
        lambda: interventions.noise(number),
    ):
        with pytest.raises(InputError):
            make()


def test_a_product_that_float32_cannot_hold_is_refused():
    sae = random_sae(TopK(4), 32)
    sae.metadata["max_activations"] = {3: 1e30}
    for make in (
        lambda: steering.add_feature(sae, 3, 1e30, units="max"),
        lambda: steering.clamp(sae, 3, 1e30, units="max"),
        lambda: steering.add_direction(np.full(32, 1e30, np.float32), 1e30),
    ):
        with pytest.raises(InputError):
            make()


def test_what_the_models_dtype_cannot_hold_is_refused_at_the_first_pass(model):
    model, vector = in_half(model), np.ones(model.d_model, np.float32)
    sae = sae_of(model)
    edits = [
        steering.add_direction(vector, 70_000.0, PLACE),
        steering.add_direction(vector, -70_000.0, PLACE, positions="prompt"),
        steering.threshold_add(vector, 1e6, 1e9, PLACE),
        steering.add_feature(sae, 3, 1e9),
        steering.clamp(sae, 3, 1e9),
        steering.clamp(sae, 3, 1e9, at_least=True),
    ]
    for edit in edits:
        with pytest.raises(InputError, match="65504"):
            model.generate(PROMPT, max_tokens=2, steer=edit)
        with pytest.raises(InputError, match="65504"), model.steer(edit):
            model(PROMPT)
    changes = [
        interventions.scale(1e6),
        interventions.add_vector(70_000 * vector),
        interventions.replace_with(1e9),
        interventions.clamp(-1e9, 1.0),
        interventions.noise(1e6),
    ]
    for change in changes:
        with pytest.raises(InputError, match="65504"):
            model.generate(PROMPT, max_tokens=2, interventions={PLACE: change})
    assert isinstance(
        model.generate(PROMPT, max_tokens=2, steer=steering.add_direction(vector, 60.0, PLACE)), str
    )


# -- logits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 0}, {"temperature": 1.0, "top_p": 0.5}])
def test_logits_that_are_no_numbers_do_not_become_text(model, number, options):
    damaged(model, number)
    with pytest.raises(NotFiniteError, match=r"token 0 of the continuation \(position 12\).*No edit acts"):
        model.generate(PROMPT, max_tokens=3, **options)
    with pytest.raises(NotFiniteError):
        list(model.stream_generate(PROMPT, max_tokens=3, **options))
    with pytest.raises(NotFiniteError, match="position 0 of text 0"):
        model.loss(PROMPT)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_no_lens_shows_logits_that_are_no_numbers(model, number):
    sae = sae_of(model)
    damaged(model, number)
    with pytest.raises(NotFiniteError, match="after a layer"):
        model.logit_lens(PROMPT)
    with pytest.raises(NotFiniteError, match="of a direction"):
        model.feature_logits(sae, 3)
    with pytest.raises(NotFiniteError, match="of a direction"):
        model.random_direction_baseline(sae, 3)


def test_an_edit_that_spoils_the_logits_is_named_with_the_token(model):
    def spoil(x):
        return x * float("nan")

    late = interventions.Intervention(lambda x, where: spoil(x), positions=[13])
    with pytest.raises(NotFiniteError, match=r"token 2 of the continuation \(position 14\).*An edit acts"):
        model.generate(PROMPT, max_tokens=6, interventions={PLACE: late})
    vector = np.ones(model.d_model, np.float32)
    edit = steering.add_direction(vector, 1e6, PLACE, units="norm")  # of unknown size until it is applied
    in_half(model)
    with pytest.raises(NotFiniteError, match="An edit acts"):
        model.generate(PROMPT, max_tokens=3, steer=edit)
    with pytest.raises(NotFiniteError, match="An edit acts"), model.steer(edit):
        model.loss(PROMPT)


def test_a_token_that_was_forbidden_is_no_damage(model):
    def forbid(x):
        mask = np.zeros(model.vocab_size, np.float32)
        mask[::2] = -np.inf
        return x + model.language_model.backend.put(mask, x)

    for options in ({}, {"temperature": 1.0, "seed": 1}):
        assert isinstance(
            model.generate(PROMPT, max_tokens=3, interventions={"logits": forbid}, **options), str
        )


def test_calibrate_refuses_logits_that_are_no_numbers(model):
    sae = sae_of(model)
    settings: dict[str, Any] = {"prompts": ["the"], "max_tokens": 3, "neutral": ["cat"], "concept": ["a"]}
    settings["verbose"] = False
    with pytest.raises(MlxterpError):
        steering.calibrate(model, sae, 3, [3e38], "raw", **settings)
    with pytest.raises(NotFiniteError):
        steering.calibrate(damaged(model), sae, 3, [1.0], "raw", **settings)


# -- features -----------------------------------------------------------------------------------

VARIANTS: dict[str, Activation] = {
    "topk": TopK(4), "abs_topk": AbsTopK(4), "group_max": GroupMax(4), "relu": ReLU(), "jumprelu": JumpReLU(),
    "gated": Gated(),
}  # fmt: skip


@pytest.mark.parametrize("name", list(VARIANTS))
@pytest.mark.parametrize("size", [float("nan"), float("inf"), 3e38, -3e38])
def test_every_way_to_encode_refuses_the_same_activations(backend, name, size):
    sae = random_sae(VARIANTS[name], 32, d_hidden=40, backend=backend)
    weights = SAEWeights(4 * sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, extra=sae.weights.extra)
    sae = sae.replace(weights=weights)
    x = np.random.default_rng(0).standard_normal((600, 32)).astype(np.float32)
    assert np.isfinite(sae.encode(x)).all()
    x[555] = size * np.sign(x[555])
    for call in (sae.encode, sae.encode_sparse, sae, sae.reconstruct):
        with pytest.raises(SAEError):
            call(x)


@pytest.mark.parametrize("number", [1e39, -1e300, np.inf, np.nan])
def test_float64_activations_that_float32_cannot_hold_are_refused_without_another_warning(backend, number):
    sae = random_sae(TopK(4), 32, d_hidden=40, backend=backend)
    for call in (sae.encode, sae.encode_sparse, sae, sae.reconstruct):
        with pytest.raises(SAEError, match="NaN or infinite"):
            call(np.full((2, 32), number))


def test_batch_topk_refuses_them_too(backend):
    sae = random_sae(TopK(4), 32, d_hidden=40, backend=backend).replace(activation=BatchTopK(4))
    x = np.full((4, 32), 3e38, np.float32)
    for call in (sae.encode, sae.encode_sparse, sae, sae.reconstruct):
        with pytest.raises(SAEError):
            call(x)


def test_large_activations_that_have_features_are_encoded(backend):
    sae = random_sae(TopK(4), 32, d_hidden=40, backend=backend)
    x = np.random.default_rng(0).standard_normal((5, 32)).astype(np.float32)
    small, large = sae.encode(x), sae.encode(x * np.float32(1e36))
    np.testing.assert_allclose(large / 1e36, small, rtol=1e-4)


# -- figures ------------------------------------------------------------------------------------


def test_an_evaluation_of_a_model_without_logits_is_refused(model):
    with pytest.raises(NotFiniteError, match="evaluation's texts"):
        damaged(model).evaluate_sae(sae_of(model), ["the cat sat", "a dog"], PLACE)


def test_a_detector_leaves_out_tokens_that_are_not_finite_and_says_how_many(model):
    spoil = interventions.Intervention(lambda x, where: x * float("inf"), positions=[2])
    detector = Detector(PLACE, statistics=True)
    with model.add_hook(Controller(PLACE, spoil)), model.add_hook(detector):
        model(PROMPT)
    found = detector.statistics
    assert found.count == len(model.tokenize(PROMPT)) - 1 and found.not_finite == 1
    assert np.isfinite(found.mean).all() and "1 left out" in repr(found)


def test_activations_that_are_not_finite_are_not_collected(model, tmp_path):
    whole: Any = model.language_model.model  # type: ignore[attr-defined]
    table = whole.model.embed_tokens.weight
    table = table if model.language_model.backend.name == "mlx" else table.data
    table[LetterTokenizer().encode("t")[1]] = float("inf")
    with pytest.raises(SAEError, match="NaN or infinite"):
        collect_activations(model, [PROMPT] * 4, PLACE, tmp_path / "store", exclude=(), progress=False)
    with pytest.raises(SAEError):
        model.get_top_features_for_text(PROMPT, sae_of(model), 1, "resid_post")
