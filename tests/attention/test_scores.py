"""Row U9: numbers of a pattern, on patterns small enough to check by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlxterp import InputError
from mlxterp.attention import (
    AttentionPatternDetector,
    AttentionPatterns,
    attention_heatmap,
    copying_score,
    current_token_score,
    duplicate_token_score,
    first_token_score,
    induction_score,
    interactive_attention,
    mean_distance,
    pattern_entropy,
    previous_token_score,
    repeated_token_score,
)

N, PERIOD = 12, 4


def back(by: int) -> np.ndarray:
    """Every token reads the one so many before it; the first ones read themselves."""
    made = np.eye(N, k=-by)
    made[:by] = np.eye(N)[:by]
    return made


def uniform() -> np.ndarray:
    """Every token reads all that it can alike."""
    return np.tril(np.ones((N, N))) / np.arange(1, N + 1)[:, None]


def test_u9_a_score_is_1_where_every_token_reads_its_place():
    assert induction_score(back(PERIOD - 1), PERIOD) == 1
    assert duplicate_token_score(back(PERIOD), PERIOD) == 1
    assert previous_token_score(back(1)) == 1
    assert current_token_score(np.eye(N)) == 1
    assert first_token_score(np.tile(np.eye(N)[0], (N, 1))) == 1


def test_u9_a_score_is_the_mean_of_its_diagonal():
    a = np.random.default_rng(0).dirichlet(np.ones(N), N)
    assert induction_score(a, PERIOD) == pytest.approx(
        np.mean([a[i, i - PERIOD + 1] for i in range(PERIOD, N)])
    )
    assert duplicate_token_score(a, PERIOD) == pytest.approx(
        np.mean([a[i, i - PERIOD] for i in range(PERIOD, N)])
    )
    assert previous_token_score(a) == pytest.approx(np.mean([a[i, i - 1] for i in range(1, N)]))
    assert first_token_score(a) == pytest.approx(a[:, 0].mean())


def test_u9_nothing_repeated_scores_nothing():
    assert induction_score(back(1), N) == 0 and induction_score(back(1), 2 * N) == 0
    assert previous_token_score(np.ones((1, 1))) == 0
    assert np.isnan(repeated_token_score(back(1), np.arange(N)))


def test_u9_many_patterns_give_many_numbers():
    stack = np.stack([back(1), uniform(), back(3)]).reshape(3, 1, N, N)
    found = previous_token_score(stack)
    assert found.shape == (3, 1) and found[0, 0] == 1 and found[1, 0] == previous_token_score(uniform())
    assert isinstance(previous_token_score(uniform()), float)


def test_headvis_induction_reads_what_followed_any_earlier_occurrence():
    ids = np.tile(np.arange(PERIOD), 3)
    assert repeated_token_score(back(PERIOD - 1), ids) == 1
    assert repeated_token_score(back(2 * PERIOD - 1), ids) == pytest.approx(
        0.5
    )  # of the third repetition only
    faint = np.full((N, N), 0.009)
    assert repeated_token_score(faint, ids) == 0
    with pytest.raises(InputError, match="one token id for each"):
        repeated_token_score(back(1), ids[:5])


def test_entropy_and_distance_of_known_patterns():
    assert pattern_entropy(back(1)) == 0
    assert pattern_entropy(uniform()) == pytest.approx(np.log(np.arange(1, N + 1)).mean())
    assert mean_distance(np.eye(N)) == 0 and mean_distance(back(2)) == pytest.approx(2 * (N - 2) / N)


def test_u9_copying_is_the_diagonal_over_the_mean():
    assert copying_score(np.eye(8)) == pytest.approx(8)
    assert copying_score(-np.eye(8)) == pytest.approx(-8) and copying_score(np.zeros((8, 8))) == 0
    rng = np.random.default_rng(1)
    ov, words = rng.normal(size=(6, 6)), rng.normal(size=(6, 40))
    whole = words.T @ ov @ words
    assert copying_score(ov, words) == pytest.approx(np.diag(whole).mean() / np.abs(whole).mean())
    with pytest.raises(InputError, match=r"\(d_model, d_model\)"):
        copying_score(np.ones((3, 4)))
    with pytest.raises(InputError, match="d_model 6"):
        copying_score(ov, words.T)


def test_what_is_no_pattern_is_refused():
    with pytest.raises(InputError, match="attention_pattern"):
        previous_token_score(np.ones(5))
    with pytest.raises(InputError, match="seq_len"):
        induction_score(back(1), 0)


def test_lengths_and_tokens_that_cannot_be_are_named():
    for score in (induction_score, duplicate_token_score):
        assert score(back(1), 10**20) == 0  # nothing is repeated
    for bad in ([[1], [1, 2]], ["a"] * N, [0.5] * N):
        with pytest.raises(InputError, match="tokens is"):
            repeated_token_score(back(1), bad)
    torch = pytest.importorskip("torch")
    with pytest.raises(InputError, match="tokens is"):
        repeated_token_score(back(1), torch.ones(N, requires_grad=True))
    ids = [1, 2, 3] * (N // 3)
    assert repeated_token_score(back(1), torch.tensor(ids)) == repeated_token_score(back(1), ids)
    assert AttentionPatternDetector().classify_head(torch.eye(N, dtype=torch.bfloat16)) == ["current_token"]


@pytest.mark.parametrize("bad", [[], {}, np.array([0, 1]), True, None, 7])
def test_a_head_that_is_not_there_is_named(bad):
    found: Any = AttentionPatterns({0: np.eye(3)[None, None]}, {0: (0,)}, (("a", "b", "c"),))
    assert found.head(np.int64(0), np.array(0)).shape == (3, 3)
    with pytest.raises(InputError, match="There is no layer"):
        found.head(bad, 0)
    with pytest.raises(InputError, match="There is no head"):
        found.head(0, bad)


@pytest.mark.parametrize("bad", ["x", {"title": "a"}, [], 0, AttentionPatternDetector()])
def test_settings_of_pictures_are_of_their_class(bad):
    with pytest.raises(InputError, match=r"config is .*; it must be an InteractiveAttentionConfig"):
        interactive_attention({0: np.eye(3)[None]}, ["a", "b", "c"], bad)
    with pytest.raises(InputError, match=r"config is .*; it must be an AttentionVisualizationConfig"):
        attention_heatmap(np.eye(3), ["a", "b", "c"], config=bad)
