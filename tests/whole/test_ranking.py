"""What the helper that compares rankings lets pass, and what not."""

from __future__ import annotations

import pytest

from tests.ranking import assert_ranked

SCORES = {0: 1.0, 1: 2.0, 2: 2.0 * (1 - 1e-6), 3: 0.5, 4: 0.5}


@pytest.mark.parametrize("found", [[1, 2, 0], [2, 1, 0]])
def test_what_differs_by_rounding_may_come_in_either_order(found):
    assert_ranked(found, SCORES, 3)


def test_the_last_place_may_go_to_either_of_two_that_differ_by_rounding():
    for found in ([1], [2]):
        assert_ranked(found, SCORES, 1)


@pytest.mark.parametrize(
    "found", [[1, 0, 2], [1, 2], [1, 2, 3], [1, 1, 0], [1, 2, 0, 4], [1, 2, 0, 4, 3], [1, 2, 0, 3, 4, 5]]
)
def test_any_other_order_or_choice_fails(found):
    with pytest.raises((AssertionError, KeyError)):
        assert_ranked(found, SCORES, max(3, len(found)))


def test_equals_come_in_their_order():
    assert_ranked([1, 2, 0, 3, 4], SCORES, 9)
