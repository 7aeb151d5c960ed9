"""`model.patchscope` on the demo model: what it finds of a token's own direction, what it refuses, what it shows."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import ComponentError, InputError, UnknownFeatureError, patchscopes, steering
from mlxterp.core.numeric import entropies, log_softmax
from mlxterp.interventions import replace_with

PROMPT = "One day, Lily saw a X. The"
PLACE = 8
SCALES = [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0]
CONTEXTS = ["Tom had a dog", "She saw a dog", "The big dog", "A little dog", "He loves his dog"]


@cache
def opened(backend: str) -> Any:
    if backend not in mlxterp.available_backends():
        pytest.skip(f"{backend} is not installed")
    return mlxterp.load_demo(backend)


@pytest.fixture
def model(backend: str) -> mlxterp.InterpretableModel:
    return opened(backend).model


@pytest.fixture
def sae(backend: str) -> mlxterp.SAE:
    return opened(backend).sae


def get(model: mlxterp.InterpretableModel, x: Any) -> np.ndarray:
    return np.asarray(model.language_model.backend.get(x))


def dog(model: mlxterp.InterpretableModel, layer: int) -> np.ndarray:
    """The mean activation of " dog" over some contexts."""
    name = f"layers.{layer}.resid_pre"
    rows = [
        get(model, model.trace(text, capture=[name], stop_after=name).activations[name])[0, -1]
        for text in CONTEXTS
    ]
    return np.mean(rows, axis=0)


def asked(model: mlxterp.InterpretableModel, what: Any, **options: Any) -> mlxterp.Patchscope:
    return model.patchscope(what, PROMPT, **{"max_tokens": 3, "verbose": False, "control": False, **options})


@pytest.mark.parametrize("layer", [0, 1])
def test_D25_a_tokens_own_direction_brings_its_continuation_at_about_its_natural_length(model, layer):
    vector = dog(model, layer)
    natural, token = float(np.linalg.norm(vector)), model.tokenize("a dog")[-1]

    def p(scale: float) -> float:
        change = replace_with(vector * scale, positions=[PLACE])
        logits = model.trace(PROMPT, {f"layers.{layer}.resid_pre": change}, capture=[]).output
        return float(np.exp(log_softmax(get(model, logits)[0, -1])[token]))

    found = [p(scale) for scale in SCALES]
    assert found[0] < 0.01 and max(found) > 0.7
    peak = SCALES[int(np.argmax(found))]
    assert 0.5 <= peak <= 1.5
    lengths = [scale * natural for scale in SCALES]
    scope = asked(model, vector, layer=layer, scales=lengths, units="raw")
    assert scope.best(1)[0].scale == pytest.approx(peak * natural)  # the entropy rule picks it
    assert (scope.best(1)[0].text or "").startswith("dog")


def test_D24_texts_of_a_sweep_are_those_of_single_scales_and_of_plain_generation(model, sae):
    scope = asked(model, (sae, 741), layer=1, scales=[5.0, 20.0, 40.0], units="raw", stop=None)
    row = sae.W_dec[741] / np.linalg.norm(sae.W_dec[741])
    for scale, text, entropy in zip(scope.scales, scope.texts, scope.entropy, strict=True):
        alone = asked(model, (sae, 741), layer=1, scales=[scale], units="raw", stop=None)
        change = {"layers.1.resid_pre": replace_with(row * scale, positions=[PLACE])}
        assert text == alone.texts[0] == model.generate(PROMPT, max_tokens=3, interventions=change)
        assert entropy == pytest.approx(alone.entropy[0], abs=1e-4)
        logits = get(model, model.trace(PROMPT, change, capture=[]).output)[0, -1]
        assert entropy == pytest.approx(float(entropies(logits[None])[0]), abs=1e-4)


def test_D23_the_prompt_alone_is_replaced_at_every_placeholder(model):
    prompt = "The X saw a X. The"
    vector = dog(model, 0)
    ids = model.tokenize(prompt)
    places = [i for i, piece in enumerate(model.to_str_tokens(prompt)) if piece.strip() == "X"]
    assert len(places) == 2
    change = {"layers.0.resid_pre": replace_with(vector, positions=places)}
    expected = model.generate(prompt, max_tokens=4, interventions=change)
    assert patchscopes.ask(model, vector, prompt, max_tokens=4) == expected
    token = model.tokenize("a X")[-1]
    assert patchscopes.ask(model, vector, prompt, placeholder=token, max_tokens=4) == expected
    assert patchscopes.ask(model, vector, [ids], placeholder=token, max_tokens=4) == expected


def test_each_placeholder_can_have_a_vector_of_its_own(model):
    prompt, vectors = "The X saw a X. The", np.stack([dog(model, 0), 2 * dog(model, 0)])
    both = {
        "layers.0.resid_pre": [replace_with(v, positions=[p]) for v, p in zip(vectors, (2, 5), strict=True)]
    }
    places = [i for i, piece in enumerate(model.to_str_tokens(prompt)) if piece.strip() == "X"]
    both["layers.0.resid_pre"] = [
        replace_with(v, positions=[p]) for v, p in zip(vectors, places, strict=True)
    ]
    expected = model.generate(prompt, max_tokens=4, interventions=both)
    assert patchscopes.ask(model, vectors[None], prompt, max_tokens=4) == [expected]


def test_adding_keeps_the_tokens_own_activation_and_adds_a_direction_as_long(model):
    vector = dog(model, 1)
    own = get(model, model.trace(PROMPT, capture=["layers.1.resid_pre"]).activations["layers.1.resid_pre"])[0]
    unit = vector / np.linalg.norm(vector)
    added = own[PLACE] + unit * np.linalg.norm(own[PLACE])
    expected = patchscopes.ask(model, added, PROMPT, layer=1, max_tokens=4)
    assert patchscopes.ask(model, 7 * vector, PROMPT, layer=1, mode="add", max_tokens=4) == expected


def test_what_may_be_a_feature_a_vector_a_steering_vector_or_an_activation_elsewhere(model, sae):
    vector = dog(model, 0)
    at = steering.SteeringVector("layers.0.resid_pre", vector)
    native = model.language_model.backend.put(vector.astype(np.float32))
    found = [asked(model, one, layer=0, scales=[1.0]) for one in (vector, vector.tolist(), at, native)]
    assert len({scope.texts for scope in found}) == 1 and "steering vector" in found[2].subject
    there = asked(model, ("layers.0.resid_pre", CONTEXTS[0]), layer=0, scales=[1.0])
    assert there.texts == asked(model, ("layers.0.resid_pre", CONTEXTS[0], 4), layer=0, scales=[1.0]).texts
    assert there.texts == found[0].texts and "' dog'" in there.subject
    assert asked(model, (sae, 741), scales=[1.0]).subject.startswith("feature 741 of the SAE at ")
    assert asked(model, (sae, (741, 0.5)), scales=[1.0]).texts == asked(model, (sae, 741), scales=[1.0]).texts


def test_controls_are_a_random_direction_and_another_feature_and_are_left_out_when_asked(model, sae):
    scope = asked(model, (sae, 741), layer=1, scales=[0.5, 1.0], control=True)
    assert len(scope.certainty.control) == 20 and scope.certainty.kind.startswith("covariance")
    assert len(scope.random) == len(scope.other) == 1 and scope.others[0].startswith("feature ")
    assert scope.certainty.value == pytest.approx(
        float(entropies(get(model, model(PROMPT))[0, -1:])[0]) - scope.entropy.min(), abs=1e-4
    )
    again = asked(model, (sae, 741), layer=1, scales=[0.5, 1.0], control=True)
    assert np.array_equal(scope.certainty.control, again.certainty.control)
    vector = asked(model, dog(model, 0), layer=0, scales=[1.0], control=True)
    assert vector.random and not vector.other and vector.certainty.kind.startswith("isotropic")
    without = asked(model, (sae, 741), layer=1, scales=[1.0])
    assert not without.random and not without.other and "no control" in str(without)


def test_a_known_direction_makes_the_model_more_certain_than_random_ones(model):
    scope = asked(model, ("layers.0.resid_pre", "The big dog"), layer=0, control=True)
    assert scope.certainty.stands_out and "dog" in (scope.best(1)[0].text or "")


def test_several_prompts_are_asked_together_and_averaged(model):
    prompts = [PROMPT, "Tom had a X. His", "She saw the big X and"]
    vector = dog(model, 0)
    scope = model.patchscope(
        vector, prompts, layer=0, scales=[0.5, 1.0], max_tokens=2, control=False, verbose=False
    )
    each = [
        model.patchscope(vector, one, layer=0, scales=[0.5, 1.0], max_tokens=2, control=False, verbose=False)
        for one in prompts
    ]
    assert [one.texts for one in scope.answers] == [one.texts for one in each]
    assert scope.entropy == pytest.approx(np.mean([one.entropy for one in each], axis=0), abs=1e-4)
    low, high = scope.certainty.interval or (0, 0)
    assert low <= scope.certainty.value <= high
    questions = model.patchscope(
        vector, list(patchscopes.PROMPTS), max_tokens=2, control=False, verbose=False
    )
    assert len(questions.prompts) == 3 and questions.placeholder == "X"


def test_derivatives_are_the_slopes_of_the_entropy(model):
    vector = dog(model, 0)
    scope = asked(model, vector, layer=0, scales=[0.499, 0.5, 0.501, 1.2], max_tokens=1, derivatives=True)
    assert scope.derivatives is not None
    slope = (scope.entropy[2] - scope.entropy[0]) / 0.002
    assert scope.derivatives[1] == pytest.approx(slope, rel=0.05, abs=0.02)


def test_a_mean_is_added_where_asked_for(model):
    vector, mean = dog(model, 1), np.full(192, 0.5, np.float32)
    length = float(np.linalg.norm(vector))
    scope = asked(model, vector, layer=1, scales=[length], units="raw", add_mean=mean)
    plain = asked(model, vector + mean, layer=1, scales=[float(np.linalg.norm(vector + mean))], units="raw")
    assert scope.texts == plain.texts and scope.mean_added and not plain.mean_added
    assert asked(model, vector, layer=1, scales=[1.0], add_mean=True).mean_added
    assert not asked(model, vector, layer=1, scales=[1.0], add_mean=False).mean_added


def test_agreement_is_the_share_of_words_in_common_with_the_neighbours():
    one = patchscopes.Answers(("a b", "a c", None, "a"), np.zeros(4), np.zeros(4), {2: "nan"})
    assert one.agreement == pytest.approx([1 / 3, 1 / 3, np.nan, np.nan], nan_ok=True)


def test_the_best_scales_say_why(model):
    scope = asked(model, dog(model, 0), layer=0, scales=SCALES)
    best = scope.best()
    assert len(best) == 3 and len({one.scale for one in best}) == 3 and 0.0 not in [one.scale for one in best]
    assert best[0].why.startswith("lowest next-token entropy") and "nats" in best[0].why
    assert len(scope.best(99)) == len(SCALES) - 1


def test_it_is_printed_written_drawn_and_listed(model, sae, tmp_path):
    scope = asked(model, (sae, 741), layer=1, scales=[0.5, 1.0], control=True, derivatives=True)
    text = str(scope)
    assert "certainty (nats)" in text and "random (covariance-matched)" in text and PROMPT in text
    page = scope.to_html(tmp_path / "scope.html").read_text(encoding="utf-8")
    assert "<script" not in page and "http" not in page.split("</head>")[1] and "self-similarity" in page
    table = scope.to_pandas()
    assert list(table["kind"].unique()) == ["direction", "random", "other"] and len(table) == 6
    figure = scope.plot(tmp_path / "scope.png")
    assert len(figure.axes) == 4 and (tmp_path / "scope.png").stat().st_size > 1000
    assert repr(scope).startswith("<Patchscope of feature 741")


def test_what_acts_on_the_model_acts_here_too(model):
    vector = dog(model, 0)
    plain = asked(model, vector, layer=0, scales=[1.0])
    with model.steer(steering.add_direction(dog(model, 3) * 10, 1.0, "layers.3.resid_post")):
        steered = asked(model, vector, layer=0, scales=[1.0])
    assert plain.entropy[0] != pytest.approx(steered.entropy[0], abs=1e-3)
    assert asked(model, vector, layer=0, scales=[1.0]).texts == plain.texts


def test_a_scale_that_gives_no_numbers_is_told_and_the_others_go_on(model):
    overflowing = mlxterp.Controller("layers.0.resid_post", lambda x: (x * 1e15) * 1e15 / 1e30)
    with model.add_hook(overflowing):
        scope = asked(model, dog(model, 0), layer=0, scales=[1.0, 1e12], units="raw")
        with pytest.warns(mlxterp.MlxterpWarning, match="Texts 1 of 2 failed"):
            told = patchscopes.ask(
                model, np.stack([dog(model, 0), dog(model, 0) * 1e12]), PROMPT, max_tokens=2
            )
    assert scope.texts[0] is not None and scope.texts[1] is None and list(scope.answers[0].failures) == [1]
    assert np.isnan(scope.entropy[1]) and [one.scale for one in scope.best()] == [1.0]
    assert "(failed)" in str(scope) and "1 texts could not be written" in str(scope)
    assert told[0] is not None and told[1] is None


def test_a_hook_that_raises_ends_the_scope_and_leaves_nothing_behind(model):
    def fails(_):
        raise ZeroDivisionError("the hook's own")

    before = model.generate(PROMPT, max_tokens=3)
    with model.add_hook(mlxterp.Controller("layers.1.mlp", fails)), pytest.raises(ZeroDivisionError):
        asked(model, dog(model, 0), layer=0, scales=[1.0])
    assert model.generate(PROMPT, max_tokens=3) == before and not model.attached


def test_a_vector_beyond_the_models_numbers_is_refused(model):
    with pytest.raises(InputError, match="go up to"):
        patchscopes.ask(model, np.stack([dog(model, 0)] * 2) * 1e25, PROMPT, max_tokens=2)


BAD = {
    "no placeholder": ({"prompt": "She saw a dog. The"}, InputError, "holds none of 'X'"),
    "a named one that is not there": ({"placeholder": "Z"}, InputError, "holds no placeholder 'Z'"),
    "several tokens": (
        {"prompt": "She saw zyxwvq. The", "placeholder": "zyxwvq"}, InputError, "stands once in the prompt"
    ),
    "an empty one": ({"placeholder": " "}, InputError, "placeholder is ' '"),
    "a number that is no id": ({"placeholder": -3}, InputError, "placeholder is -3"),
    "an id that is not there": ({"placeholder": 3}, InputError, "token 3"),
    "a layer out of range": ({"layer": 9}, ComponentError, "no layer 9"),
    "a layer that is none": ({"layer": "2"}, ComponentError, "no layer"),
    "a negative scale": ({"scales": [1.0, -2.0]}, InputError, "opposite direction"),
    "a huge scale": ({"scales": [1e300]}, InputError, "A scale is 1e"),
    "a scale that is no number": ({"scales": [float("nan")]}, InputError, "A scale is nan"),
    "no scales": ({"scales": []}, InputError, "scales= is empty"),
    "scales that are words": ({"scales": "12"}, InputError, "A scale is '12'"),
    "other units": ({"units": "max"}, InputError, "units is 'max'"),
    "a vector of another width": ({"what": np.ones(5)}, InputError, "has 5 numbers; expected 192"),
    "a vector of words": ({"what": ["a", "b"]}, InputError, "what is a list of 2"),
    "a vector of zeros": ({"what": np.zeros(192)}, InputError, "is zero"),
    "a vector that is not finite": ({"what": np.full(192, np.nan)}, InputError, "no direction"),
    "no subject": ({"what": "dog"}, InputError, r"expected \(sae, feature\)"),
    "a position outside the other text": (
        {"what": ("layers.0.resid_pre", "The dog", 7)}, InputError, "Position 7 is outside the other text"
    ),
    "a component as wide as something else": (
        {"what": ("layers.0.mlp.gate_proj", "The dog")}, ComponentError, "as wide as"
    ),
    "a mean of another width": ({"add_mean": np.ones(3)}, InputError, "add_mean has 3"),
    "an empty list of prompts": ({"prompt": []}, InputError, "prompt= is empty"),
    "an empty prompt": ({"prompt": ""}, InputError, "holds none of"),
    "a chat without a template": ({"prompt": [{"role": "user", "content": "X?"}]}, InputError, "template"),
    "a message that is none": ({"prompt": [{"role": "user"}]}, InputError, "A message is"),
    "a prompt beyond the positions": (
        {"prompt": "X " * 600}, (InputError, mlxterp.MlxterpWarning), "max_tokens=3 make"
    ),
    "no tokens": ({"max_tokens": 0}, InputError, "max_tokens is 0"),
    "a seed that is none": ({"seed": -1}, InputError, "seed is -1"),
    "an unknown argument": ({"steps": 3}, InputError, "takes no steps="),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_anything_runs(name, model):
    given, error, told = BAD[name]
    settings = {"what": np.ones(192), "prompt": PROMPT, "max_tokens": 3, "verbose": False, "control": False}
    with pytest.raises(error, match=told):
        model.patchscope(**{**settings, **given})


def test_a_feature_that_is_not_there_and_an_sae_of_another_width_are_refused(model, sae):
    with pytest.raises(UnknownFeatureError, match="No feature 99999"):
        asked(model, (sae, 99999))
    from tests.letters import random_sae

    with pytest.raises(mlxterp.SAEError, match="decoder rows have 7 numbers"):
        asked(model, (random_sae(7), 1))


def test_vectors_that_do_not_fit_are_refused(model):
    with pytest.raises(InputError, match=r"vectors has shape \(2, 5\)"):
        patchscopes.ask(model, np.ones((2, 5)), PROMPT)
    with pytest.raises(InputError, match="2 for each text, and the prompt has 1"):
        patchscopes.ask(model, np.ones((1, 2, 192)), PROMPT)
    with pytest.raises(InputError, match="no direction to add"):
        patchscopes.ask(model, np.zeros(192), PROMPT, mode="add")
    with pytest.raises(InputError, match="mode is 'mix'"):
        patchscopes.ask(model, np.ones(192), PROMPT, mode="mix")  # type: ignore[arg-type]


def test_models_without_a_tokenizer_are_asked_by_token_ids(model):
    plain = mlxterp.InterpretableModel(model.session.plain.model.model)  # type: ignore[attr-defined]
    ids = model.tokenize(PROMPT)
    scope = plain.patchscope(
        dog(model, 0), ids, placeholder=ids[PLACE], layer=0, scales=[1.0], units="raw", stop=None, max_tokens=2,
        control=False, verbose=False,
    )  # fmt: skip
    assert (
        scope.texts[0] is not None and scope.texts[0].startswith("#") and scope.prompts[0].startswith("#0 #")
    )
    with pytest.raises(InputError, match="by its token id"):
        plain.patchscope(dog(model, 0), ids, layer=0, verbose=False)
    with pytest.raises(InputError, match="need a tokenizer"):
        plain.patchscope(dog(model, 0), verbose=False)


def test_what_is_no_direction_is_said_with_what_can_be_asked_about(model, sae):
    for what, told in (
        (None, "NoneType"),
        (741, "int"),
        ([sae, 741], "a list of 2 (SAE, int)"),
        ((741, sae), "a tuple of 2"),
    ):
        with pytest.raises(InputError) as raised:
            asked(model, what)
        assert f"what is {told}" in str(raised.value) and "expected (sae, feature)" in str(raised.value)


def test_prompts_may_come_as_a_column_a_generator_or_an_array(model):
    pandas = pytest.importorskip("pandas")
    vector, one = (
        dog(model, 0),
        {"layer": 0, "scales": [1.0], "max_tokens": 1, "control": False, "verbose": False},
    )
    expected = model.patchscope(vector, [PROMPT, PROMPT], **one).prompts
    for prompts in (pandas.Series([PROMPT] * 2), (PROMPT for _ in range(2)), np.array([PROMPT] * 2)):
        assert model.patchscope(vector, prompts, **one).prompts == expected
