"""Numbers that settings cannot be are refused where a call begins, alike in both wings, by this library's errors."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import (
    FeatureIndex,
    InputError,
    InterpretableModel,
    MlxterpError,
    SAETrainConfig,
    collect_activations,
    interventions,
    steering,
    train_sae,
)
from mlxterp.core import checks
from mlxterp.tracing.generation import Request
from tests.letters import llama_of_mlx, random_sae

TEXTS = ["the cat sat", "on a red mat and more", "zebra", "to be or not"] * 6
PROMPT = "the cat sat"
PATCHING: dict[str, Any] = {
    "clean_text": PROMPT, "corrupted_text": "the dog sat", "component": "mlp",
    "metric": mlxterp.logit_difference(5, 6),
}  # fmt: skip
PLACE = "layers.1.mlp"


@pytest.fixture
def model(letter_model: InterpretableModel) -> InterpretableModel:
    return letter_model


# -- generation ---------------------------------------------------------------------------------

NO_COUNT: list[Any] = [
    0,
    -1,
    2.5,
    2.0,
    "3",
    None,
    True,
    False,
    float("nan"),
    float("inf"),
    [3],
    np.bool_(True),
    b"3",
]
BAD_GENERATION: dict[str, list[Any]] = {
    "max_tokens": NO_COUNT,
    "prefill_step_size": [*NO_COUNT, 1.5],
    "temperature": [float("nan"), float("inf"), -1.0, -1e-30, "1", None, True, [1.0], 10**400, 1j],
    "top_p": [None, 0, 0.0, -0.1, 1.1, float("nan"), "0.5", True, [0.5], float("inf")],
    "seed": [-1, 2**64, 1.5, 1.0, "0", True, float("nan"), [0], 10**30],
    "stop": [[3], 3, [""], "", ["a", None], b"a", [b"a"], True, {"a": 1}.values(), [["a"]]],
    "chat": ["yes", 1, None, 0.0],
}


@pytest.mark.parametrize("name", list(BAD_GENERATION))
def test_no_setting_of_generation_that_cannot_be_is_accepted(model, name):
    for value in BAD_GENERATION[name]:
        if name == "stop" and not isinstance(value, (list, str, int, bytes)):
            continue  # any iterable of strings will do; here of numbers
        with pytest.raises(InputError, match=name):
            model.generate(PROMPT, **{"max_tokens": 2, "temperature": 0.5, name: value})
        with pytest.raises(InputError, match=name):
            model.stream_generate(PROMPT, **{"max_tokens": 2, "temperature": 0.5, name: value})


def test_every_setting_of_generation_is_checked():
    free = {"interventions", "positions"}  # no numbers; they have tests of their own
    assert {field.name for field in dataclasses.fields(Request)} == set(BAD_GENERATION) | free


def test_whatever_counts_is_a_count(model):
    expected = model.generate(PROMPT, max_tokens=3, prefill_step_size=4, temperature=1.0, seed=7)

    class Three:
        def __index__(self) -> int:
            return 3

    for three in (np.int64(3), np.uint8(3), np.array(3), Three()):
        found = model.generate(
            PROMPT, max_tokens=three, prefill_step_size=np.int32(4), temperature=np.float32(1.0),
            top_p=np.float64(1.0), seed=np.uint64(7), chat=np.bool_(False), stop=None,
        )  # fmt: skip
        assert found == expected
    assert model.generate(PROMPT, max_tokens=3, temperature=1, top_p=1, seed=7) == expected


@pytest.mark.parametrize("temperature", [0, 0.0, -0.0, 1e-42, 5e-324, 9e-7, np.float16(0)])
def test_a_temperature_near_0_takes_the_likeliest_token(model, temperature):
    assert model.generate(PROMPT, max_tokens=5, temperature=temperature) == model.generate(
        PROMPT, max_tokens=5
    )


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63, 2**64 - 1])
def test_every_seed_below_2_to_64_repeats(model, seed):
    one, two = (model.generate(PROMPT, max_tokens=8, temperature=1.5, seed=seed) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("temperature", [1e-6, 1e-3, 1e3, 1e30, 1e308])
def test_every_other_temperature_samples(model, temperature):
    assert isinstance(model.generate(PROMPT, max_tokens=3, temperature=temperature, seed=0), str)


def test_stop_takes_any_iterable_of_strings(model):
    whole = model.generate(PROMPT, max_tokens=12)
    middle = whole[4:6]
    expected = model.generate(PROMPT, max_tokens=12, stop=middle)
    assert expected == whole[: whole.index(middle)]
    for several in ([middle], (middle,), np.array([middle]), iter([middle]), {middle}):
        assert model.generate(PROMPT, max_tokens=12, stop=several) == expected


# -- every other call ---------------------------------------------------------------------------

COUNT: list[Any] = [0, -1, 2.5, "3", float("nan"), float("inf"), True, [1, 2], 1j]
NUMBER: list[Any] = [float("nan"), float("inf"), "1", [1.0, 2.0], 1j, 10**400]
SEED: list[Any] = [-1, 2**64, 1.5, "0", float("nan"), [0, 1]]
LAYER: list[Any] = [99, -99, 1.5, "x", float("nan"), [0, 1]]

Call = Callable[[InterpretableModel, Any, Any, dict[str, Any]], Any]


def config(**settings: Any) -> SAETrainConfig:
    return SAETrainConfig(**{"d_hidden": 32, "k": 2, **settings})


CALLS: dict[str, tuple[Call, dict[str, list[Any]]]] = {
    "top_features": (
        lambda m, sae, tmp, given: m.get_top_features_for_text(PROMPT, sae, **{"layer": 1, **given}),
        {"top_k": COUNT, "layer": LAYER},
    ),
    "top_texts": (
        lambda m, sae, tmp, given: m.get_top_texts_for_feature(
            **{"feature_id": 3, "sae": sae, "texts": TEXTS, "layer": 1, **given}
        ),
        {"top_k": COUNT, "layer": LAYER, "feature_id": LAYER},
    ),
    "visualize": (
        lambda m, sae, tmp, given: m.visualize_feature_activations(PROMPT, sae, **{"layer": 1, **given}),
        {"top_k": COUNT, "layer": LAYER, "feature_ids": [99, -1, 1.5, "x", float("nan")]},
    ),
    "feature_logits": (
        lambda m, sae, tmp, given: m.feature_logits(sae, **{"feature_id": 3, "component": PLACE, **given}),
        {"top_k": COUNT, "feature_id": [99, -1, 1.5, "x", float("nan")]},
    ),
    "random_direction_baseline": (
        lambda m, sae, tmp, given: m.random_direction_baseline(sae, **{"n": 3, "component": PLACE, **given}),
        {"n": COUNT, "seed": SEED},
    ),
    "check": (lambda m, sae, tmp, given: m.check_sae(sae, TEXTS, PLACE, **given), {"max_tokens": COUNT}),
    "evaluate": (lambda m, sae, tmp, given: m.evaluate_sae(sae, TEXTS, PLACE, **given), {"max_tokens": COUNT}),
    "build_index": (
        lambda m, sae, tmp, given: m.build_index(sae, TEXTS, component=PLACE, verbose=False, **given),
        {"n_examples": COUNT, "seed": SEED, "shard_tokens": COUNT, "workers": COUNT},
    ),
    "collect_activations": (
        lambda m, sae, tmp, given: collect_activations(m, TEXTS, PLACE, tmp, progress=False, **given),
        {"tokens": COUNT, "context_length": COUNT, "batch_tokens": COUNT, "seed": SEED},
    ),
    "train_sae": (
        lambda m, sae, tmp, given: m.train_sae(
            **{"layer": 1, "dataset": TEXTS, "config": config(), "verbose": False, **given}
        ),
        {"layer": LAYER, "context_length": COUNT, "checkpoint_every": COUNT},
    ),
    "generate_many": (
        lambda m, sae, tmp, given: m.generate([PROMPT] * 3, **{"max_tokens": 2, **given}),
        {"max_tokens": [*COUNT, [1, 2, 0], [1, 2, 2.5]], "batch_tokens": COUNT},
    ),
    "logit_lens": (
        lambda m, sae, tmp, given: m.logit_lens(PROMPT, **given),
        {"top_k": COUNT, "position": [1.5, "x", float("nan"), 999], "layers": [[99], [1.5], ["x"]]},
    ),
    "activation_patching": (
        lambda m, sae, tmp, given: m.activation_patching(**{**PATCHING, **given}),
        {"batch_size": COUNT, "layers": [[99], [1.5], ["x"]]},
    ),
    "logit_difference": (
        lambda m, sae, tmp, given: m.gradients(
            PROMPT, mlxterp.logit_difference(**{"correct": 5, "wrong": 6, **given}), PLACE
        ),
        {"position": [1.5, "x", float("nan"), 999], "correct": [1.5, float("nan"), 10**6, -1]},
    ),
    "calibrate": (
        lambda m, sae, tmp, given: steering.calibrate(
            m, sae, 3, [1.0], "raw",
            **{"at": PLACE, "prompts": ["a"], "max_tokens": 2, "verbose": False, "neutral": ["cat"], **given}
        ),
        {"max_tokens": COUNT, "seed": SEED, "temperature": [*NUMBER, -1.0], "max_perplexity": NUMBER,
         "max_repetition": NUMBER, "min_effect": NUMBER},
    ),
    "difference_of_means": (
        lambda m, sae, tmp, given: steering.difference_of_means(m, ["a", "b"], ["c", "d"], PLACE, **given),
        {"batch_tokens": COUNT},
    ),
    "add_feature": (
        lambda m, sae, tmp, given: steering.add_feature(sae, **{"feature": 3, "strength": 1.0, **given}),
        {"feature": [99, -1, 1.5, float("nan")], "strength": NUMBER},
    ),
    "noise": (
        lambda m, sae, tmp, given: interventions.noise(**{"std": 1.0, **given}), {"std": [*NUMBER, -1.0], "seed": SEED}
    ),
    "similar": (
        lambda m, sae, tmp, given: sae.similar(**{"feature_id": 3, **given}),
        {"top_k": COUNT, "feature_id": [99, -1, 1.5, "x"]},
    ),
    "select_diverse": (
        lambda m, sae, tmp, given: sae.select_diverse(**{"n": 2, **given}),
        {"n": COUNT, "max_cos": NUMBER},
    ),
    "tracking": (lambda m, sae, tmp, given: sae.concepts.enable_text_tracking(**given), {"top_k": COUNT}),
    "config": (
        lambda m, sae, tmp, given: config(**given),
        {
            "d_hidden": COUNT, "k": COUNT, "tokens": COUNT, "epochs": COUNT, "batch_size": COUNT,
            "lr": [*NUMBER, 0, -1.0], "seed": SEED, "expansion_factor": COUNT[:2] + COUNT[3:],
        },
    ),
    "train_on_array": (
        lambda m, sae, tmp, given: train_sae(
            np.ones((64, 8), np.float32), config(), progress=False, run_dir=tmp, **given
        ),
        {"checkpoint_every": COUNT},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CALLS))
def test_no_number_that_a_setting_cannot_be_is_accepted(name, tmp_path):
    model = llama_of_mlx()
    sae = random_sae(model.d_model, d_hidden=24)
    sae.metadata["component"] = PLACE
    call, settings = CALLS[name]
    wrong = []
    for setting, values in settings.items():
        for i, value in enumerate(values):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    call(model, sae, tmp_path / f"{setting}{i}", {setting: value})
                wrong.append(f"{setting}={value!r} was accepted")
            except MlxterpError:
                pass
            except Exception as error:
                wrong.append(f"{setting}={value!r}: {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)


def test_an_index_takes_no_number_that_cannot_be(tmp_path):
    model = llama_of_mlx()
    sae = random_sae(model.d_model, d_hidden=24)
    index: FeatureIndex = model.build_index(sae, TEXTS, tmp_path / "i", component=PLACE, verbose=False)
    wrong = []
    for name, call, values in (
        ("top_texts", lambda v: index.top_texts(3, v), COUNT),
        ("top_texts", lambda v: index.top_texts(v), [99, -1, 1.5, "x"]),
        ("examples", lambda v: index.examples(3, v), COUNT),
        ("features_for_token", lambda v: index.features_for_token("t", v), COUNT),
        ("search", lambda v: index.search("cat", v), COUNT),
        ("stats", lambda v: index.stats(v), [99, -1, 1.5, "x"]),
    ):
        for value in values:
            try:
                call(value)
                wrong.append(f"{name}({value!r}) was accepted")
            except MlxterpError:
                pass
            except Exception as error:
                wrong.append(f"{name}({value!r}): {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)


def test_numbers_of_numpy_are_numbers_everywhere(tmp_path):
    model = llama_of_mlx()
    sae = random_sae(model.d_model, d_hidden=24)
    two: Any = np.int64(2)
    many: Any = np.int32(200)
    none: Any = np.uint64(0)
    few: Any = np.int8(20)
    one: Any = np.int64(1)
    settings = config(k=two, d_hidden=np.int16(32), lr=np.float32(1e-3), seed=none, batch_size=np.int64(64))
    assert type(settings.k) is int and type(settings.lr) is float
    store = collect_activations(
        model, TEXTS, PLACE, tmp_path / "store", progress=False, tokens=many, context_length=few,
        batch_tokens=many, seed=none,
    )  # fmt: skip
    trained = train_sae(store, settings, progress=False, checkpoint_every=two, save_path=tmp_path / "sae")
    assert trained.k == 2
    assert len(model.get_top_features_for_text(PROMPT, sae, one, top_k=two)) == 2
    assert model.evaluate_sae(sae, TEXTS, PLACE, max_tokens=many).tokens > 0
    index = model.build_index(
        sae, TEXTS, tmp_path / "index", two, component=PLACE, seed=none, shard_tokens=many, verbose=False
    )
    assert index.n_examples == 2 and FeatureIndex.open(tmp_path / "index").n_examples == 2
    assert len(sae.similar(two, two)) == 2


# -- the checks themselves ----------------------------------------------------------------------


def test_checks_say_what_came_and_what_was_expected():
    with pytest.raises(InputError, match=r"top_k is 2.5; it must be an integer of at least 1"):
        checks.count(2.5, "top_k")
    with pytest.raises(InputError, match=r"seed is -1; it must be an integer in \[0, 2\*\*64\)"):
        checks.seed(-1)
    with pytest.raises(InputError, match=r"lr is nan; it must be a finite number, above 0"):
        checks.finite(float("nan"), "lr", above=0.0)
    with pytest.raises(InputError, match=r"mode is 'x'; it must be one of 'a', 'b'"):
        checks.choice("x", "mode", ("a", "b"))
    with pytest.raises(mlxterp.SAEError, match="k"):
        checks.count(0, "k", error=mlxterp.SAEError)


def test_arrays_of_both_libraries_count_as_their_one_number(backend):
    make: Any
    if backend == "mlx":
        import mlx.core as mx

        make = mx.array
    else:
        import torch

        make = torch.tensor
    assert checks.finite(make(0.5), "x") == 0.5
    for wrong in (make([1, 2]), make(True)):
        with pytest.raises(InputError):
            checks.count(wrong, "x")
        with pytest.raises(InputError):
            checks.finite(wrong, "x")
