"""Scores: a judge that knows nothing scores chance exactly, one that knows all scores 1, and nothing else counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlxterp
from mlxterp import Explanation, InputError, autointerp
from mlxterp.autointerp import measures
from mlxterp.autointerp.scorers import CHANCE, SCORERS, marked_tokens

TASKS = list(SCORERS)


class Constant:
    """Always says the same."""

    def __init__(self, value: float):
        self.value, self.name = value, f"always {value}"

    def probabilities(self, questions):
        return np.full(len(questions), self.value)


class Oracle:
    """Reads the activations."""

    name = "oracle"

    def probabilities(self, questions):
        return np.array([self.answer(question) for question in questions])

    def answer(self, question):
        active = question.example.activations.any()
        if question.task == "fuzzing":
            return float(active and np.array_equal(question.marked, marked_tokens(question.example)))
        return float(active if question.task == "detection" else not active)


class Failing(Oracle):
    """An oracle that answers every third question only."""

    name = "failing"

    def __init__(self):
        self.seen = 0

    def answer(self, question):
        self.seen += 1
        return super().answer(question) if self.seen % 3 == 0 else float("nan")


@pytest.fixture(scope="module")
def index():
    model, sae, texts = mlxterp.load_demo()
    return model.build_index(sae, [text[:700] for text in texts[:80]], verbose=False)


@pytest.fixture(scope="module")
def scored(index):
    """`autointerp.score` of explanations on examples."""

    def score(told, examples, judge, scorers=TASKS, **options):
        return index.score(told, judge, scorers, examples=examples, verbose=False, **options)

    return score


@pytest.fixture(scope="module")
def examples(index):
    """Windows of some features of the demo."""
    features = [int(feature) for feature in index.live[3:300:17]]
    return autointerp.collect(index, features, verbose=False)


@pytest.fixture(scope="module")
def told(examples):
    """An explanation of each feature that has windows."""
    explainer = autointerp.TokenListExplainer()
    found = [explainer.explain(f, drawn.explaining) for f, drawn in examples.items() if not drawn.reason]
    assert len(found) > 8 and all(found)
    return found


@pytest.mark.parametrize("value", [0.0, 0.3, 0.5, 1.0])
def test_a_constant_judge_scores_chance_exactly(scored, examples, told, value):
    found = scored(told, examples, Constant(value), TASKS)
    for one in found:
        for task in TASKS:
            assert one.scores[task].value == pytest.approx(CHANCE[task], abs=1e-12)
            assert one.scores[task].chance == CHANCE[task]
        assert one.details["detection"].auroc == 0.5


def test_an_oracle_scores_one(scored, examples, told):
    found = scored(told, examples, Oracle(), TASKS)
    for one in found:
        for task in TASKS:
            score = one.scores[task]
            assert score.value == 1 and score.interval == (1.0, 1.0) and score.failed == 0
        assert set(one.details["detection"].recall_by_tenth.values()) == {1.0}
        assert one.details["detection"].auroc == one.details["detection"].precision == 1


def test_failures_are_counted_and_read_in_both_ways(scored, examples, told):
    whole = scored(told, examples, Oracle(), ["detection"])
    found = scored(told, examples, Failing(), ["detection"])
    for one, all_of_it in zip(found, whole, strict=True):
        score, detail = one.scores["detection"], one.details["detection"]
        judged = score.n or 0
        assert judged + score.failed == all_of_it.scores["detection"].n and score.failed > judged
        assert score.value == 1 and detail.as_wrong < 0.5
        assert "failed" in str(found) and "as wrong" in str(found)


@pytest.mark.parametrize("task", TASKS)
def test_batches_and_the_order_of_explanations_do_not_matter(scored, examples, told, task):
    judge = autointerp.TokenListJudge()
    one = scored(told, examples, judge, [task])
    other = scored(told[::-1], examples, judge, [task], batch_size=7)
    assert [f.scores for f in one] == [f.scores for f in reversed(list(other))]


def test_a_word_list_beats_the_lists_of_other_features(scored, examples, told):
    judge = autointerp.TokenListJudge()
    own = scored(told, examples, judge, ["detection"]).mean("detection")
    moved = [replace(a, text=b.text) for a, b in zip(told, [*told[1:], told[0]], strict=True)]
    others = scored(moved, examples, judge, ["detection"]).mean("detection")
    assert own is not None and others is not None
    assert own.value > others.value + 0.05 and abs(others.value - 0.5) < 0.06


def test_a_feature_without_windows_keeps_its_reason():
    model, sae, texts = mlxterp.load_demo()
    index = model.build_index(sae, [text[:700] for text in texts[:3]], verbose=False)
    few = autointerp.collect(index, [int(index.live[0])], verbose=False)
    feature = next(iter(few))
    found = index.score(Explanation(feature, "x", "me"), Constant(1), examples=few, verbose=False)
    assert found[0].scores == {} and few[feature].reason in str(found) and "1 left out" in str(found)
    assert found.to_pandas()["reason"].tolist() == [few[feature].reason]


def test_what_cannot_be_scored_is_named(scored, examples, told):
    judge = Constant(0.5)
    with pytest.raises(InputError, match="Explanation values"):
        scored([], examples, judge, TASKS)
    with pytest.raises(InputError, match="Explanation values"):
        scored(["ball"], examples, judge, TASKS)
    with pytest.raises(InputError, match="collect them"):
        scored([Explanation(2047, "x", "me")], examples, judge, TASKS)
    with pytest.raises(InputError, match="A scorer"):
        scored(told, examples, judge, ["taste"])
    with pytest.raises(InputError, match="probability"):
        scored(told, examples, Constant(2.0))


def test_the_table_and_the_page_show_every_figure(scored, examples, told):
    found = scored(told, examples, autointerp.TokenListJudge(), TASKS)
    table = found.to_pandas()
    assert len(table) == len(told) * len(TASKS) and table["chance"].notna().all()
    assert str(told[0].feature_id) in found.fragment() and "chance" in found.fragment()


# -- the figures by themselves ---------------------------------------------------------------------

ANSWERS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0]), st.booleans()), min_size=2, max_size=30
).filter(lambda pairs: len({active for _, active in pairs}) == 2)


@given(ANSWERS)
def test_auroc_is_the_share_of_pairs_in_order(pairs):
    p, active = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    wins = [(a > b) + (a == b) / 2 for a in p[active] for b in p[~active]]
    assert measures.auroc(p, active) == pytest.approx(np.mean(wins))
    assert measures.auroc(1 - p, active) == pytest.approx(1 - np.mean(wins))


@given(ANSWERS)
def test_balanced_accuracy_of_the_opposite_is_the_rest(pairs):
    p, active = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    credit = np.where(active, measures.says_yes(p), 1 - measures.says_yes(p))
    assert measures.balanced(credit, active) + measures.balanced(1 - credit, active) == pytest.approx(1)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=6), st.data())
def test_ties_share_what_is_right(numbers, data):
    right = data.draw(st.integers(0, len(numbers) - 1))
    p = np.array(numbers) / 3
    best = np.flatnonzero(p == p.max())
    assert measures.chosen(p, right) == (1 / len(best) if right in best else 0)
    assert np.isnan(measures.chosen(np.append(p, np.nan), right))


@pytest.mark.filterwarnings("ignore:.*have no explanation")
def test_what_was_explained_is_scored_on_other_texts_by_itself(index):
    plan = autointerp.Plan(seed=5, least=2)
    features = [int(feature) for feature in index.live[3:100:17]]
    told = index.explain(features, plan=plan, verbose=False)
    assert [one.provenance["plan"]["seed"] for one in told] == [5] * len(told)
    found = index.score(told, verbose=False)
    assert found.seed == 5
    examples = autointerp.collect(index, features, plan, verbose=False)
    again = index.score(told, examples=examples, verbose=False)
    assert [one.scores for one in found] == [one.scores for one in again]
    judged = index.explain(features, judge=autointerp.TokenListJudge(), plan=plan, verbose=False)
    assert [one.scores["detection"] for one in judged] == [one.scores["detection"] for one in found]
