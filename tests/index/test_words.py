"""From words to features: every way in which a tokenizer writes a word counts."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mlxterp import FeatureIndex, InterpretableModel
from mlxterp.index.searching import _without_specials
from mlxterp.variants import TopK
from tests.index.small import TEXTS, dense_features, random_sae

WINDOWS = "ignore:.*longer than the model.*:mlxterp.MlxterpWarning"


def means(model: InterpretableModel, sae, texts: list[str], word: str) -> np.ndarray:
    """Brute force: every feature's mean on the tokens that end an occurrence of the word."""
    rows = []
    for text, dense in zip(texts, dense_features(model, sae, texts), strict=True):
        ids = model.tokenize(text)
        so_far = [model.tokenizer.decode(ids[: i + 1]) for i in range(len(ids))]
        ends = [len(decoded.rstrip("�")) for decoded in so_far]  # half a character does not end it
        begin = len(model.tokenizer.decode(ids)) - len(text)  # a BOS token is decoded too
        rows += [dense[int(np.searchsorted(ends, match.end() + begin))] for match in re.finditer(word, text)]
    return np.mean(rows, axis=0)


def assert_answers(index: FeatureIndex, expected: np.ndarray, word: str):
    found = dict(index.features_for_token(word, index.d_hidden))
    np.testing.assert_allclose([found.get(f, 0.0) for f in range(index.d_hidden)], expected, atol=1e-4)


@pytest.fixture
def sae(embedded: InterpretableModel):
    return random_sae(TopK(8), embedded.d_model)


def test_a_word_counts_where_it_is_one_token_and_where_it_is_several(embedded, sae):
    texts = ['Lily said "Lily" to Lily.', "Grandma saw Grandma.", 'frog and a frog. "frog"', "Tom"]
    index = embedded.build_index(sae, texts, exclude=())
    forms = {len(embedded.tokenize(form)) for form in ("frog", " frog")}
    assert len(forms) == 2, "the tokenizer writes this word in one way only"
    for word in ("Lily", "Grandma", "frog", "Tom"):
        assert_answers(index, means(embedded, sae, texts, word), word)


def test_a_character_of_several_tokens_is_found(embedded, sae):
    texts = ["A 😀 for Tom", "😀😀", "no face"]
    index = embedded.build_index(sae, texts, exclude=())
    assert_answers(index, means(embedded, sae, texts, "😀"), "😀")


def test_beginnings_of_texts_and_spaces_are_no_part_of_a_word():
    pieces = {1: "<s>", 2: " ", 3: "�", 4: "�", 5: "ball", 6: " ball"}
    assert _without_specials(pieces, (1, 2, 3, 4), "é", lambda _: [1]) == (3, 4)
    assert _without_specials(pieces, (1, 6), "ball", lambda _: [1]) == (6,)
    assert _without_specials(pieces, (1, 2, 6), "ball", lambda _: [1]) == (6,)
    assert _without_specials(pieces, (1, 2), "ball", lambda _: [1]) == ()


@pytest.mark.filterwarnings(WINDOWS)
def test_words_and_examples_go_on_across_shards(embedded, sae):
    texts = [TEXTS[0], " ".join(TEXTS * 12), TEXTS[1]]
    one = embedded.build_index(sae, texts, exclude=())
    cut = embedded.build_index(sae, texts, exclude=(), shard_tokens=300)
    assert len(cut._meta.shards) > 3
    words = {w for w in re.findall(r"\w+", " ".join(texts)) if len(embedded.tokenize(w)) > 2}
    assert words
    for word in words:
        a, b = (dict(index.features_for_token(word, 64)) for index in (one, cut))
        assert a == pytest.approx(b, abs=1e-4)
    for feature in one.live.tolist():
        a, b = ([(e.position, e.start, e.tokens) for e in i.examples(feature, 50)] for i in (one, cut))
        assert a == b


def test_names_given_to_the_saes_concepts_are_the_indexs_too(demo):
    index = demo.model.build_index(demo.sae, ["The bird sat.", "They ate bread and cake."], verbose=False)
    try:
        demo.sae.concepts.load_concepts({3: "Garden Birds", 7: "bread"})
        index.labels = {7: {"name": "cake"}}
        assert index.label(3) == "Garden Birds" and index.label(7) == "cake" and index.label(8) is None
        assert index.search("garden")[0] == (3, 1.0, "named 'Garden Birds'")
        assert not any(hit.why.startswith("named") for hit in index.search("bread"))
    finally:
        demo.sae.concepts.load_concepts({})
