"""Top texts, against their definition: one text after the other, one feature after the other."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxterp import InputError, SparseFeatures, UnknownFeatureError
from mlxterp.concepts import Concepts, tracking

WIDTH = 4
EXACT = st.sampled_from([0.0, 0.5, 1.0, -1.0, 2.0, -3.0])
"""Activations that are often equal in magnitude."""
ROUNDED = st.sampled_from([0.0, 1.0, 1.000004, -1.000008, 1.000012, 1.00002, 1.00004])
"""Activations that differ by more, and by less, than rounding."""


def recorded(values):
    """Texts, some of them again and again, and (texts, features) activations."""
    rows = st.tuples(st.sampled_from("abcdefgh"), st.lists(values, min_size=WIDTH, max_size=WIDTH))
    return st.lists(rows, min_size=1, max_size=40)


def of_rows(rows) -> tuple[list[str], SparseFeatures]:
    dense = np.array([row for _, row in rows], dtype=np.float32).reshape(-1, WIDTH)
    return [text for text, _ in rows], SparseFeatures.from_dense(dense)


def by_definition(rows, top_k: int) -> dict[int, list[tuple[str, float]]]:
    found = {}
    for feature in range(WIDTH):
        kept: list[tuple[str, float, int]] = []
        for number, (text, row) in enumerate(rows):
            value = float(np.float32(row[feature]))
            before = next((entry for entry in kept if entry[0] == text), None)
            if before and abs(value) <= abs(before[1]) * (1 + 1e-5):
                continue
            if before:
                kept.remove(before)
            if value != 0:
                kept = sorted([*kept, (text, value, number)], key=lambda e: (-abs(e[1]), e[2]))[:top_k]
        if kept:
            found[feature] = [(text, value) for text, value, _ in kept]
    return found


def tracked(rows, top_k: int, cuts=()) -> Concepts:
    concepts = Concepts(WIDTH)
    concepts.enable_text_tracking(top_k)
    for first, end in pairwise([0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]):
        concepts.record(*of_rows(rows[first:end]))
    return concepts


@given(recorded(EXACT) | recorded(ROUNDED), st.integers(1, 5))
def test_top_texts_are_those_of_the_definition(rows, top_k):
    assert tracked(rows, top_k).get_top_texts() == by_definition(rows, top_k)


@given(recorded(EXACT), st.integers(1, 5))
def test_without_rounding_they_are_the_texts_with_the_largest_maxima(rows, top_k):
    found = tracked(rows, top_k).get_top_texts()
    for feature in range(WIDTH):
        best: dict[str, tuple[float, int, float]] = {}
        for number, (text, row) in enumerate(rows):
            if row[feature]:
                best[text] = min(best.get(text, (0, 0, 0)), (-abs(row[feature]), number, row[feature]))
        ranked = sorted(best.items(), key=lambda item: item[1])[:top_k]
        assert found.get(feature, []) == [(text, value) for text, (_, _, value) in ranked]


@given(
    recorded(EXACT) | recorded(ROUNDED),
    st.integers(1, 5),
    st.lists(st.integers(0, 40), max_size=6),
    st.integers(1, 12),
    st.booleans(),
)
def test_how_texts_are_cut_into_calls_and_settled_decides_nothing(rows, top_k, cuts, pairs, reading):
    expected = by_definition(rows, top_k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "_PAIRS", pairs)
        patch.setattr(tracking, "_UNUSED", 0)
        concepts = tracked(rows, top_k, cuts)
        assert concepts.get_top_texts() == expected
        one_by_one = Concepts(WIDTH)
        one_by_one.enable_text_tracking(top_k)
        for row in rows:
            one_by_one.record(*of_rows([row]))
            if reading:
                one_by_one.get_top_texts()
        assert one_by_one.get_top_texts() == expected


@given(recorded(EXACT), st.integers(1, 5), st.integers(1, 5))
def test_another_top_k_cuts_the_lists_or_makes_room_for_later_texts(rows, first, second):
    half = len(rows) // 2
    concepts = tracked(rows[:half], first)
    concepts.enable_text_tracking(second)
    if half:
        assert concepts.get_top_texts() == by_definition(rows[:half], min(first, second))
    concepts.record(*of_rows(rows[half:]))
    if second <= first:
        assert concepts.get_top_texts() == by_definition(rows, second)
    assert all(len(texts) <= second for texts in concepts.get_top_texts().values())


def test_many_texts_of_many_features_are_those_of_a_sort():
    rng = np.random.default_rng(0)
    n, width, top_k = 3000, 50, 7
    dense = np.where(
        rng.random((n, width)) < np.geomspace(1, 0.001, width), rng.standard_normal((n, width)), 0
    )
    dense = dense.astype(np.float32)
    concepts = Concepts(width)
    concepts.enable_text_tracking(top_k)
    for first in range(0, n, 37):
        part = dense[first : first + 37]
        texts = [f"text {first + i}" for i in range(len(part))]
        concepts.record(texts, SparseFeatures.from_dense(part))
    found = concepts.get_top_texts()
    for feature in range(width):
        best = np.argsort(-np.abs(dense[:, feature]), kind="stable")[:top_k]
        expected = [(f"text {i}", float(dense[i, feature])) for i in best if dense[i, feature]]
        assert found.get(feature, []) == expected


def test_texts_run_twice_with_rounding_stay_as_they_were():
    rng = np.random.default_rng(1)
    dense = np.maximum(rng.standard_normal((200, WIDTH)), 0).astype(np.float32)
    texts = [f"text {i}" for i in range(200)]
    concepts = Concepts(WIDTH)
    concepts.enable_text_tracking(5)
    concepts.record(texts, SparseFeatures.from_dense(dense))
    before = concepts.get_top_texts()
    concepts.record(texts[::-1], SparseFeatures.from_dense(dense[::-1] * np.float32(1.000002)))
    assert [[text for text, _ in texts] for texts in concepts.get_top_texts().values()] == [
        [text for text, _ in texts] for texts in before.values()
    ]
    assert concepts.get_top_texts() == before


def test_a_text_that_comes_again_stronger_counts_once():
    concepts = tracked([("a", [1, 0, 0, 0]), ("b", [2, 0, 0, 0])], 3)
    concepts.record(*of_rows([("a", [5, 0, 0, 0]), ("a", [4, 0, 0, 0])]))
    assert concepts.get_top_texts() == {0: [("a", 5.0), ("b", 2.0)]}


def test_a_text_that_lost_its_place_can_come_back_though_no_stronger_than_by_rounding():
    rows = [(text, [value, 0, 0, 0]) for text, value in [("a", 1), ("b", 1.000004), ("a", 1.000008)]]
    for cuts in ([], [1], [2], [1, 2]):
        concepts = Concepts(WIDTH)
        concepts.enable_text_tracking(1)
        for first, end in pairwise([0, *cuts, 3]):
            concepts.record(*of_rows(rows[first:end]))
            concepts.get_top_texts()
        assert concepts.get_top_texts() == {0: [("a", float(np.float32(1.000008)))]}


def test_texts_that_no_feature_keeps_are_forgotten():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "_UNUSED", 0)
        patch.setattr(tracking, "_PAIRS", 4)
        concepts = tracked([(str(i), [i + 1, 0, 0, 0]) for i in range(1000)], 2, range(1000))
        texts = concepts._texts
        assert texts is not None and len(texts._numbers) <= 8 and len(texts._waiting) <= 4
    assert concepts.get_top_texts() == {0: [("999", 1000.0), ("998", 999.0)]}


def test_features_that_were_never_active_take_no_memory():
    concepts = Concepts(10_000_000)
    concepts.enable_text_tracking(1000)
    one = SparseFeatures(
        np.array([0, 1]), np.array([9_999_999], np.int32), np.ones(1, np.float32), 10_000_000
    )
    concepts.record(["far out"], one)
    assert concepts.get_top_texts() == {9_999_999: [("far out", 1.0)]}
    assert concepts._texts is not None and len(concepts._texts._table.tokens) <= 2


def test_what_the_caller_does_with_its_arrays_later_changes_nothing():
    texts, features = of_rows([("a", [1, 2, 3, 4])])
    concepts = Concepts(WIDTH)
    concepts.enable_text_tracking()
    concepts.record(texts, features)
    texts[0], features.values[:] = "b", 9
    assert concepts.get_top_texts(1) == {1: [("a", 2.0)]}


def test_json_takes_the_top_texts_and_features_ascend():
    found = tracked([("ü", [0, 0, 1.5, 0]), ("b", [0.25, 0, 2, 0])], 3).get_top_texts()
    assert json.loads(json.dumps(found)) == {"0": [["b", 0.25]], "2": [["b", 2.0], ["ü", 1.5]]}
    assert list(found) == sorted(found) and all(type(feature) is int for feature in found)


def test_one_feature_can_be_asked_for():
    concepts = tracked([("a", [1, 0, 0, 0])], 3)
    assert concepts.get_top_texts(np.int64(0)) == {0: [("a", 1.0)]}  # pyright: ignore[reportArgumentType]
    assert concepts.get_top_texts(3) == {3: []}
    with pytest.raises(UnknownFeatureError, match="No feature 4: this SAE has 4"):
        concepts.get_top_texts(4)


def test_while_tracking_is_off_nothing_is_kept_and_what_was_stays():
    concepts = tracked([("a", [1, 0, 0, 0])], 3)
    concepts.disable_text_tracking()
    assert not concepts.tracking
    concepts.record(*of_rows([("b", [9, 0, 0, 0])]))
    assert concepts.get_top_texts() == {0: [("a", 1.0)]}
    concepts.enable_text_tracking(3)
    assert concepts.tracking
    concepts.record(*of_rows([("b", [9, 0, 0, 0])]))
    assert concepts.get_top_texts() == {0: [("b", 9.0), ("a", 1.0)]}


def test_cleared_texts_are_gone_and_tracking_goes_on():
    concepts = tracked([("a", [1, 0, 0, 0])], 3)
    concepts.clear_texts()
    assert concepts.tracking
    concepts.record(*of_rows([("b", [0, 0.5, 0, 0])]))
    assert concepts.get_top_texts() == {1: [("b", 0.5)]}
    Concepts(WIDTH).clear_texts()


def test_reading_without_tracking_says_what_to_call_first():
    concepts = Concepts(WIDTH)
    with pytest.raises(InputError, match=r"enable_text_tracking\(top_k=10\) first, then run the model with"):
        concepts.get_top_texts()
    concepts.enable_text_tracking()
    with pytest.raises(InputError, match=r"No texts are recorded yet: attach the SAE"):
        concepts.get_top_texts()
    concepts.record(*of_rows([("nothing is active here", [0, 0, 0, 0])]))
    assert concepts.get_top_texts() == {}


def test_what_does_not_fit_is_refused():
    concepts = tracked([("a", [1, 0, 0, 0])], 3)
    with pytest.raises(InputError, match="Recorded were 1 texts with rows of 2"):
        concepts.record(["a"], of_rows([("a", [1, 0, 0, 0])] * 2)[1])
    with pytest.raises(InputError, match="an SAE with 3 features"):
        concepts.record(["a"], SparseFeatures.from_dense(np.ones((1, 3))))
    with pytest.raises(InputError, match="Expected a list of texts, got str"):
        concepts.record("a", of_rows([("a", [1, 0, 0, 0])])[1])
    nan = SparseFeatures(np.array([0, 1]), np.zeros(1, np.int32), np.array([np.nan], np.float32), WIDTH)
    with pytest.raises(InputError, match="not finite"):
        concepts.record(["a"], nan)
    for top_k in (0, -1, 1.5, True, "3", None):
        with pytest.raises(InputError, match="top_k is"):
            concepts.enable_text_tracking(top_k)  # pyright: ignore[reportArgumentType]
    assert concepts.get_top_texts() == {0: [("a", 1.0)]}
