"""What scores are held against: explanations and tokens exchanged, and indexes of directions that mean nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import mlxterp
from mlxterp import InputError, autointerp
from mlxterp.autointerp.control_index import KINDS
from mlxterp.autointerp.scorers import SCORERS
from mlxterp.autointerp.shuffling import exchanged
from mlxterp.errors import FeatureIndexError
from mlxterp.index import FeatureIndex

from .test_scoring import Constant, Oracle

PLAN = autointerp.Plan(negatives={"random": 10}, least=2)


pytestmark = pytest.mark.filterwarnings("ignore:.*have no explanation")


@pytest.fixture(scope="module")
def told(index):
    return index.explain([int(f) for f in index.live[100:400:12]], plan=PLAN, verbose=False)


@pytest.fixture(scope="module")
def scores(index, told):
    return index.score(told, scorers=["detection", "intruder"], verbose=False)


def test_word_lists_are_above_both_controls_which_are_at_chance(scores):
    held = scores.controls["detection"]
    assert set(held) == {"explanations", "tokens"} and set(scores.controls["intruder"]) == {"tokens"}
    for one in held.values():
        assert one.stands_out and abs(one.control_mean - 0.5) < 0.06 and one.value > 0.6
    assert str(scores).count("the score is above it") >= 2 and scores.without == {}


def test_what_a_control_shows_too_is_no_finding(index, told):
    found = index.score(told[:8], Constant(0.3), ["detection"], verbose=False)
    assert all(one.stands_out is False for one in found.controls["detection"].values())
    assert str(found).count("no finding: the control shows it too") == 2
    oracle = index.score(told[:8], Oracle(), ["detection"], verbose=False).controls["detection"]
    assert (
        oracle["explanations"].control_mean == 1 and not oracle["explanations"].stands_out
    )  # it reads no words
    assert abs(oracle["tokens"].control_mean - 0.5) < 0.1 and oracle["tokens"].stands_out


def test_too_few_explanations_are_no_control_and_it_says_so(index, told):
    found = index.score(told[:2], scorers=["detection"], verbose=False)
    assert set(found.controls["detection"]) == {"tokens"}
    assert "other features (detection): 20 are wanted, and 2 explanations give 4 exchanges" in str(found)
    none = index.score(told[:2], scorers=["detection"], controls=False, verbose=False)
    assert none.controls == {} and str(none).count("it was left out (controls=)") == 2
    one = index.score(told, scorers=["detection"], controls="tokens", verbose=False)
    assert set(one.controls["detection"]) == {"tokens"} and str(one).count("left out") == 1


def test_exchanged_tokens_are_the_same_tokens_in_other_windows(index, told):
    drawn = autointerp.collect(index, [told[0].feature_id], PLAN, verbose=False)[told[0].feature_id]
    samples = drawn.draws[0]
    for task in ("detection", "fuzzing", "intruder", "simulation"):
        items = SCORERS[task].ask("x", samples, np.random.default_rng(0))
        found = exchanged(items, samples, [1, 2])
        again = exchanged(items, samples, [1, 2])
        for one, new, same in zip(items, found, again, strict=True):
            assert new.sample is one.sample and new.right == one.right
            assert [q.text for q in new.questions] == [q.text for q in same.questions]
            assert [len(q.example.tokens) for q in new.questions] == [
                len(q.example.tokens) for q in one.questions
            ]
        if task == "detection":
            before, after = (
                [t for i in several for t in i.questions[0].example.tokens] for several in (items, found)
            )
            assert sorted(before) == sorted(after) and before != after


def test_features_are_ranked_by_two_draws_or_not_at_all(index, told, scores):
    ranked = scores.ranked("detection")
    values = [one.scores["detection"].value for one in ranked]
    assert values == sorted(values, reverse=True) and len(ranked) == len(scores)
    one = index.score(
        told[:3], scorers=["detection"], plan=replace(PLAN, draws=1), controls=False, verbose=False
    )
    with pytest.raises(InputError, match="draws=2"):
        one.ranked("detection")


def test_importance_stands_beside_the_plain_figures(index, scores):
    plain, weighted = scores.mean("detection"), scores.mean("detection", "firings")
    found = [one for one in scores if one.details]
    values = np.array([one.scores["detection"].value for one in found])
    firings = np.array([index.stats(one.explanation.feature_id).count for one in found])
    assert weighted.value == pytest.approx(values @ firings / firings.sum())
    assert plain.value == pytest.approx(values.mean())
    assert f"weighted by firings {weighted.value:.3g}, by strength" in str(scores)
    assert {"weighted", "firings"} <= set(scores.to_pandas())


# -- D21c ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("judge", [Constant(0.0), Constant(0.5), Constant(1.0)])
def test_D21c_a_judge_that_knows_nothing_has_a_neighbour_precision_of_one_half(index, told, judge):
    found = autointerp.neighbour_precision(told[0], index, judge, verbose=False)
    assert found.scores["neighbour_precision"].value == 0.5 == found.scores["neighbour_precision"].chance


def test_D21c_an_explanation_that_holds_for_neighbours_is_caught_with_the_windows(index, told):
    def precision(one, judge=None, n=10):
        return autointerp.neighbour_precision(one, index, judge, n, verbose=False)

    assert precision(told[0], Oracle()).scores["neighbour_precision"].value == 1
    wide = replace(told[0], text='fires on "the", "a", "and", ".", "was", "he", "she", "to"')
    found = precision(wide)
    score, detail = found.scores["neighbour_precision"], found.details["neighbour_precision"]
    assert score.value < 0.65 and 0 < len(detail.false_positives) <= 5
    assert set(detail.by_kind) == {"active: quantile", "inactive: neighbour"}
    assert precision(told[0], n=3).details["neighbour_precision"].draws.shape == (2,)
    with pytest.raises(InputError, match="n is 0"):
        precision(told[0], n=0)


def test_D21c_every_window_is_one_where_a_neighbour_fires_and_the_feature_does_not(index, told):
    feature = told[0].feature_id
    plan = replace(PLAN, negatives={"neighbour": 8}, neighbours=4)
    drawn = autointerp.collect(index, [feature], plan, verbose=False)[feature]
    near = [other for other, _ in index.similar(feature, 4)]
    for sample in drawn.draws[0]:
        if sample.active:
            continue
        text_id, position = sample.example.text_id, sample.example.position
        assert not sample.example.activations.any()
        assert any(
            (text_id, position) in {(int(t), int(p)) for t, p in zip(f.text_ids, f.positions, strict=True)}
            for f in (index._reader.firings(other) for other in near)
        )


# -- D21d ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(in_wing, demo):
    """An index of a few stories."""
    wing = in_wing(mlxterp.available_backends()[0])
    return wing.model.build_index(wing.sae, [text[:600] for text in demo.texts[:12]], verbose=False)


@pytest.mark.parametrize("kind", list(KINDS))
def test_D21d_a_control_has_the_same_texts_and_as_many_firings(small, kind):
    control = autointerp.control_index(small, kind, verbose=False)
    assert control.n_texts == small.n_texts and control.fingerprint != small.fingerprint
    mine, own = (one.summary.count / one.n_tokens for one in (control, small))
    if kind == "random_init":
        assert mine.sum() == pytest.approx(own.sum(), rel=0.1)
    elif kind in ("neurons", "residual"):
        assert np.median(mine[mine > 0]) == pytest.approx(np.median(own[own > 0]), rel=0.3)
    else:
        assert mine == pytest.approx(own, abs=0.01) and np.median(np.abs(mine - own)) < 0.0005
    told = control.explain(control.summary.count.argsort()[::-1][40:60:8], plan=PLAN, verbose=False)
    found = control.score(told, scorers=["detection"], verbose=False)
    assert found.provenance["index"]["sae"] == control.fingerprint


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_D21d_both_wings_make_the_same_control(backend, in_wing):
    mine, reference = in_wing(backend), in_wing(mlxterp.available_backends()[0])
    small, plain = (
        one.model.build_index(one.sae, [text[:200] for text in one.texts[:8]], verbose=False)
        for one in (mine, reference)
    )
    control = autointerp.control_index(small, "covariance", verbose=False)
    other = autointerp.control_index(plain, verbose=False)
    assert control.summary.count == pytest.approx(other.summary.count, abs=2)
    again = autointerp.control_index(small, "covariance", verbose=False)
    assert control.fingerprint == again.fingerprint
    assert autointerp.control_index(small, "neurons", verbose=False).component.endswith("down_proj.input")


def test_D21d_scores_stand_beside_those_of_a_control(small, tmp_path):
    told = small.explain(small.summary.count.argsort()[::-1][30:60], plan=PLAN, verbose=False)
    scores = small.score(told, scorers=["detection", "intruder"], controls=False, verbose=False)
    control = autointerp.control_index(small, "covariance", tmp_path / "control", seed=3, verbose=False)
    assert FeatureIndex.open(tmp_path / "control").n_texts == small.n_texts
    same = control.explain([one.feature_id for one in told], plan=PLAN, verbose=False)
    found = scores.beside(
        covariance=control.score(same, scorers=["detection"], controls=False, verbose=False)
    )
    held = found.controls["detection"]["covariance"]
    assert held.value == scores.mean("detection").value and held.kind == "covariance"
    assert "control, covariance" in str(found) and "covariance" not in str(scores)
    few = control.score(same[:3], scorers=["detection"], controls=False, verbose=False)
    with pytest.raises(InputError, match="20 are the fewest"):
        scores.beside(covariance=few)
    fuzzed = control.score(same[:3], scorers=["fuzzing"], controls=False, verbose=False)
    with pytest.raises(InputError, match="scored by fuzzing, this by detection, intruder"):
        scores.beside(covariance=fuzzed)


def test_a_control_needs_model_and_sae_and_a_kind(index):
    with pytest.raises(FeatureIndexError, match="model and SAE"):
        autointerp.control_index(FeatureIndex.open(index.path))
    with pytest.raises(InputError, match="kind"):
        autointerp.control_index(index, "none")  # type: ignore[arg-type]
