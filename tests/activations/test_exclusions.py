"""One rule of which tokens count, for searches, views, the index and training."""

from __future__ import annotations

import numpy as np
import pytest

import mlxterp
from mlxterp import InputError, SAETrainConfig, collect_activations
from mlxterp.activations.exclusions import SINK, Rule, first_reasons, prose, rule_for, sink_length
from mlxterp.activations.forward import collect
from mlxterp.variants import TopK
from tests.index.small import COMPONENT, TEXTS, random_sae
from tests.tiny import tiny_llama


@pytest.fixture(scope="module")
def model():
    return mlxterp.load_demo().model


def test_a_sink_is_longer_than_ten_times_the_median_on_the_prose(model):
    lm, place = model.language_model, model.anatomy.component(COMPONENT)
    lengths = np.concatenate([lm.backend.lengths(part.values) for part in collect(lm, prose(lm), place)])
    assert sink_length(lm, place) == SINK * np.median(lengths[1:])
    rule = Rule(("bos", "sinks"), 7, 2.0)
    tokens, positions, lengths = np.array([7, 1, 7, 2]), np.arange(4), np.array([9.0, 9.0, 1.0, 2.0])
    assert rule.reasons(tokens, positions, lengths).tolist() == [0, 1, 0, -1]
    assert Rule.from_json(rule.to_json()) == rule


def test_a_sink_of_one_component_is_left_out_of_all_in_training():
    rules = [Rule(("bos", "first", "sinks"), 7, length) for length in (2.0, 5.0)]
    tokens, positions = np.array([7, 1, 1, 1, 1]), np.array([1, 0, 1, 2, 3])
    lengths = [np.array([9.0, 9.0, 9.0, 1.0, 1.0]), np.array([9.0, 1.0, 1.0, 9.0, 4.0])]
    assert first_reasons(rules, tokens, positions, lengths).tolist() == [0, 1, 2, 2, -1]


@pytest.mark.parametrize("exclude", [(), "bos", ("sinks",), ("bos", "sinks"), ["sinks", "bos"]])
def test_direct_answers_with_exclude_are_those_of_an_index_with_it(model, exclude):
    sae = random_sae(TopK(8), model.d_model)
    index = model.build_index(sae, TEXTS, exclude=exclude, verbose=False)
    for feature in range(0, 64, 7):
        direct = model.get_top_texts_for_feature(feature, sae, TEXTS, exclude=exclude)
        assert direct == index.top_texts(feature)
        assert direct == model.get_top_texts_for_feature(feature, sae, TEXTS, index=index, exclude=exclude)
    assert model.get_top_features_for_text(TEXTS[1], sae, exclude=exclude) == index.top_features(TEXTS[1])
    view = model.visualize_feature_activations(TEXTS[1], sae, exclude=exclude, top_k=3)
    assert list(view.feature_ids) == [f for f, _ in index.top_features(TEXTS[1], 3)]
    assert (view.activations[:, 0] != 0).any() == ("bos" not in np.atleast_1d(exclude))


def test_every_token_counts_by_default(model):
    sae = random_sae(TopK(8), model.d_model)
    plain = model.get_top_texts_for_feature(3, sae, TEXTS)
    assert plain == model.get_top_texts_for_feature(3, sae, TEXTS, exclude=())
    assert plain == model.get_top_texts_for_feature(3, sae, TEXTS)  # what was kept knows all tokens
    index = model.build_index(sae, TEXTS, verbose=False)
    with pytest.raises(InputError, match=r"leaves out \('bos', 'sinks'\), asked was exclude=\(\)"):
        model.get_top_texts_for_feature(3, sae, TEXTS, index=index, exclude=())
    for bad in ("everything", ("bos", "all"), 3):
        with pytest.raises(InputError, match="bos, sinks"):
            model.get_top_features_for_text("a", sae, exclude=bad)


def test_training_leaves_out_what_the_index_leaves_out(model, tmp_path):
    place = "layers.1.mlp"
    lm, component = model.language_model, model.anatomy.component(place)
    rule = rule_for(lm, component, ("sinks",))
    texts = [TEXTS[0], TEXTS[5], TEXTS[7]]
    expected = sum(
        int((lm.backend.lengths(part.values) > rule.sink_length).sum())
        for text in texts
        for part in collect(lm, _corpus(model, text), component)
    )
    store = collect_activations(
        model,
        texts,
        place,
        tmp_path / "a",
        exclude=("sinks",),
        batch_tokens=16,
        progress=False,
        dtype="float32",
    )
    assert store.meta["excluded"] == {"sinks": expected}
    other = collect_activations(
        model,
        texts,
        place,
        tmp_path / "b",
        exclude=("sinks",),
        batch_tokens=4096,
        progress=False,
        dtype="float32",
    )
    assert other.meta["excluded"] == store.meta["excluded"]  # the rule does not depend on the batches


def test_a_model_without_a_tokenizer_has_a_rule_too():
    pytest.importorskip("mlx_lm")
    bare = tiny_llama(2)
    rule = rule_for(bare.language_model, bare.anatomy.component("layers.0.mlp"), ("bos", "sinks"))
    assert rule.bos is None and rule.sink_length > 0
    config = SAETrainConfig(d_hidden=8, k=2, batch_size=16)
    assert (
        bare.train_sae(0, [[1, 2, 3, 4]] * 9, "mlp", config, verbose=False).metadata["excluded_tokens"]["bos"]
        == 0
    )


def _corpus(model, text):
    from mlxterp.data.corpus import Corpus

    return Corpus.from_texts([text], model.tokenize)
