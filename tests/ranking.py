"""Whether an answer is ranked as brute force says, but for what rounding may decide.

Contexts that differ by less than 1e-5 of the larger may come in either order. Equal ones may not: what begins
alike has one value (`oracle.share_prefixes`), and the earlier text, or the lower id, comes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

ROUNDING = 1e-5


def assert_ranked(found: Sequence[int], scores: Mapping[int, float], top_k: int) -> None:
    """Whether `found` are the `top_k` largest of all, in order; among equals the lower number first."""
    tolerance = ROUNDING * max(scores.values(), default=0.0)
    assert len(found) == min(top_k, len(scores)), (len(found), top_k, len(scores))
    assert len(set(found)) == len(found)
    left = [number for number in scores if number not in set(found)]
    for place, number in enumerate(found):
        for later in [*found[place + 1 :], *left]:
            ahead = scores[number] - scores[later]
            right = number < later if ahead == 0 else ahead > -tolerance
            assert right, f"{number} ({scores[number]!r}) before {later} ({scores[later]!r})"


def assert_top_texts(
    found: Sequence[tuple], features: Sequence[np.ndarray], texts: Sequence[str], feature: int, top_k: int
) -> None:
    """Whether (text, activation[, position]) are a feature's top texts, by each text's dense features (n, d_hidden)."""
    columns = [dense[:, feature] for dense in features]
    scores = {i: float(np.abs(c).max()) for i, c in enumerate(columns) if np.abs(c).max() > 0}
    unused = {text: [i for i in scores if texts[i] == text] for text in texts}
    numbers = [unused[text].pop(0) for text, *_ in found]
    assert_ranked(numbers, scores, top_k)
    scale = max(scores.values(), default=0.0)
    for number, (_, value, *position) in zip(numbers, found, strict=True):
        assert abs(value) == pytest.approx(scores[number], rel=1e-4, abs=ROUNDING * scale)
        for at in position:
            assert columns[number][at] == pytest.approx(value, rel=1e-4, abs=ROUNDING * scale)
            earlier = np.abs(columns[number][:at])
            assert not (earlier >= np.abs(columns[number][at]) + ROUNDING * scale).any()
            assert np.abs(columns[number]).max() <= np.abs(columns[number][at]) + ROUNDING * scale


def assert_top_features(found: Sequence[tuple[int, float]], dense: np.ndarray, top_k: int) -> None:
    """Whether (feature, activation) are the top features of a text, by its dense features (n, d_hidden)."""
    largest = np.abs(dense).max(axis=0)
    scores = {int(f): float(largest[f]) for f in np.flatnonzero(largest)}
    assert_ranked([feature for feature, _ in found], scores, top_k)
    for feature, value in found:
        assert abs(value) == pytest.approx(scores[feature], rel=1e-4, abs=ROUNDING * float(largest.max()))


def assert_tracked(
    found: Mapping[int, Sequence[tuple[str, float]]],
    wanted: Mapping[int, Sequence[tuple[str, float]]],
    top_k: int,
) -> None:
    """Whether each feature's (text, activation) are the `top_k` strongest of all its distinct texts."""
    assert set(found) == {feature for feature, pairs in wanted.items() if pairs}
    values, expected = [], []
    for feature, pairs in found.items():
        place = {text: i for i, (text, _) in enumerate(wanted[feature])}
        scores = {i: abs(value) for i, (_, value) in enumerate(wanted[feature])}
        assert_ranked([place[text] for text, _ in pairs], scores, top_k)
        values += [abs(value) for _, value in pairs]
        expected += [scores[place[text]] for text, _ in pairs]
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
