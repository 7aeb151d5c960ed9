"""Scores: a judge that knows nothing scores chance exactly, one that knows all scores 1, and nothing else counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxterp import Explanation, InputError, autointerp
from mlxterp.autointerp import Drawn, Sample, measures
from mlxterp.autointerp.scorers import CHANCE, SCORERS, marked_tokens
from mlxterp.index.examples import FeatureExample

TASKS = list(SCORERS)


class Constant:
    """Always says the same."""

    def __init__(self, value: float):
        self.value, self.name = value, f"always {value}"

    def probabilities(self, questions):
        return np.full(len(questions), self.value)

    def strengths(self, questions):
        return [np.full(len(question.example.tokens), self.value) for question in questions]

    gains = cosines = probabilities


class Oracle:
    """Reads the activations."""

    name = "oracle"

    def probabilities(self, questions):
        return np.array([self.answer(question) for question in questions])

    def strengths(self, questions):
        return [
            np.abs(question.example.activations) / 1000 + 0 * self.answer(question) for question in questions
        ]

    gains = cosines = probabilities

    def answer(self, question):
        active = question.example.activations.any()
        if question.task == "fuzzing":
            return float(active and np.array_equal(question.marked, marked_tokens(question.example)))
        return float(not active if question.task == "intruder" else active)


class Failing(Oracle):
    """An oracle that answers every third question only."""

    name = "failing"

    def __init__(self):
        self.seen = 0

    def answer(self, question):
        self.seen += 1
        return super().answer(question) if self.seen % 3 == 0 else float("nan")


@pytest.fixture(scope="module")
def scored(index):
    """`autointerp.score` of explanations on examples."""

    def score(told, examples, judge, scorers=TASKS, controls=False, **options):
        return index.score(
            told, judge, scorers, examples=examples, controls=controls, verbose=False, **options
        )

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


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
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
            assert score.value == pytest.approx(1) and score.failed == 0
            assert score.interval == pytest.approx((1.0, 1.0))
            assert one.details[task].draws == pytest.approx(1)
            if SCORERS[task].inactive:
                assert list(one.details[task].by_tenth.values()) == pytest.approx(
                    [1] * len(one.details[task].by_tenth)
                )
                assert one.details[task].weighted == pytest.approx(1)
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
def test_failures_count_as_wrong_in_every_scorer(scored, examples, told, task):
    whole, found = (scored(told[:3], examples, judge, [task]) for judge in (Oracle(), Failing()))
    for one, all_of_it in zip(found, whole, strict=True):
        if task not in one.details:  # an intruder fails with one answer of five
            assert task == "intruder"
            continue
        score, wrong = one.scores[task], one.details[task].as_wrong
        assert score.value == pytest.approx(1) and wrong < 0.9
        assert (score.n or 0) + score.failed == all_of_it.scores[task].n


@pytest.mark.parametrize("task", [t for t in TASKS if SCORERS[t].answers in ("probabilities", "strengths")])
def test_batches_and_the_order_of_explanations_do_not_matter(scored, examples, told, task):
    judge = autointerp.TokenListJudge()
    one = scored(told, examples, judge, [task])
    other = scored(told[::-1], examples, judge, [task], batch_size=7)
    assert [f.scores for f in one] == [f.scores for f in reversed(list(other))]


def test_the_order_of_windows_does_not_matter(scored, examples, told):
    tasks = ["detection", "neighbour_precision", "simulation"]
    turned = [
        replace(one, draws=tuple(tuple(reversed(samples)) for samples in one.draws))
        for one in examples.values()
    ]
    other = autointerp.Examples(turned, examples.plan, examples.index)
    judge = autointerp.TokenListJudge()
    for one, same in zip(
        scored(told, examples, judge, tasks), scored(told, other, judge, tasks), strict=True
    ):
        for task in tasks:
            assert one.scores[task].value == pytest.approx(same.scores[task].value, abs=1e-12)
            assert one.details[task].by_tenth == pytest.approx(same.details[task].by_tenth, abs=1e-12)


def test_a_word_list_beats_the_lists_of_other_features(scored, examples, told):
    judge = autointerp.TokenListJudge()
    own = scored(told, examples, judge, ["detection"]).mean("detection")
    moved = [replace(a, text=b.text) for a, b in zip(told, [*told[1:], told[0]], strict=True)]
    others = scored(moved, examples, judge, ["detection"]).mean("detection")
    assert own is not None and others is not None
    assert own.value > others.value + 0.05 and abs(others.value - 0.5) < 0.06


def test_a_feature_without_windows_keeps_its_reason(demo):
    model, sae, texts = demo
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
    with pytest.raises(InputError, match="A control"):
        scored(told, examples, judge, controls=["luck"])
    with pytest.raises(InputError, match="probabilities"):
        scored(told, examples, Constant(2.0))


def test_D19_the_table_and_the_page_show_every_figure(scored, examples, told):
    tasks = ["detection", "fuzzing", "intruder", "simulation"]
    found = scored(told[:3], examples, autointerp.TokenListJudge(), tasks)
    table = found.to_pandas()
    assert len(table) == 3 * len(tasks) and table["chance"].notna().all()
    assert str(told[0].feature_id) in found.fragment() and "chance" in found.fragment()


@pytest.mark.parametrize(
    ("judge", "task", "who"),
    [
        (autointerp.TokenListJudge(), "surprisal", "LocalJudge"),
        (autointerp.TokenListJudge(), "embedding", "EmbeddingJudge"),
        (autointerp.EmbeddingJudge(lambda texts: np.ones((len(texts), 2))), "simulation", "TokenListJudge"),
    ],
)  # fmt: skip
def test_a_judge_that_cannot_do_a_task_says_so_and_who_can(scored, examples, told, judge, task, who):
    with pytest.raises(InputError, match=f"cannot do '{task}'.*{who}"):
        scored(told, examples, judge, ["detection", task])


def test_a_judge_that_finds_out_what_it_cannot_do_is_asked_nothing(scored, examples, told):
    class Blind(Oracle):
        def cannot(self, task):
            return "it has no digits" if task == "simulation" else ""

        def answer(self, question):
            raise AssertionError("asked")

    with pytest.raises(InputError, match="no digits"):
        scored(told, examples, Blind(), ["detection", "simulation"])


def test_D13_an_explanation_is_too_wide_by_precision_and_too_narrow_by_recall(index):
    def sample(words, active, number):
        tokens = tuple(words)
        at = tokens.index(" stop")
        values = np.zeros(len(tokens), dtype=np.float32)
        values[at] = 2.0 * active
        example = FeatureExample(5, "".join(tokens), number, at, float(values[at]), tokens, values, 0)
        return Sample(example, "quantile" if active else "same_token", active, 5 if active else None)

    def score(feature_stops, others, text):
        samples = [sample(one, True, n) for n, one in enumerate(feature_stops)]
        samples += [sample(one, False, 99 + n) for n, one in enumerate(others)]
        drawn = Drawn(5, tuple(samples[:1]), (tuple(samples), tuple(samples)))
        examples = autointerp.Examples(
            [drawn], autointerp.Plan(), autointerp.collect(index, [5], verbose=False).index
        )
        found = index.score(
            Explanation(5, text, "me"), examples=examples, scorers=["detection"], verbose=False
        )
        return found[0].details["detection"]

    do = [(" please", " stop", f" {n}") for n in range(4)]
    dont = [(" don't", " stop", f" {n}") for n in range(4)]
    wide = score(do, dont, '"stop"')
    assert wide.recall == 1 and wide.precision == 0.5 and wide.false_positives[0] == " don't stop 0"
    narrow = score([*do, *dont], [(" stop", "ped", "!")], '"don\'t stop"')
    assert narrow.precision == 1 and narrow.recall == 0.5 and narrow.false_positives == ()


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


@given(ANSWERS, st.integers(0, 1000))
def test_a_figure_by_weights_is_the_figure_of_items_repeated(pairs, seed):
    p, active = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    n = np.random.default_rng(seed).integers(0, 3, len(p))
    again, which = np.repeat(p, n), np.repeat(active, n)
    credit = np.where(active, measures.says_yes(p), 1 - measures.says_yes(p))
    weights = np.stack([np.ones(len(p)), n])
    [all_of_it, some] = measures.auroc_figure(p, active)(weights)
    assert all_of_it == pytest.approx(measures.auroc(p, active))
    assert some == pytest.approx(measures.auroc(again, which), nan_ok=True)
    [all_of_it, some] = measures.balanced_figure(credit, active)(weights)
    assert all_of_it == pytest.approx(measures.balanced(credit, active))
    assert some == pytest.approx(measures.balanced(np.repeat(credit, n), which), nan_ok=True)
    yes = measures.says_yes(p)
    [precise] = measures.precision_figure(yes, active)(weights[:1])
    hits, alarms = yes[active].mean(), yes[~active].mean()
    assert precise == pytest.approx(hits / (hits + alarms) if hits + alarms else 0.5)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=40), st.integers(1, 4))
def test_correlation_is_numpys_over_all_tokens(pairs, parts):
    told, true = (np.array([pair[i] for pair in pairs], dtype=np.float64) for i in (0, 1))
    [found] = measures.correlation_figure(np.array_split(told, parts), np.array_split(true, parts))(
        np.ones((1, parts))
    )
    if np.ptp(true) == 0:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(0 if np.ptp(told) == 0 else np.corrcoef(told, true)[0, 1], abs=1e-9)


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
    found = index.score(told, controls=False, verbose=False)
    assert found.seed == 5
    examples = autointerp.collect(index, features, plan, verbose=False)
    again = index.score(told, examples=examples, controls=False, verbose=False)
    assert [one.scores for one in found] == [one.scores for one in again]
    judged = index.explain(features, judge=autointerp.TokenListJudge(), plan=plan, verbose=False)
    assert [one.scores["detection"] for one in judged] == [one.scores["detection"] for one in found]
