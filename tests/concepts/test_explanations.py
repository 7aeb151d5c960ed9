"""What people and models say of features: one value, one store, one file format, and old files as they were."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxterp import SAE, Explanation, FeatureRegistry, InputError, MlxterpWarning, UnknownFeatureError
from mlxterp.concepts import Concept, Concepts, Score
from mlxterp.variants import TopK
from tests.sae.test_sae import make_sae

WIDTH = 40
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SCORES = st.builds(
    Score, FINITE, st.none() | FINITE, st.none() | st.tuples(FINITE, FINITE).map(lambda ends: tuple(sorted(ends))),
    st.none() | st.integers(0, 10**6), st.integers(0, 9), st.none() | st.integers(0, 2**64 - 1),
)  # fmt: skip
FACTS = st.dictionaries(
    TEXT, st.none() | st.booleans() | st.integers() | FINITE | TEXT | st.lists(TEXT, max_size=2)
)
EXPLANATIONS = st.builds(
    Explanation, st.integers(0, WIDTH - 1), TEXT, st.sampled_from(["person", "gpt-x", "Token list"]),
    st.none() | st.floats(0, 1), st.dictionaries(TEXT, SCORES, max_size=2), FACTS,
)  # fmt: skip
SEVERAL = st.lists(EXPLANATIONS, max_size=6, unique_by=lambda e: (e.feature_id, e.source, e.text))
NAMES = st.dictionaries(
    st.integers(0, WIDTH - 1), st.lists(TEXT, min_size=1, max_size=2, unique=True), max_size=3
)


def concepts_of(names: Any = None, explanations: Any = ()) -> Concepts:
    concepts = Concepts(WIDTH)
    if names:
        concepts.load_concepts(names)
    concepts.add_explanations(explanations)
    return concepts


# -- the value ------------------------------------------------------------------------------------


def test_a_line_says_all_of_it():
    told = Explanation(
        741, "toys that are thrown", "gpt-x", 0.8, {"detection": Score(0.82, 0.5, (0.75, 0.88))}
    )
    assert str(told) == (
        "Feature 741: toys that are thrown (gpt-x, confidence 0.8); detection 0.82, [0.75, 0.88], chance 0.5"
    )
    assert str(Score(0.5, failed=3)) == "0.5, chance not measured, 3 failed"


def test_scores_are_added_to_a_copy():
    told = Explanation(1, "a", "gpt-x", scores={"fuzzing": Score(0.6)})
    more = told.scored(detection=Score(0.8, 0.5), fuzzing=0.7)
    assert more.scores == {"fuzzing": Score(0.7), "detection": Score(0.8, 0.5)}
    assert told.scores == {"fuzzing": Score(0.6)} and hash(told) == hash(more)


def test_it_stands_for_its_feature_and_numbers_of_numpy_are_numbers():
    feature: Any = np.int64(3)
    half: Any = np.float32(0.5)
    told = Explanation(feature, "a", "person", half, {"d": half}, {"n": feature, "p": half})
    assert type(told.feature_id) is int and told.by_person and told.confidence == 0.5
    assert told.provenance == {"n": 3, "p": 0.5} and told.scores == {"d": Score(0.5)}
    assert FeatureRegistry({3: "ball"}).label(told) == "ball"  # type: ignore[arg-type]


def test_what_was_put_in_is_copied():
    facts: dict[str, Any] = {"words": ["a"]}
    told = Explanation(1, "a", provenance=facts)
    facts["words"].append("b")
    assert told.provenance == {"words": ["a"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"feature_id": -1}, "-1 is no feature id"), ({"feature_id": "x"}, "'x' is no feature id"),
        ({"feature_id": True}, "True is no feature id"), ({"text": " "}, "the explanation is empty"),
        ({"text": None}, "the explanation is None"), ({"text": "\ud800"}, "half of a character"),
        ({"source": ""}, "the source is empty"), ({"source": 3}, "the source is 3"),
        ({"confidence": 1.5}, "the confidence is 1.5"), ({"confidence": "high"}, "the confidence is 'high'"),
        ({"scores": [0.5]}, r"scores is \[0.5\]"), ({"scores": {"": 1}}, "a measure's name is empty"),
        ({"scores": {"a": "good"}}, "a score is 'good'"), ({"scores": {"a": float("nan")}}, "a score is nan"),
        ({"scores": {"a": {"value": 1, "control": 2}}}, "'control' is unknown"),
        ({"scores": {"a": {"chance": 1}}}, "it has no value"), ({"scores": {"a": None}}, "a score is None"),
        ({"provenance": {"a": object()}}, "what JSON cannot"), ({"provenance": {"a": float("inf")}}, "JSON"),
        ({"provenance": "gpt"}, "provenance is 'gpt'"),
    ],
)  # fmt: skip
def test_what_is_no_explanation_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Explanation(**{"feature_id": 1, "text": "a", **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"chance": float("inf")}, "chance is inf"), ({"interval": (1, 0)}, "lower end first"),
        ({"interval": 0.5}, "its two ends"), ({"interval": (0, float("nan"))}, "an end of a score's interval"),
        ({"n": -1}, "n is -1"), ({"failed": 1.5}, "failed is 1.5"), ({"seed": -1}, "seed is -1"),
    ],
)  # fmt: skip
def test_what_is_no_score_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Score(0.5, **arguments)


# -- beside the names -----------------------------------------------------------------------------


def test_people_come_first_and_names_before_sentences():
    concepts = concepts_of({3: ["ball", {"name": "toy", "confidence": 0.25}]})
    model, person = Explanation(3, "round things", "gpt-x", 0.9), Explanation(3, "things to throw")
    concepts.add_explanations([model, person, Explanation(5, "verbs", "gpt-x")])
    said = concepts.said_of(3)
    assert [one.text for one in said] == ["ball", "toy", "things to throw", "round things"]
    assert [one.confidence for one in said] == [1.0, 0.25, None, 0.9] and said[2:] == [person, model]
    assert concepts.label_of(3) == "ball" == concepts.name_of(3)
    assert concepts.label_of(5) == "verbs" and concepts.name_of(5) is None and concepts.label_of(6) is None
    with pytest.raises(UnknownFeatureError):
        concepts.said_of(WIDTH)


def test_one_that_is_there_is_replaced_by_its_like_with_scores():
    first, second = Explanation(3, "a", "gpt-x"), Explanation(3, "b", "gpt-x")
    concepts = concepts_of(explanations=[first, second])
    concepts.add_explanations(first.scored(detection=0.8))
    assert concepts.explanations == {3: [first.scored(detection=0.8), second]}
    concepts.add_explanations(Explanation(3, "a", "another"))
    assert [one.source for one in concepts.explanations[3]] == ["gpt-x", "gpt-x", "another"]


def test_those_of_one_source_or_all_are_forgotten():
    concepts = concepts_of(
        {1: "x"}, [Explanation(3, "a", "gpt-x"), Explanation(3, "b"), Explanation(4, "c", "gpt-x")]
    )
    concepts.clear_explanations("gpt-x")
    assert concepts.explanations == {3: [Explanation(3, "b")]}
    concepts.clear_explanations()
    assert concepts.explanations == {} and concepts.names == {1: [Concept("x")]}
    with pytest.raises(InputError, match="the source is 3; expected text"):
        concepts.clear_explanations(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad", [None, ["a"], [Explanation(1, "a"), 3], [Explanation(1, "a"), Explanation(WIDTH, "b")]]
)
def test_all_are_taken_or_nothing_changes(bad):
    concepts = concepts_of(explanations=Explanation(2, "kept"))
    with pytest.raises((InputError, UnknownFeatureError)):
        concepts.add_explanations(bad)
    assert concepts.explanations == {2: [Explanation(2, "kept")]}


# -- files ----------------------------------------------------------------------------------------


@given(NAMES, SEVERAL)
def test_names_and_explanations_come_back_from_a_file_as_they_were(tmp_path_factory, names, explanations):
    concepts = concepts_of(names, explanations)
    if not names and not explanations:
        return
    path = concepts.export_json(tmp_path_factory.getbasetemp() / "said.json")
    again = concepts_of(path)
    assert again.names == concepts.names and again.explanations == concepts.explanations
    assert again.export_json(path.with_name("again.json")).read_bytes() == path.read_bytes()


@given(NAMES.filter(bool))
def test_a_file_of_names_alone_is_written_as_ever(tmp_path_factory, names):
    path = concepts_of(names).export_json(tmp_path_factory.getbasetemp() / "names.json")
    plain = {str(f): [{"name": name, "confidence": 1.0} for name in names[f]] for f in sorted(names)}
    assert path.read_text(encoding="utf-8") == json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def test_they_are_saved_with_the_sae_and_loaded_with_it(tmp_path):
    sae, told = make_sae(), Explanation(3, "round things", "gpt-x", scores={"detection": Score(0.8, 0.5)})
    sae.concepts.add_explanations(told)
    folder = sae.save(tmp_path / "sae")
    assert SAE.load(folder).concepts.explanations == {3: [told]} == sae.on(sae.backend).concepts.explanations
    sae.concepts.load_concepts({3: "ball"})
    assert sae.concepts.explanations == {3: [told]}  # names alone leave them
    loaded = SAE.load(sae.save(folder))
    assert loaded.concepts.names == {3: [Concept("ball")]} and loaded.concepts.explanations == {3: [told]}
    assert SAE.load(sae.save(folder, names=False)).concepts.explanations == {}
    sae.concepts.load_concepts({1: "x", 2: [Explanation(2, "y")]})
    assert sae.concepts.explanations == {2: [Explanation(2, "y")]}


def test_formats_that_have_no_place_for_them_say_so(tmp_path):
    sae = SAE(make_sae().weights, TopK(5), {"component": "layers.1.mlp", "model": "m"})
    sae.concepts.load_concepts({1: ["x", Explanation(1, "y")], 2: [Explanation(2, "z")]})
    with pytest.warns(MlxterpWarning, match="those of 2 features are not saved"):
        sae.save(tmp_path / "sae", format="saelens")


def test_a_registry_is_read_as_names_and_what_people_say(tmp_path):
    registry = FeatureRegistry(
        {
            7: {
                "name": "places",
                "description": "cities",
                "examples": ["Paris"],
                "confidence": "high",
                "notes": "n",
            },
            3: {"name": "ball", "confidence": 0.5},
            5: {"name": "sums", "notes": "only equations"},
        }
    )
    for source in (registry, registry.save(tmp_path / "registry.json")):
        concepts = concepts_of(source)
        assert concepts.names == {3: [Concept("ball", 0.5)], 5: [Concept("sums")], 7: [Concept("places")]}
        facts = {"examples": ["Paris"], "notes": "n", "confidence": "high"}
        assert concepts.explanations == {
            5: [Explanation(5, "sums", provenance={"notes": "only equations"})],
            7: [Explanation(7, "cities", provenance=facts)],
        }


def test_a_registry_that_is_bound_is_compared_before_it_is_read(tmp_path):
    sae = make_sae()
    path = FeatureRegistry({1: "one"}, sae).save(tmp_path / "r.json")
    with pytest.raises(InputError, match=r"r\.json: these names are bound to an SAE.*FeatureRegistry\.load"):
        sae.concepts.load_concepts(path)
    sae.concepts.load_concepts(FeatureRegistry.load(path, sae))
    assert sae.concepts.name_of(1) == "one"


def test_a_file_of_an_sae_is_read_as_a_registry_of_what_to_call_its_features(tmp_path):
    concepts = concepts_of({3: ["ball", {"name": "toy", "confidence": 0.5}]})
    concepts.add_explanations([Explanation(3, "round"), Explanation(5, "verbs", "gpt-x")])
    for found in (FeatureRegistry.load(concepts.export_json(tmp_path / "n.json")), FeatureRegistry(concepts)):  # type: ignore[arg-type]
        assert {feature: found.label(feature) for feature in found} == {3: "ball", 5: "verbs"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"0": [{"text": "a", "why": 1}]}', "feature 0, name 1: 'why' is unknown in an explanation"),
        ('{"0": [{"text": ""}]}', "feature 0, name 1: the explanation is empty"),
        (
            '{"0": [{"text": "a"}, {"text": "a"}]}',
            r"feature 0 is explained as 'a' already \(feature 0, name 1\)",
        ),
        ('{"0": [{"text": "a", "scores": {"d": {"value": "x"}}}]}', "feature 0, name 1: a score is 'x'"),
        ('{"0": {"name": "a", "tags": []}}', "feature 0: 'tags' is unknown; a registry's entry has"),
        ('{"0": {"description": "a"}}', "feature 0: the name is None"),
        ('{"99": [{"text": "a"}]}', "No feature 99"),
    ],
)
def test_an_entry_that_is_none_is_named_and_changes_nothing(tmp_path, content, message):
    concepts = concepts_of({1: "x"}, Explanation(2, "kept"))
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises((InputError, UnknownFeatureError), match=rf"bad\.json: .*{message}"):
        concepts.load_concepts(path)
    assert concepts.names == {1: [Concept("x")]} and concepts.explanations == {2: [Explanation(2, "kept")]}
    with pytest.raises(InputError, match="of feature 1, not 2"):
        concepts.load_concepts({2: [Explanation(1, "a")]})
