"""What names and texts say together, on numbers small enough to check by hand."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxterp import BackendError, InputError, SparseFeatures, UnknownFeatureError
from mlxterp.concepts import ActiveConcept, Concept, ConceptConsistency, Concepts
from mlxterp.index import FeatureHit

WIDTH = 5
NAMES = {
    0: [{"name": "family", "confidence": 0.9}, {"name": "home", "confidence": 0.5}],
    2: "home",
    3: "cats",
}
ROWS = {
    "my aunt": [3, 0, 0, 0, 9],
    "my house": [1, 0, 1, 0, 0],
    "a cat": [0, 0, 0.5, 2, 0],
    "nothing": [0, 0, 0, 0, 0],
    "the cat at home": [-4, 0, 1, 0.25, 0],
}


def encode(texts: list[str]) -> SparseFeatures:
    """A model and an SAE, by heart."""
    return SparseFeatures.from_dense(np.array([ROWS[text] for text in texts], dtype=np.float32))


@pytest.fixture
def concepts() -> Concepts:
    made = Concepts(WIDTH)
    made.load_concepts(NAMES)
    made.enable_text_tracking(3)
    made.record(list(ROWS), encode(list(ROWS)))
    made.bind(encode)
    return made


def test_the_most_active_features_have_the_largest_means(concepts):
    assert concepts.most_active_neurons() == [(4, 9.0), (3, 1.125), (2, 2.5 / 3), (0, 0.0)]
    assert concepts.most_active_neurons(1) == [(4, 9.0)]
    for n in (0, 1.5, None):
        with pytest.raises(InputError, match="n is"):
            concepts.most_active_neurons(n)


def test_names_are_counted_by_feature_the_commonest_first(concepts):
    assert list(concepts.concept_distribution().items()) == [("home", 2), ("cats", 1), ("family", 1)]
    assert Concepts(WIDTH).concept_distribution() == {}


def test_a_review_shows_names_beside_texts(concepts):
    first, second, third = concepts.review(n_texts=2)
    assert first.names == (Concept("family", 0.9), Concept("home", 0.5))
    assert first.texts == (("the cat at home", -4.0), ("my aunt", 3.0))
    assert (second.neuron_idx, third.neuron_idx) == (2, 3)
    assert str(third) == "Feature 3: 'cats' (1)\n  2.0000  'a cat'\n  0.2500  'the cat at home'"
    assert [str(r) for r in concepts.review([4, np.int64(1)])] == [
        "Feature 4: no name\n  9.0000  'my aunt'",
        "Feature 1: no name\n  active on no text",
    ]
    concepts.load_concepts({})
    assert [r.neuron_idx for r in concepts.review()] == [0, 2, 3, 4]
    with pytest.raises(UnknownFeatureError):
        concepts.review([5])
    for neurons in (3, "03"):
        with pytest.raises(InputError, match="neurons is"):
            concepts.review(neurons)


def test_texts_above_a_threshold_are_left(concepts):
    assert concepts.filter_texts(1) == {
        0: [("the cat at home", -4.0), ("my aunt", 3.0)],
        3: [("a cat", 2.0)],
        4: [("my aunt", 9.0)],
    }
    assert concepts.filter_texts(0) == concepts.get_top_texts()
    with pytest.raises(InputError, match="threshold is nan"):
        concepts.filter_texts(float("nan"))


def test_named_features_active_on_held_out_texts_come_strongest_first(concepts):
    found = concepts.active_concepts(["the cat at home", "nothing", "my house"])
    assert found == [
        [
            ActiveConcept(0, "family", 0.9, -4.0),
            ActiveConcept(0, "home", 0.5, -4.0),
            ActiveConcept(2, "home", 1.0, 1.0),
            ActiveConcept(3, "cats", 1.0, 0.25),
        ],
        [],
        [ActiveConcept(0, "family", 0.9, 1.0), ActiveConcept(0, "home", 0.5, 1.0), ActiveConcept(2, "home", 1.0, 1.0)],
    ]  # fmt: skip
    assert concepts.active_concepts(["my house", "a cat"], threshold=1.0) == [
        [],
        [ActiveConcept(3, "cats", 1.0, 2.0)],
    ]


def test_consistency_counts_hits_on_own_texts_and_alarms_on_the_others(concepts):
    found = concepts.consistency(
        {"family": ["my aunt", "nothing"], "cats": ["a cat", "the cat at home"], "home": ["the cat at home"]}
    )
    assert found == {
        "family": ConceptConsistency(0.5, 2 / 3, 2, 1, 3, 2),
        "cats": ConceptConsistency(1.0, 0.0, 2, 2, 2, 0),
        "home": ConceptConsistency(1.0, 2 / 3, 1, 1, 3, 2),
    }
    assert concepts.consistency({"cats": ["a cat"]})["cats"].false_alarm_rate is None
    assert (
        concepts.consistency({"cats": ["a cat", "the cat at home"]}, threshold=0.25)["cats"].hit_rate == 0.5
    )


def test_a_texts_encoding_is_asked_for_once(concepts):
    asked = []
    concepts.bind(lambda texts: asked.append(texts) or encode(texts))
    concepts.consistency({"family": ["my aunt", "my aunt"], "cats": ["a cat", "my aunt"]})
    assert asked == [["my aunt", "a cat"]]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({}, "Expected held-out texts by concept"),
        (["a cat"], "Expected held-out texts by concept"),
        ({"cats": "a cat"}, "Expected a list of texts, got str"),
        ({"cats": []}, "Concept 'cats' has no texts"),
        ({"cat": ["a cat"]}, "No feature is named 'cat'; there are 3 names, such as 'cats'"),
        ({3: ["a cat"]}, "3 is no name of a concept"),
        ({"cats": [3]}, "Text 0 is int, not a string"),
    ],
)
def test_held_out_texts_of_another_form_are_refused(concepts, texts, expected):
    with pytest.raises(InputError, match=expected):
        concepts.consistency(texts)


def test_the_activation_matrix_holds_features_that_are_active(concepts):
    features, matrix = concepts.activation_matrix(["my aunt", "a cat", "my aunt"])
    assert features.dtype == np.int64 and features.tolist() == [0, 2, 3, 4]
    assert matrix.dtype == np.float32
    assert matrix.tolist() == [[3, 0, 3], [0, 0.5, 0], [0, 2, 0], [9, 0, 9]]
    features, matrix = concepts.activation_matrix(["nothing"])
    assert features.shape == (0,) and matrix.shape == (0, 1)


def test_without_a_model_or_names_the_error_says_what_to_call_first(concepts):
    concepts.bind(None)
    for ask in (
        lambda: concepts.active_concepts(["a cat"]),
        lambda: concepts.consistency({"cats": ["a cat"]}),
        lambda: concepts.activation_matrix(["a cat"]),
        lambda: concepts.cluster_neurons(2, ["a cat"]),
    ):
        with pytest.raises(InputError, match=r"not attached: handle = model.attach_sae\(sae, …\) first"):
            ask()
    fresh = Concepts(WIDTH)
    fresh.bind(encode)
    with pytest.raises(InputError, match=r"load_concepts\(…\) first"):
        fresh.active_concepts(["a cat"])
    for ask in (
        fresh.most_active_neurons,
        fresh.review,
        lambda: fresh.filter_texts(1),
        lambda: fresh.cluster_neurons(2),
    ):
        with pytest.raises(InputError, match="enable_text_tracking"):
            ask()  # fmt: skip


def test_an_encoder_that_does_not_fit_is_refused(concepts):
    with pytest.raises(InputError, match="expected a function"):
        concepts.bind(5)
    concepts.bind(lambda texts: encode(texts[:1]))
    with pytest.raises(InputError, match="2 texts came back as 1 rows of 5 features"):
        concepts.activation_matrix(["a cat", "my aunt"])
    concepts.bind(encode)
    with pytest.raises(InputError, match="at least one text"):
        concepts.activation_matrix([])
    with pytest.raises(InputError, match="Expected a list of texts"):
        concepts.active_concepts("a cat")


def clustered(rows: list[list[float]], n: int, seed: int = 0) -> tuple[dict[int, int], dict[int, int]]:
    """Clusters of the features that are rows: of given texts, and of tracked ones."""
    by_text = SparseFeatures.from_dense(np.array(rows, dtype=np.float32).T)
    made = Concepts(len(rows))
    made.bind(lambda texts: by_text)
    made.enable_text_tracking(by_text.n)
    texts = [str(i) for i in range(by_text.n)]
    made.record(texts, by_text)
    return made.cluster_neurons(n, texts, seed), made.cluster_neurons(n, seed=seed)


def test_features_active_on_the_same_texts_share_a_cluster():
    pytest.importorskip("sklearn")
    rows = [[1, 2, 0, 0], [0, 0, 3, 1], [10, 20.5, 0, 0], [0, 0, 0, 0], [0, 0, 31, 9]]
    for seed in range(5):
        assert clustered(rows, 2, seed) == ({0: 0, 1: 1, 2: 0, 4: 1},) * 2


@settings(max_examples=25)
@given(st.permutations(range(9)), st.integers(0, 99))
def test_clusters_follow_their_features_wherever_they_stand(order, seed):
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(7)
    rows = [np.eye(6)[i % 3 * 2] + np.abs(rng.normal(size=6)) * 0.05 for i in range(9)]
    found, tracked = clustered([list(rows[i] * (1 + i)) for i in order], 3, seed)
    assert found == tracked
    for a in range(9):
        for b in range(9):
            assert (found[a] == found[b]) == (order[a] % 3 == order[b] % 3)
    assert list(dict.fromkeys(found.values())) == [0, 1, 2]


def test_more_clusters_than_features_are_refused(concepts):
    pytest.importorskip("sklearn")
    with pytest.raises(InputError, match="5 clusters of 4 active features"):
        concepts.cluster_neurons(5)
    for n in (0, 1.5, "2"):
        with pytest.raises(InputError, match="n_clusters is"):
            concepts.cluster_neurons(n)
    for seed in (-1, 0.5, None, 1 << 64):
        with pytest.raises(InputError, match="seed is"):
            concepts.cluster_neurons(2, seed=seed)
    assert concepts.cluster_neurons(4) == {0: 0, 2: 1, 3: 2, 4: 3}


def test_clusters_without_scikit_learn_name_the_extra(concepts, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(BackendError, match=r"pip install \"mlxterp\[clusters\]\""):
        concepts.cluster_neurons(2)


def test_numbers_of_any_library_count_as_numbers(concepts):
    whole = np.array(2)
    assert concepts.review(n_texts=whole) == concepts.review(n_texts=2)
    assert concepts.most_active_neurons(np.int16(2)) == concepts.most_active_neurons(2)
    hit = FeatureHit(3, 1.0, "by name")
    assert concepts.review([hit]) == concepts.review([3])
    for single in (hit, np.array(3), (3, 1.5)):
        with pytest.raises(InputError, match="neurons is"):
            concepts.review(single)
