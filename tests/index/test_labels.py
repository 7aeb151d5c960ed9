"""What a feature is called wherever it is shown: a person's name first, else the explanation with the best score."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

import mlxterp
from mlxterp import Explanation
from mlxterp.concepts import Score
from mlxterp.concepts.labels import best_of, shown, skill
from mlxterp.index import FeatureIndex

NAMED, SAID, SCORED, UNSCORED = 741, 705, 1470, 1257


@pytest.fixture(scope="module")
def built(demo) -> FeatureIndex:
    texts = [text[:400] for text in demo.texts[:25]]
    return demo.model.build_index(demo.sae.replace(), texts, verbose=False)


@pytest.fixture
def index(built) -> Iterator[FeatureIndex]:
    """With a name, a person's explanation, two explanations with scores and one without."""
    concepts = built.source.sae.concepts
    concepts.load_concepts({NAMED: "ball"})
    concepts.add_explanations([
        Explanation(NAMED, "round toys", "gpt-x").scored(detection=Score(0.99, chance=0.5)),
        Explanation(SAID, "round toys", "gpt-x").scored(detection=Score(0.99, chance=0.5)),
        Explanation(SAID, "what rolls"),
        Explanation(SCORED, "animals of the house", "gpt-x").scored(
            detection=Score(0.7, chance=0.5), intruder=Score(1.0, chance=0.2)
        ),
        Explanation(SCORED, "house pets", "token list").scored(detection=Score(0.82, chance=0.5)),
        Explanation(UNSCORED, "house names", "gpt-x"),
    ])  # fmt: skip
    yield built
    concepts.load_concepts({})
    concepts.clear_explanations()


def test_a_persons_name_comes_first_and_an_explanation_is_marked_with_its_score(index):
    assert index.label(NAMED) == "ball" and index.label(SAID) == "what rolls"
    assert index.label(SCORED) == "house pets (explanation, detection 0.82)"
    assert index.label(UNSCORED) == "house names (explanation, not scored)"
    assert index.label(3) is None
    index.labels = {SCORED: "pets"}
    assert index.label(SCORED) == "pets"
    index.labels = {}


def test_scores_are_compared_by_their_distance_from_chance_and_by_what_tests_the_sentence():
    told = Explanation(1, "a", "x")
    high_chance = told.scored(fuzzing=Score(0.9, chance=0.85))
    low_chance = told.scored(fuzzing=Score(0.7, chance=0.5))
    only_intruder = told.scored(intruder=Score(1.0, chance=0.2))
    assert best_of([high_chance, low_chance]) is low_chance
    assert best_of([only_intruder, high_chance]) is high_chance and skill(only_intruder) == 0
    assert best_of([told, only_intruder]) is told and best_of([]) is None
    assert best_of([low_chance, Explanation(1, "b")]) == Explanation(1, "b")
    own = told.scored(mine=0.4)
    assert skill(own) == 0.4 and shown(own) == "a (explanation, mine 0.40)"


def test_labels_are_searched_names_first_then_explanations_by_score(index):
    found = index.search("house", top_k=3)
    assert [hit.feature_id for hit in found[:2]] == [SCORED, UNSCORED]
    assert found[0].why == "explained as 'house pets (explanation, detection 0.82)'"
    assert found[0].score == pytest.approx(0.64) and found[1].score == 0
    rolls = index.search("rolls")[0]
    assert (rolls.feature_id, rolls.score, rolls.why) == (SAID, 1.0, "explained as 'what rolls'")
    first = index.search("ball")[0]
    assert (first.feature_id, first.why) == (NAMED, "named 'ball'")
    assert NAMED not in [
        hit.feature_id for hit in index.search("round toys", top_k=50) if "explained" in hit.why
    ]


def test_cards_exports_and_coloured_texts_show_them(index, demo, tmp_path):
    told = "house pets (explanation, detection 0.82)"
    card = index.feature(SCORED)
    assert card.label == told and told in str(card) and told in card.fragment()
    near = index.similar(3, 1)[0][0]
    index.source.sae.concepts.add_explanations(Explanation(near, "near", "gpt-x"))
    assert "near (explanation, not scored)" in index.feature(3).fragment()
    assert index.to_pandas()["label"][SCORED] == told
    file = index.export_json(tmp_path / "found.json", [SCORED, NAMED])
    features = json.loads(file.read_text())["features"]
    assert (features[str(SCORED)]["label"], features[str(NAMED)]["label"]) == (told, "ball")
    assert told in index.export_csv(tmp_path / "found.csv", [SCORED]).read_text()
    view = demo.model.visualize_feature_activations(
        "The dog lost a ball.", index.source.sae, feature_ids=[SCORED, NAMED]
    )
    assert view.labels == {SCORED: told, NAMED: "ball"}


def test_an_index_without_its_sae_has_its_own_names_only(index):
    alone = FeatureIndex.open(index.path)
    assert alone.label(SCORED) is None
    assert not any("explained" in hit.why for hit in alone.search("house"))


def test_an_explanation_that_was_just_made_is_the_label(index):
    from mlxterp import autointerp

    feature = max(index.live.tolist(), key=lambda f: index.stats(f).n_texts if f not in (NAMED, SAID) else 0)
    plan = autointerp.Plan(least=1, before=2, after=2)
    [told] = index.explain(feature, judge=autointerp.TokenListJudge(), plan=plan, verbose=False)
    index.source.sae.concepts.add_explanations(told)
    score = told.scores["detection"].value
    assert index.label(feature) == f"{told.text} (explanation, detection {score:.2f})"
    assert isinstance(mlxterp.FeatureRegistry(index.source.sae.concepts).label(feature), str)
