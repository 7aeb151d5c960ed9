"""A keyword argument that a call does not know is named with what was meant."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from mlxterp import (
    SAE,
    FeatureIndex,
    InputError,
    InterpretableModel,
    SAETrainConfig,
    collect_activations,
    steering,
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
