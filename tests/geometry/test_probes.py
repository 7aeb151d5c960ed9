"""Probes: the fit is the textbook's, the test is on texts that were held out, and weak ones are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxterp import ComponentError, InputError, geometry
from mlxterp.geometry.logistic import fit_logistic
from mlxterp.geometry.probes import Fit, f1

WIDTH = 12


def clouds(gap: float, n: int = 60, seed: int = 0, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """Two clouds whose means lie `gap` apart along the first axis, far from 0."""
    rng = np.random.default_rng(seed)
    sides = rng.normal(size=(2, n, width))
    sides[0, :, 0] += gap
    return (sides[0] + 7).astype(np.float32), (sides[1] + 7).astype(np.float32)


@pytest.mark.parametrize("n", [50, 8])
@pytest.mark.parametrize("C", [0.05, 1.0, 30.0])
def test_the_fit_is_that_of_scikit_learn(n, C):
    linear = pytest.importorskip("sklearn.linear_model")
    x, y = np.random.default_rng(1).normal(size=(2 * n, 10)), np.repeat([True, False], n)
    x[y, 0] += 1.5
    weights, intercept = fit_logistic(x, y, C)
    theirs = linear.LogisticRegression(C=C, tol=1e-10, max_iter=10_000).fit(x, y)
    assert np.allclose(weights, theirs.coef_[0], atol=2e-4)
    assert intercept == pytest.approx(float(theirs.intercept_[0]), abs=2e-4)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(4, 40), st.integers(1, 12), st.floats(0.01, 100))
def test_at_the_fit_nothing_pulls(seed, n, width, C):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, width)), rng.random(n) < 0.5
    y[:2] = True, False
    weights, intercept = fit_logistic(x, y, C)
    off = 1 / (1 + np.exp(-(x @ weights + intercept))) - y
    assert np.abs(weights / C + x.T @ off).max() <= 1e-5 * n
    assert abs(off.sum()) <= 1e-5 * n


def test_fewer_rows_than_columns_are_solved_alike():
    x, y = np.random.default_rng(2).normal(size=(20, 50)), np.arange(20) % 2 == 0
    direction, threshold = Fit(x, 1.0).on(y)
    scaled = x - x.mean(axis=0)
    scale = np.sqrt((scaled**2).mean())
    weights, intercept = fit_logistic(scaled / scale, y)
    assert np.allclose(direction, weights / np.linalg.norm(weights), atol=1e-4)
    assert np.array_equal(x @ direction > threshold, scaled / scale @ weights + intercept > 0)


def test_a_concept_is_found_and_beats_shuffled_labels():
    found = geometry.probe(None, "layers.0", *clouds(6.0))
    assert found.f1.value > 0.95 and found.f1.stands_out and len(found.f1.control) == 20
    assert found.direction[0] > 0.9 and np.linalg.norm(found.direction) == pytest.approx(1, abs=1e-6)
    held = found.examples.take(found.held_out)
    said = found.says(held.activations)
    assert f1(np.stack([said, held.labels], axis=1)) == found.f1.value
    assert found.recall == said[held.labels].mean()
    assert found.precision == held.labels[said].mean()
    assert "fitted to 42 with and 42 without the concept, tested on 18 and 18" in str(found)


def test_units_and_origin_of_the_activations_do_not_matter():
    positive, negative = clouds(4.0)
    one = geometry.probe(None, "c", positive, negative, control=False)
    other = geometry.probe(None, "c", 100 * positive - 3, 100 * negative - 3, control=False)
    assert np.allclose(one.direction, other.direction, atol=1e-3)
    assert one.f1.value == other.f1.value


def test_weak_probes_are_refused_unless_asked_for():
    random = np.random.default_rng(0).normal(size=(2, 40, WIDTH))
    with pytest.raises(InputError, match=r"below 0\.6.*allow_weak=True"):
        geometry.probe(None, "c", random[0], random[1], seed=3)
    weak = geometry.probe(None, "c", random[0], random[1], seed=3, allow_weak=True)
    assert weak.f1.value < 0.6 and "too weak" in str(weak) and not weak.f1.stands_out


def test_the_same_seed_gives_the_same_and_another_another():
    one, same, other = (geometry.probe(None, "c", *clouds(3.0), seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.direction, same.direction) and np.array_equal(one.f1.control, same.f1.control)
    assert not np.array_equal(one.held_out, other.held_out)


def test_without_a_control_it_says_so(tmp_path):
    found = geometry.probe(None, "c", *clouds(6.0), control=False)
    assert "left out" in str(found)
    assert "<p>" in found.to_html(tmp_path / "probe.html").read_text(encoding="utf-8")


def test_f1_by_hand():
    assert f1(np.array([[1, 1], [1, 1], [1, 0], [0, 1]])) == pytest.approx(2 / 3)
    assert f1(np.array([[0, 0]])) == 0


POSITIVE, NEGATIVE = [f"{letter}a" for letter in "bcdefghk"], [f"{letter}o" for letter in "bcdefghk"]


def test_texts_are_read_at_the_position_asked_for(letter_model):
    found = geometry.concept_examples(letter_model, "layers.1", POSITIVE, [*NEGATIVE, "xyzo"])
    assert found.labels.sum() == 8 and found.positions[-1] == 4
    assert len(set(found.tokens[:8])) == len(set(found.tokens[8:])) == len({*found.tokens}) - 1 == 1
    trace = letter_model.trace("xyzo").activations["layers.1"]
    assert np.allclose(found.activations[-1], np.asarray(trace)[0, -1], atol=1e-4)
    first = geometry.concept_examples(letter_model, "layers.1", POSITIVE, NEGATIVE, position=1)
    assert first.tokens[:8] == first.tokens[8:] and (first.positions == 1).all()


def test_a_probe_of_texts_knows_their_last_letter(letter_model):
    found = geometry.probe(letter_model, "layers.0", POSITIVE, NEGATIVE)
    assert found.f1.value == 1 and found.examples.texts == (*POSITIVE, *NEGATIVE)
    assert found.component == "layers.0"


def test_what_cannot_be_is_named(letter_model):
    positive, negative = clouds(4.0, 10)
    bad = positive.copy()
    bad[3, 1] = np.nan
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((None, "c", bad, negative), "Row 3 of positive"),
        ((None, "c", positive[:4], negative), "4 different positive examples"),
        ((None, "c", positive, negative[:, :5]), "12 wide and negative 5"),
        ((None, "c", POSITIVE, NEGATIVE), "with a model"),
        ((letter_model, "layers.0", POSITIVE, negative), "both texts"),
        ((letter_model, "layers.0", POSITIVE, []), "negative holds no texts"),
        ((letter_model, "layers.0", POSITIVE, POSITIVE[:1]), "among positive and negative"),
        ((letter_model, "layers.0", POSITIVE * 5, ["bo", "bo", "bo", "bo", "bo"]), "1 different negative"),
    ]
    for given_, said in wrong:
        with pytest.raises(InputError, match=said):
            geometry.probe(*given_)
    with pytest.raises(InputError, match="no position 5"):
        geometry.probe(letter_model, "layers.0", POSITIVE, NEGATIVE, position=5)
    with pytest.raises(ComponentError):
        geometry.probe(letter_model, "layers.9", POSITIVE, NEGATIVE)
    with pytest.raises(InputError, match="shape"):
        geometry.probe(None, "c", positive, negative).says(positive[:, :3])
    with pytest.raises(InputError, match="one truth value"):
        geometry.ConceptExamples(positive, np.zeros(3, bool))
