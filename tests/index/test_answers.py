"""What an index answers, compared with brute force and with the calls that need no index."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlxterp
from mlxterp import FeatureIndex, InputError, InterpretableModel
from mlxterp.index.stats import log_histogram
from mlxterp.variants import AbsTopK, TopK
from mlxterp.weights import SAEWeights
from tests import oracle
from tests.index.small import ACTIVATIONS, COMPONENT, TEXTS, dense_features, random_sae
from tests.ranking import assert_top_texts


def sae_of(index: FeatureIndex) -> mlxterp.SAE:
    assert index.source is not None
    return index.source.sae


def assert_same_texts(found, expected, rtol=1e-4):
    assert [(text, at) for text, _, at in found] == [(text, at) for text, _, at in expected]
    np.testing.assert_allclose([v for _, v, _ in found], [v for _, v, _ in expected], rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_an_index_of_every_token_answers_as_brute_force(kind, model: InterpretableModel):
    sae = random_sae(ACTIVATIONS[kind], model.d_model)
    index = model.build_index(sae, TEXTS, exclude=(), shard_tokens=20)
    dense = dense_features(model, sae, TEXTS)
    for feature in range(sae.d_hidden):
        assert_top_texts(index.top_texts(feature, 5), dense, TEXTS, feature, 5)
    count = sum((d != 0).sum(axis=0) for d in dense)
    assert np.array_equal(index.to_pandas()["count"], count)
    assert index.excluded == {} and index.n_tokens == sum(map(len, dense))


def test_an_index_of_every_token_answers_as_the_direct_calls(model: InterpretableModel):
    sae = random_sae(TopK(8), model.d_model)
    index = model.build_index(sae, TEXTS, exclude=())
    for feature in range(0, sae.d_hidden, 3):
        direct = model.get_top_texts_for_feature(feature, sae, TEXTS, 1, "resid_post")
        assert_same_texts(index.top_texts(feature), direct)
        again = model.get_top_texts_for_feature(feature, sae, TEXTS, 1, "resid_post", index=index)
        assert again == index.top_texts(feature)
    for text in TEXTS[:3]:
        direct = model.get_top_features_for_text(text, sae, 1, "resid_post")
        assert index.top_features(text) == direct


def test_an_index_without_its_model_shows_characters_of_several_tokens(demo, tmp_path):
    texts = ['Tom had a café — "nice", 日本 🙂 ball.', "She said naïve 🙂🙂 and left\ufffd.", "The red ball."]
    index = demo.model.build_index(demo.sae, texts, tmp_path / "index", exclude=())
    alone = FeatureIndex.open(tmp_path / "index")
    for feature in index.live.tolist():
        found, expected = (i.examples(feature, before=3, after=30) for i in (alone, index))
        assert ["".join(e.tokens) for e in found] == ["".join(e.tokens) for e in expected]


def test_the_token_that_begins_a_text_is_left_out_and_told(model: InterpretableModel):
    sae = random_sae(TopK(8), model.d_model)
    index = model.build_index(sae, TEXTS)
    dense = dense_features(model, sae, TEXTS)
    bos = [np.array(model.tokenize(text)) == model.tokenizer.bos_token_id for text in TEXTS]
    counted = [oracle.without_tokens(d, out) for d, out in zip(dense, bos, strict=True)]
    assert index.excluded == {"bos": len(TEXTS), "sinks": 0}
    assert "8 bos" in repr(index)
    for feature in range(0, sae.d_hidden, 3):
        assert_top_texts(index.top_texts(feature), counted, TEXTS, feature, 10)
        assert index.stats(feature).count == sum((d[:, feature] != 0).sum() for d in counted)


def test_attention_sinks_are_left_out_where_an_activation_is_ten_times_as_long(embedded):
    mx = pytest.importorskip("mlx.core")
    sae = random_sae(TopK(8), embedded.d_model)
    weight = embedded.language_model.model.model.embed_tokens.weight
    ball = embedded.tokenize(" ball")[-1]
    try:
        changed = np.array(weight)
        changed[ball] *= 1000
        embedded.language_model.model.model.embed_tokens.weight = mx.array(changed)
        index = embedded.build_index(sae, TEXTS)
    finally:
        embedded.language_model.model.model.embed_tokens.weight = weight
    balls = sum(embedded.tokenize(text).count(ball) for text in TEXTS)
    assert index.excluded["sinks"] == balls
    assert embedded.build_index(sae, TEXTS).excluded["sinks"] == 0


def test_a_text_given_twice_appears_twice_and_its_example_once(index: FeatureIndex):
    twice = TEXTS.index("Tom had a red ball. He lost the red ball.")
    feature = next(f for f in index.live if index.top_texts(f, 1)[0][0] == TEXTS[twice])
    assert [text for text, _, _ in index.top_texts(feature, 2)] == [TEXTS[twice]] * 2
    assert [e.text for e in index.examples(feature)].count(TEXTS[twice]) == 1


def test_what_texts_begin_with_is_one_example_and_the_earliest_text(index: FeatureIndex):
    for feature in index.live:
        found = index.examples(int(feature))
        beginnings = [embed_prefix(e) for e in found]
        assert len(set(beginnings)) == len(beginnings)
        assert all(a.activation >= b.activation for a, b in pairwise(found))


def embed_prefix(example):
    return example.text[:4], example.position, tuple(example.tokens[: example.position - example.start + 1])


def test_an_example_shows_the_tokens_around_with_their_activations(index: FeatureIndex, embedded):
    sae = sae_of(index)
    dense = dense_features(embedded, sae, TEXTS)
    for feature in index.live[:20]:
        for e in index.examples(int(feature), 3, before=4, after=2):
            pieces = embedded.to_str_tokens(TEXTS[e.text_id])
            shown = slice(e.start, e.start + len(e.tokens))
            assert list(e.tokens) == pieces[shown]
            expected = dense[e.text_id][shown, feature].copy()
            expected[: max(0, 1 - e.start)] = 0  # BOS is left out
            np.testing.assert_allclose(e.activations, expected, rtol=1e-4, atol=1e-5)
            assert e.activations[e.position - e.start] == e.activation == e.activations.max()


def test_quantiles_are_tenths_of_the_ranks_and_together_are_all_texts(demo):
    short = [text for text in demo.texts if len(demo.model.tokenize(text)) <= 200]
    index = demo.model.build_index(demo.sae, short[:24])
    feature = int(index.live[np.argmax(index.to_pandas()["count"][index.live])])
    ranked = index._reader.firings(feature).strongest_of_each_text()
    tenths = [mlxterp.index.examples.of_quantile(ranked, q) for q in range(10)]
    assert sum(map(len, tenths)) == len(ranked)
    assert max(map(len, tenths)) - min(map(len, tenths)) <= 1
    for weaker, stronger in pairwise(tenths):
        assert weaker.values.max(initial=-np.inf) <= stronger.values.min(initial=np.inf)
    for q in (0, 5, 9):
        chosen = index.examples(feature, 3, quantile=q)
        assert {e.text_id for e in chosen} <= set(tenths[q].text_ids.tolist())
        assert [e.text_id for e in chosen] == [e.text_id for e in index.examples(feature, 3, quantile=q)]


def test_coactivation_is_the_share_of_tokens_that_two_features_have_together(index: FeatureIndex, embedded):
    dense = np.concatenate([d[1:] for d in dense_features(embedded, sae_of(index), TEXTS)])
    for feature in index.live[:10]:
        for other, share in index.coactivation(int(feature), top_k=5):
            assert share == pytest.approx(oracle.jaccard(dense, int(feature), other))
            assert index.coactivation(int(feature), other) == pytest.approx(share)
        shares = [share for _, share in index.similar(int(feature), by="coactivation")]
        assert shares == sorted(shares, reverse=True)


def test_features_for_a_token_are_those_that_are_strongest_on_it(index: FeatureIndex, embedded):
    dense = dense_features(embedded, sae_of(index), TEXTS)
    at = [
        [i for i, piece in enumerate(embedded.to_str_tokens(text)) if piece.strip() == "ball"]
        for text in TEXTS
    ]
    rows = np.concatenate([d[places] for d, places in zip(dense, at, strict=True)])
    mean = rows.mean(axis=0)
    found = index.features_for_token("ball", 4)
    assert [f for f, _ in found] == np.lexsort((np.arange(len(mean)), -mean))[:4].tolist()
    np.testing.assert_allclose([value for _, value in found], np.sort(mean)[::-1][:4], rtol=1e-4)


def test_search_finds_names_first_and_then_features_of_the_words(index: FeatureIndex):
    index.labels = mlxterp.FeatureRegistry({11: {"name": "red things", "description": "what is red"}})
    hits = index.search("red", 5)
    assert hits[0].feature_id == 11 and hits[0].score == 1 and "red things" in hits[0].why
    assert all(a.score >= b.score for a, b in pairwise(hits))
    assert all("'red'" in hit.why for hit in hits[1:])
    index.labels = mlxterp.FeatureRegistry()


def test_names_can_be_given_as_a_dictionary(index: FeatureIndex):
    index.labels = {11: {"name": "red things"}}
    assert index.label(11) == "red things"
    index.labels = {}


def test_a_word_of_several_tokens_is_found_at_its_last_one(index: FeatureIndex, embedded):
    word = next(
        w for text in TEXTS for w in text.replace(".", "").split() if len(embedded.tokenize(" " + w)) > 2
    )
    assert index.features_for_token(word)


def test_a_token_that_is_not_there_raises_with_near_ones(index: FeatureIndex):
    with pytest.raises(InputError, match="'ball'"):
        index.features_for_token("balls")


def test_signed_activations_are_ranked_by_magnitude(embedded: InterpretableModel):
    sae = random_sae(AbsTopK(8), embedded.d_model)
    values = [
        v for f in range(64) for _, v, _ in embedded.get_top_texts_for_feature(f, sae, TEXTS, 1, "resid_post")
    ]
    assert min(values) < 0 < max(values)
    top = [abs(v) for _, v in embedded.get_top_features_for_text(TEXTS[1], sae, 1, "resid_post", 30)]
    assert top == sorted(top, reverse=True)
    index = embedded.build_index(sae, TEXTS, exclude=())
    assert any(index.stats(f).maximum < 0 for f in range(64))


def test_a_feature_that_never_fires_has_no_texts_and_an_empty_card(embedded: InterpretableModel):
    sae = random_sae(TopK(8), embedded.d_model)
    bias = sae.b_enc.copy()
    bias[5] = -1e6
    sae = sae.replace(weights=SAEWeights(sae.W_enc, bias, sae.W_dec, sae.b_dec))
    index = embedded.build_index(sae, TEXTS)
    assert (
        index.top_texts(5)
        == []
        == index.examples(5)
        == index.examples(5, quantile=3)
        == index.coactivation(5)
    )
    assert index.stats(5).count == 0 == index.stats(5).maximum
    assert 5 not in index.live
    assert "5" in str(index.feature(5)) and index.feature(5)._repr_html_()


@given(st.lists(st.floats(2.0**-20, 2.0**20, width=32), min_size=1, max_size=50))
@settings(max_examples=50, deadline=None)
def test_a_histogram_counts_every_value_once_between_its_edges(values):
    counts, edges = log_histogram(np.array(values, dtype=np.float32))
    assert counts.sum() == len(values) and len(edges) == len(counts) + 1 <= 65
    assert edges[-1] > max(values) and np.allclose(edges[1:] / edges[:-1], 2**0.25)
    if len(counts) < 64:
        assert edges[0] <= min(values) * (1 + 1e-12)


def test_component_is_the_saes_own_unless_named(embedded: InterpretableModel):
    sae = random_sae(TopK(8), embedded.d_model)
    assert embedded.build_index(sae, TEXTS).component == COMPONENT
    with pytest.warns(mlxterp.MlxterpWarning, match="is used on"):
        assert (
            embedded.build_index(sae, TEXTS, layer=2, component="resid_post").component
            == "layers.2.resid_post"
        )


def test_the_strongest_tokens_of_all_features_are_those_of_each(index: FeatureIndex):
    text_ids, positions, values = index.strongest_tokens(4)
    for feature in range(index.d_hidden):
        firings = index._reader.firings(feature)
        order = np.argsort(-np.abs(firings.values), kind="stable")[:4]
        assert values[feature, : len(order)].tolist() == firings.values[order].tolist()
        assert text_ids[feature, : len(order)].tolist() == firings.text_ids[order].tolist()
        assert positions[feature, : len(order)].tolist() == firings.positions[order].tolist()
        assert (text_ids[feature, len(order) :] == -1).all() and not values[feature, len(order) :].any()


def test_no_example_stands_twice_on_a_card(index: FeatureIndex):
    for feature in index.live[:20].tolist():
        shown = [
            (e.tokens, e.position - e.start) for _, group in index.feature(feature).groups() for e in group
        ]
        assert len(shown) == len(set(shown))
