"""A keyword argument that a call does not know is named with what was meant."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from mlxterp import (
    SAE,
    Concepts,
    FeatureIndex,
    InputError,
    InterpretableModel,
    LocalStore,
    SAETrainConfig,
    collect_activations,
    interventions,
    logit_difference,
    steering,
    train_sae,
)
from mlxterp.core.options import SYNONYMS, check_options, checked_call, hint
from tests.tiny import WordTokenizer, tiny_llama

TEXTS = ["the cat sat on a mat", "a big dog saw it", "run to an old red hat"] * 4


@pytest.fixture(scope="module")
def model() -> InterpretableModel:
    pytest.importorskip("mlx_lm")
    return tiny_llama(2, tokenizer=WordTokenizer())


@pytest.mark.parametrize(
    ("call", "name", "meant"),
    [
        (InterpretableModel.generate, "max_new_tokens", "max_tokens"),
        (InterpretableModel.stream_generate, "max_new_tokens", "max_tokens"),
        (InterpretableModel.generate, "temprature", "temperature"),
        (InterpretableModel.get_top_features_for_text, "k", "top_k"),
        (InterpretableModel.get_top_features_for_text, "topk", "top_k"),
        (InterpretableModel.get_top_texts_for_feature, "layer_idx", "layer"),
        (InterpretableModel.get_top_texts_for_feature, "hook_point", "component"),
        (InterpretableModel.visualize_feature_activations, "features", "feature_ids"),
        (InterpretableModel.train_sae, "n_features", "d_hidden"),
        (InterpretableModel.train_saes, "learning_rate", "lr"),
        (InterpretableModel.trace, "fwd_hooks", "interventions"),
        (InterpretableModel.build_index, "layer_index", "layer"),
        (FeatureIndex.top_texts, "k", "top_k"),
        (FeatureIndex.open, "modle", "model"),
        (SAE.load, "formt", "format"),
        (collect_activations, "hook_name", "at"),
        (steering.add_feature, "coefficient", "strength"),
    ],
)
def test_a_name_of_another_library_is_told_by_ours(call, name, meant, model):
    given = {"train_sae": (model, 1, TEXTS), "train_saes": (model, {"a": "layers.1.mlp"}, TEXTS)}
    arguments = given.get(call.__name__, (model, "x") if call.__name__ == "stream_generate" else ())
    with pytest.raises(InputError, match=rf"takes no {name}=\. Did you mean {meant}=\?"):
        call(*arguments, **{name: 3})


def test_what_is_done_otherwise_is_said_and_else_what_there_is():
    with pytest.raises(InputError, match=r"takes no device_map=\. A model is placed by its library"):
        InterpretableModel("somewhere", device_map="auto")  # type: ignore[call-arg]
    with pytest.raises(
        InputError, match=r"SAETrainConfig takes no zebra=\. There are: d_hidden, expansion_factor"
    ):
        SAETrainConfig(zebra=1)  # type: ignore[call-arg]
    assert hint("zebra", ["a", "_b"]) == " There are: a."
    check_options({"a": 1}, ["a"], "call")


def test_a_checked_call_is_the_function_it_was():
    def function(a: int, *, top_k: int = 3) -> int:
        """Says so."""
        return a + top_k

    checked = checked_call(function, "f")
    assert checked(1) == 4 and checked(a=1, top_k=1) == 2
    assert inspect.signature(checked) == inspect.signature(function) and checked.__doc__ == "Says so."
    assert "sae" in inspect.signature(InterpretableModel.build_index).parameters
    with pytest.raises(TypeError):  # what is missing is Python's to say
        checked()


def test_every_synonym_leads_to_names_that_are_not_its_own():
    assert all(name not in ours and ours for name, ours in SYNONYMS.items())


def test_settings_beside_a_config_and_configs_as_dictionaries_are_understood(model):
    plain = SAETrainConfig(d_hidden=16, k=2, batch_size=16)
    trained = model.train_sae(1, TEXTS, "mlp", plain, verbose=False)
    given = [
        {"config": {"d_hidden": 16, "k": 2, "batch_size": 16}}, {"d_hidden": 16, "k": 2, "batch_size": 16},
        {"config": SAETrainConfig(d_hidden=8, k=2, batch_size=16), "d_hidden": 16},
        {"config": {"d_hidden": 8, "k": 2}, "d_hidden": np.int64(16), "batch_size": np.uint8(16)},
    ]  # fmt: skip
    for options in given:
        assert model.train_sae(1, TEXTS, "mlp", verbose=False, **options).fingerprint == trained.fingerprint
    jobs = {"a": ("layers.1.mlp", {"d_hidden": 16, "k": 2}), "b": "layers.0.mlp"}
    both = model.train_saes(jobs, TEXTS, verbose=False, k=2, batch_size=16, d_hidden=16)
    assert both["a"].fingerprint == trained.fingerprint and both["b"].d_hidden == 16
    with pytest.raises(InputError, match="config is int; expected SAETrainConfig"):
        model.train_sae(1, TEXTS, "mlp", 3)
    with pytest.raises(InputError, match=r"SAETrainConfig takes no dict_size=\. Did you mean d_hidden"):
        model.train_sae(1, TEXTS, "mlp", {"dict_size": 3})


def test_settings_beside_an_arrays_config_are_understood(backend):
    x = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    settings: dict[str, Any] = {"d_hidden": 16, "k": 2, "batch_size": 16, "epochs": 1}
    plain = train_sae(x, SAETrainConfig(**settings), backend, progress=False)
    for config, beside in ((settings, {}), (None, settings), ({"d_hidden": 8, "k": 2}, settings)):
        found = train_sae(x, config, backend, progress=False, **beside)
        assert found.fingerprint == plain.fingerprint
    with pytest.raises(InputError, match=r"train_sae takes no dict_size=\. Did you mean d_hidden="):
        train_sae(x, dict_size=16)
    with pytest.raises(InputError, match=r"train_sae takes no save_pth=\. Did you mean save_path="):
        train_sae(x, settings, save_pth="x")


def _untyped(given: Any) -> Any:
    return given


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: _untyped(interventions.scale)(2.0, position=1),
            "scale takes no position=. Did you mean positions=",
        ),
        (lambda: _untyped(interventions.zero_out)(head=1), "zero_out takes no head=. Did you mean heads="),
        (
            lambda: _untyped(interventions.noise)(1.0, random_state=1),
            "noise takes no random_state=. Did you mean seed=",
        ),
        (
            lambda: _untyped(logit_difference)("a", "b", positions=1),
            "logit_difference takes no positions=. Did you mean",
        ),
        (lambda: _untyped(LocalStore)(path="x"), "LocalStore takes no path="),
        (
            lambda: _untyped(Concepts(4).enable_text_tracking)(k=3),
            "enable_text_tracking takes no k=. Did you mean top_k=",
        ),
        (
            lambda: _untyped(steering.difference_of_means)(None, [], [], layer=1),
            "difference_of_means takes no layer=",
        ),
        (lambda: _untyped(steering.max_activation)(None, 3, idx=1), "max_activation takes no idx="),
    ],
)
def test_public_functions_name_what_they_do_not_know(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_what_is_no_sae_is_named_where_one_is_expected(model):
    for bad in (None, 3, np.zeros((4, 4)), {"W_enc": 1}):
        with pytest.raises(InputError, match="Expected an SAE, its file or folder"):
            model.load_sae(bad)
        with pytest.raises(InputError, match="Expected an SAE, its file or folder"):
            model.get_top_features_for_text("the cat", bad)
        with pytest.raises(InputError, match="Expected an SAE, its file or folder"):
            model.build_index(bad, TEXTS)
