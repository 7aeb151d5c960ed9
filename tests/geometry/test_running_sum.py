"""The running-sum score, its nulls, p and q, against plain Python and against gseapy's own numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxterp.geometry.running_sum import (
    benjamini_hochberg,
    ranked,
    running_sum_scores,
    shuffled_scores,
    significance,
    significance_of_null,
)

N = 400
SCORES = ((np.arange(N) * 7919) % 1009 - 504) / 250
SETS = {
    "every 7th": np.arange(0, N, 7), "high": np.flatnonzero(SCORES > 1.2)[::2],
    "low": np.flatnonzero(SCORES < -0.9)[::3], "both ends": np.flatnonzero(np.abs(SCORES) > 1.8),
    "middle": np.flatnonzero(np.abs(SCORES) < 0.3), "few": np.array([3, 50, 51, 52, 399]),
}  # fmt: skip
GSEAPY = {
    0.0: (0.07451099011897566, 0.8857938718662954, -0.8021740749013476, 0.511627906976744, -0.501466275659824,
          -0.4607594936708861),
    1.0: (0.1771698721255026, 0.8857938718662948, -0.8123454933364893, 0.5111435523114355, -0.501466275659824,
          -0.5615344529056768),
    1.5: (0.2089086899288665, 0.8857938718662948, -0.8160850986742432, 0.5109051374565586, -0.501466275659824,
          -0.6482310526430275),
}  # fmt: skip
"""ES of `SETS` by weight, of gseapy 1.3.1: with names = [f"t{i}" for i in range(N)],
prerank(rnk=pandas.Series(SCORES, names).sort_values(ascending=False), gene_sets={k: [f"t{i}" for i in v] for k, v in
SETS.items()}, min_size=3, max_size=1000, permutation_num=2000, weight=weight, outdir=None, seed=0, threads=1).res2d.
"""
GSEAPY_NES = (0.8039, 3.6974, -3.3431, 2.2091, -2.2825, -1.2397)
GSEAPY_P = (0.816, 0.0, 0.0, 0.0, 0.0, 0.23038728897715988)
"""NES and nominal p of the same run at weight 1, from 2000 permutations."""


def plain_score(scores: np.ndarray, members: list[int], weight: float) -> float:
    """One token after the other."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    weights = {i: abs(scores[i]) ** weight for i in members}
    if sum(weights.values()) == 0:
        weights = dict.fromkeys(members, 1.0)
    total, running, high, low = sum(weights.values()), 0.0, 0.0, 0.0
    for i in order:
        running += weights[i] / total if i in weights else -1 / (len(scores) - len(members))
        high, low = max(high, running), min(low, running)
    return high if high > -low else low


@st.composite
def rankings(draw):
    """Scores with ties and zeros, a proper subset of the tokens, and a weight."""
    n = draw(st.integers(2, 30))
    scores = draw(st.lists(st.integers(-6, 6), min_size=n, max_size=n))
    members = draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=n - 1))
    return np.array(scores) / 4, sorted(members), draw(st.sampled_from([0.0, 0.5, 1.0, 2.0]))


@given(rankings())
def test_the_score_equals_a_plain_running_sum(ranking):
    scores, members, weight = ranking
    found = running_sum_scores(scores[None], [np.array(members)], weight)[0, 0]
    expected = plain_score(scores, members, weight)
    assert abs(abs(found) - abs(expected)) < 1e-12  # at a tie of both ends rounding may choose the other sign


@pytest.mark.parametrize("weight", GSEAPY)
def test_d12_the_score_equals_that_of_gseapy(weight):
    found = running_sum_scores(SCORES[None], list(SETS.values()), weight)[0]
    assert np.abs(found - GSEAPY[weight]).max() < 1e-6


def test_d12_the_permutation_null_agrees_with_that_of_gseapy_within_its_sampling():
    _, weights = ranked(SCORES[None], 1.0)
    for j, ids in enumerate(SETS.values()):
        es = np.array([GSEAPY[1.0][j]])
        nes, p = significance(es, shuffled_scores(weights, len(ids), 2000, seed=0))
        assert abs(nes[0] / GSEAPY_NES[j] - 1) < 0.04 and abs(p[0] - GSEAPY_P[j]) < 0.04


def test_a_set_at_the_top_scores_1_and_one_at_the_bottom_minus_1():
    scores = np.arange(10.0)[None] - 4.5
    top, bottom = running_sum_scores(scores, [np.array([8, 9]), np.array([0, 1, 2])])[0]
    assert (top, bottom) == (1, -1)


@given(rankings(), st.floats(0.01, 100))
def test_the_length_of_a_direction_does_not_matter(ranking, length):
    scores, members, weight = ranking
    one, other = (running_sum_scores(s[None], [np.array(members)], weight) for s in (scores, length * scores))
    assert np.allclose(np.abs(one), np.abs(other))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_q_equals_benjamini_and_hochbergs_rule_in_plain_python(p):
    found = benjamini_hochberg(np.array(p))
    for i, own in enumerate(p):
        above = [other for other in p if other >= own]
        expected = min(min(other * len(p) / sum(x <= other for x in p) for other in above), 1)
        assert found[i] == pytest.approx(expected)


def test_q_is_taken_of_each_row_by_itself():
    p = np.array([[0.01, 0.04, 0.03, 0.5], [0.5, 0.5, 0.5, 0.02]])
    expected = [[0.04, 0.16 / 3, 0.16 / 3, 0.5], [0.5, 0.5, 0.5, 0.08]]
    assert np.allclose(benjamini_hochberg(p), expected)


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=30))
def test_a_draw_of_the_null_has_the_p_that_it_would_have_by_the_others(draws):
    null = np.array(draws) / 5
    found = significance_of_null(null)
    for i in range(len(null)):
        _, expected = significance(null[i : i + 1], np.delete(null, i))
        assert found[i] == pytest.approx(expected[0])


def test_a_null_without_a_draw_of_the_scores_sign_says_nothing():
    nes, p = significance(np.array([-0.5, 0.5]), np.array([0.2, 0.6, 0.4]))
    assert np.isnan(nes[0]) and p[0] == 1 and nes[1] == pytest.approx(1.25) and p[1] == 0.5


def test_shuffled_sets_are_the_same_for_every_row_and_repeat_with_the_seed():
    _, weights = ranked(np.stack([SCORES, SCORES]), 1.0)
    one, again, other = (shuffled_scores(weights, 9, 50, seed) for seed in (0, 0, 1))
    assert one.shape == (2, 50) and np.array_equal(one[0], one[1])
    assert np.array_equal(one, again) and not np.array_equal(one, other)
