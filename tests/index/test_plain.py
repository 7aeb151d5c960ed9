"""What an index says of one feature or word, against the plain definition: split texts, ties, signs, dead features."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mlxterp import FeatureIndex, InputError
from mlxterp.core.ranking import Firings
from mlxterp.data.corpus import Corpus
from mlxterp.index import searching
from mlxterp.index.examples import of_quantile
from tests.index.made import Made, adversarial, made_index, piece
from tests.index.test_table import firings_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*have no tokens.*:mlxterp.MlxterpWarning", "ignore:.*longer than the model.*:mlxterp.MlxterpWarning"
)  # fmt: skip
WAYS = [(0, 5, 6), (1, 17, 12), (2, 1000, None)]
"""Seed, tokens of a shard, positions of the model."""


@pytest.fixture(scope="module", params=WAYS, ids=["small shards", "some shards", "one shard"])
def case(request, tmp_path_factory) -> tuple[Made, FeatureIndex]:
    seed, shard_tokens, positions = request.param
    made = adversarial(seed)
    return made, made_index(tmp_path_factory.mktemp("index"), made, shard_tokens, positions)


def by_strength(made: Made, feature: int) -> Firings:
    """One firing of each text, strongest first."""
    prefixes = [Corpus.from_token_ids([ids]).prefixes() if ids else [] for ids in made.tokens]
    best: dict[int, tuple[int, float]] = {}
    for text, at, _, value in firings_of(made, feature):
        if text not in best or abs(value) > abs(best[text][1]):
            best[text] = at, value
    ranked = sorted(best, key=lambda text: (-abs(best[text][1]), text))
    return Firings(
        np.array(ranked, np.int64), np.array([best[t][0] for t in ranked], np.int64),
        np.array([best[t][1] for t in ranked], np.float32),
        np.array([prefixes[t][best[t][0]] for t in ranked], np.uint64),
    )  # fmt: skip


def plain_examples(made: Made, feature: int, n: int, quantile: int | None, before: int, after: int) -> list:
    ranked = by_strength(made, feature)
    if quantile is not None:
        ranked = of_quantile(ranked, quantile)
    found, seen = [], set()
    for text, at, value in zip(ranked.text_ids, ranked.positions, ranked.values, strict=True):
        ids = made.tokens[text]
        until, near = tuple(ids[: at + 1]), (min(at, 5), tuple(ids[max(0, at - 5) : at + 6]))
        if ("until", until) in seen:
            continue
        if near not in seen and len(found) < n:
            shown = slice(max(0, at - before), at + after + 1)
            found.append(
                (text, at, value, shown.start, [piece(i) for i in ids[shown]],
                 made.activations[text][shown, feature].tolist())
            )  # fmt: skip
        seen |= {("until", until), near}
    return found


@pytest.mark.parametrize("n", [1, 3, 40])
@pytest.mark.parametrize("quantile", [None, 0, 4, 9])
@pytest.mark.parametrize(("before", "after"), [(16, 8), (0, 0), (2, 1), (100, 100)])
def test_examples_are_those_of_the_plain_definition(case, n, quantile, before, after):
    made, index = case
    for feature in range(made.d_hidden):
        found = [
            (e.text_id, e.position, e.activation, e.start, list(e.tokens), e.activations.tolist())
            for e in index.examples(feature, n, quantile, before=before, after=after)
        ]
        assert found == plain_examples(made, feature, n, quantile, before, after)


def test_examples_begin_with_the_strongest_token_of_the_table(case):
    _, index = case
    table = index.table()
    for feature in index.live.tolist():
        first = index.examples(feature, 1)[0]
        assert (first.text_id, first.position) == (table.best_text[feature], table.best_position[feature])


def test_coactivation_is_the_jaccard_index_over_all_tokens_of_a_small_index(case):
    made, index = case
    fires = np.concatenate(made.activations) != 0
    for feature in range(made.d_hidden):
        both = (fires & fires[:, [feature]]).sum(axis=0)
        either = (fires | fires[:, [feature]]).sum(axis=0)
        share = {f: both[f] / either[f] for f in range(made.d_hidden) if f != feature and both[f]}
        expected = sorted(share.items(), key=lambda item: (-item[1], item[0]))
        assert index.coactivation(feature, top_k=made.d_hidden) == expected
        assert index.coactivation(feature, top_k=3) == expected[:3]
        for other in range(made.d_hidden):
            one = both[other] / either[other] if either[other] else 0.0
            assert index.coactivation(feature, other) == one


def ends_of(made: Made, forms: list[tuple[int, ...]]) -> list[tuple[int, int]]:
    """Where one of the forms ends: (text, position)."""
    return [
        (text, at)
        for text, ids in enumerate(made.tokens)
        for at in range(len(ids))
        if any(tuple(ids[max(0, at + 1 - len(form)) : at + 1]) == form for form in forms)
    ]


def plain_means(made: Made, forms: list[tuple[int, ...]]) -> list[tuple[int, float]]:
    rows = np.array([made.activations[text][at] for text, at in ends_of(made, forms)], np.float64)
    mean = rows.sum(axis=0) / len(rows)
    return [(f, mean[f]) for f in sorted(range(len(mean)), key=lambda f: (-abs(mean[f]), f)) if mean[f]]


def test_features_for_a_token_are_the_means_over_its_occurrences(case):
    made, index = case
    for token in sorted({i for ids in made.tokens for i in ids}):
        expected = plain_means(made, [(token,)])
        assert index.features_for_token(f"w{token}", made.d_hidden) == expected
        assert index.features_for_token(piece(token), 4) == expected[:4]
    with pytest.raises(InputError, match="'w99' does not occur"):
        index.features_for_token("w99")


FORMS: list[list[tuple[int, ...]]] = [
    [(1, 2)], [(1, 2), (2, 2)], [(2,), (1, 2)], [(1,), (1, 2)], [(0, 0, 1)], [(99, 1)], [(3, 1), (1, 3, 1)],
]  # fmt: skip


@pytest.mark.parametrize("forms", FORMS)
@pytest.mark.parametrize("many", [0, 4, 1000])
def test_words_of_several_tokens_count_where_they_end(case, monkeypatch, forms, many):
    made, index = case
    monkeypatch.setattr(searching, "_MANY", many)
    monkeypatch.setattr(searching, "_sequences", lambda *_: sorted(forms))
    if not ends_of(made, forms):
        with pytest.raises(InputError, match="does not occur"):
            index.features_for_token("word")
        return
    assert index.features_for_token("word", made.d_hidden) == plain_means(made, forms)


@pytest.mark.parametrize("query", ["w1", "w0 w3", "w7 w7 w2 w99", "w99"])
def test_search_scores_by_the_words_that_a_feature_fires_on_and_tells_the_shares(case, query):
    made, index = case
    words = list(dict.fromkeys(query.split()))
    fires = [rows != 0 for rows in made.activations]
    count = np.concatenate(fires).sum(axis=0)
    scores, why = np.zeros(made.d_hidden), {}
    best = np.zeros(made.d_hidden)
    for word in words:
        at = ends_of(made, [(int(word[1:]),)])
        hits = sum((fires[text][position] for text, position in at), np.zeros(made.d_hidden, int))
        for f in range(made.d_hidden):
            score = 2 * hits[f] / max(count[f] + len(at), 1)
            scores[f] += score / len(words)
            if score > best[f]:
                best[f] = score
                why[f] = word, hits[f] / len(at), hits[f] / count[f]
    expected = sorted(np.flatnonzero(scores).tolist(), key=lambda f: (-scores[f], f))
    hits = index.search(query, made.d_hidden)
    assert [(hit.feature_id, hit.score) for hit in hits] == [(f, scores[f]) for f in expected]
    for hit in hits:
        word, of_word, of_feature = why[hit.feature_id]
        told = re.fullmatch(r"fires on (.+) % of '(.+)', (.+) % of its firings", hit.why)
        assert told is not None and told[2] == word
        for said, share in ((told[1], of_word), (told[3], of_feature)):
            assert share < 0.01 if said == "under 1" else abs(int(said) - 100 * share) <= 0.5


def test_a_feature_is_asked_for_by_number_and_features_by_word(case):
    _, index = case
    assert index["w1"] == index.search("w1")
    card = index[2]
    assert card.feature_id == 2 and card.to_str(color=False) == index.feature(2).to_str(color=False)


# -- by meaning ---------------------------------------------------------------------------------

ANIMALS = ("cat", "dog", "kitten")


def embed(texts: list[str]) -> np.ndarray:
    """How many words of each kind a text has."""
    kinds = (ANIMALS, ("car", "train"), ("red", "blue"))
    return np.array([[sum(word in kind for word in text.split()) for kind in kinds] for text in texts], float)


@pytest.fixture
def named(case) -> FeatureIndex:
    index = FeatureIndex.open(case[1].path)
    index.labels = {3: "a red car", 5: "kitten", 9: "train", 11: "nothing of it"}
    return index


def test_labels_are_searched_by_meaning_where_an_embedding_is_given(named: FeatureIndex):
    hits = named.search("dog", 6, embed=embed)
    assert [(hit.feature_id, round(hit.score, 3)) for hit in hits] == [
        (5, 1.0),
        (3, 0.0),
        (9, 0.0),
        (11, 0.0),
    ]
    assert hits[0].why == "means 'kitten', cosine 1.00 to the query"
    hits = named.search("blue train", 2, embed=embed)
    assert [hit.feature_id for hit in hits] == [3, 9]
    assert hits[1].score == pytest.approx(np.sqrt(0.5))


def test_features_without_a_label_follow_by_their_words(named: FeatureIndex):
    found = [hit.feature_id for hit in named.search("w1", 30, embed=embed)]
    words = [hit.feature_id for hit in named.search("w1", 30)]
    assert found == [3, 5, 9, 11, *(f for f in words if f not in (3, 5, 9, 11))]


def test_labels_are_embedded_once_until_they_change(named: FeatureIndex):
    asked: Counter[int] = Counter()

    def counting(texts: list[str]) -> np.ndarray:
        asked[len(texts)] += 1
        return embed(texts)

    for _ in range(3):
        named.search("dog", embed=counting)
    assert asked == {4: 1, 1: 3}
    named.labels = {4: "cat"}
    assert named.search("dog", 1, embed=counting)[0].feature_id == 4


@pytest.mark.parametrize(
    "wrong", [3, lambda texts: np.zeros(3), lambda texts: np.full((len(texts), 2), np.nan),
              lambda texts: np.zeros((len(texts), 1 + len(texts)))],
)  # fmt: skip
def test_what_is_no_embedding_is_told(named: FeatureIndex, wrong):
    with pytest.raises(InputError, match="embed"):
        named.search("dog", embed=wrong)


def test_an_index_without_labels_is_searched_by_words(case):
    _, index = case
    assert index.search("w1", embed=embed) == index.search("w1")
    assert Path(index.path).is_dir()
