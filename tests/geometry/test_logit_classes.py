"""Logit classes (row D12): planted shapes get their class, and random directions are seldom of any."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlxterp
from mlxterp import InputError
from mlxterp.geometry import Limits, LogitClasses, TokenSets, logit_classes, random_like
from mlxterp.geometry.logit_classes import CLASSES
from tests.geometry.planting import opened, toward, with_rows, written


@cache
def classes(backend: str = "mlx") -> LogitClasses:
    return logit_classes(opened(backend).model, opened(backend).sae)


def test_d12_planted_shapes_get_their_class(backend):
    model, sae, _ = opened(backend)
    head, sets = written(model, sae), TokenSets.standard(model.tokenizer)
    few, half = toward(head, sets["-ing"]), toward(head, sets["leading space"])
    found = logit_classes(model, with_rows(sae, np.stack([few, -few, half]), 256))
    assert found.kinds[:3] == ("prediction", "suppression", "partition")


def test_d12_random_directions_are_of_a_class_as_seldom_as_alpha_says(demo):
    found = classes()
    for kind in CLASSES[:3]:
        assert found.shares[kind].control_mean <= 2 * found.alpha
    rows = random_like(demo.sae.W_dec, "covariance", seed=99)
    fresh = logit_classes(demo.model, with_rows(demo.sae, rows), alpha=0.01)
    for kind in CLASSES[:3]:
        assert fresh.shares[kind].value <= 0.02


@pytest.mark.parametrize("control", ["isotropic", "shuffled"])
def test_other_controls_may_be_asked_for(demo, control):
    found = logit_classes(demo.model, with_rows(demo.sae, demo.sae.W_dec[:256], 256), control=control)
    assert all(found.shares[kind].control_mean <= 0.02 for kind in CLASSES[:3])
    assert f"random directions, {control}" in str(found) and found.limits != classes().limits


def test_skew_and_kurtosis_are_those_of_the_features_logits(backend):
    demo, found = opened(backend), classes(backend)
    for one in demo.model.feature_logits(demo.sae, [0, 7, 2047]):
        assert found.skew[one.feature_id] == pytest.approx(one.skew)
        assert found.kurtosis[one.feature_id] == pytest.approx(one.kurtosis)


def test_both_wings_agree():
    if len(mlxterp.available_backends()) < 2:
        pytest.skip("needs both backends")
    one, other = classes("mlx"), classes("torch")
    assert np.mean([a == b for a, b in zip(one.kinds, other.kinds, strict=True)]) > 0.999
    assert np.allclose(one.control_kurtosis, other.control_kurtosis, rtol=1e-3)


def test_the_same_seed_gives_the_same_bits_and_the_next_shares_no_draw(demo):
    sae = with_rows(demo.sae, demo.sae.W_dec[:100], 100)
    one, again, other = (logit_classes(demo.model, sae, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.control_skew, again.control_skew) and str(one) == str(again)
    assert not np.isin(other.control_skew, one.control_skew).any()


@given(st.floats(0.001, 0.2), st.integers(0, 1000))
def test_a_share_alpha_of_the_directions_lies_beyond_each_limit(alpha, seed):
    skew, kurtosis = np.random.default_rng(seed).normal(size=(2, 400))
    kurtosis += 5
    limits = Limits.of(skew, kurtosis, alpha)
    for beyond in (
        skew < limits.low_skew, skew > limits.high_skew, kurtosis < limits.low_kurtosis,
        kurtosis > limits.high_kurtosis,
    ):  # fmt: skip
        assert abs(beyond.mean() - alpha) <= 1 / 400
    assert all((limits.classes(skew, kurtosis) == i).mean() <= alpha + 1 / 400 for i in range(3))


def test_without_a_control_limits_are_those_of_normal_samples(demo):
    found = logit_classes(demo.model, demo.sae, control=False)
    samples = np.random.default_rng(0).normal(size=(2000, 1000))
    samples -= samples.mean(axis=1, keepdims=True)
    z = samples / samples.std(axis=1, keepdims=True)
    limits = Limits.of_normal(1000, 0.01)
    assert 0.005 < ((z**3).mean(axis=1) > limits.high_skew).mean() < 0.02
    assert 0.005 < ((z**4).mean(axis=1) > limits.high_kurtosis).mean() < 0.03
    assert str(found).count("no control: it was left out") == 4 and found.control_skew.size == 0
    assert found.shares["prediction"].value > 10 * classes().shares["prediction"].value


def test_a_dead_feature_is_of_no_class_and_counted(demo):
    rows = demo.sae.W_dec[:3].copy()
    rows[1] = 0
    found = logit_classes(demo.model, with_rows(demo.sae, rows, 256))
    assert found.kinds[1] == "none" and found.zeros == 1 and "1 decoder row is zero" in str(found)


def test_features_of_a_class_come_the_most_extreme_first():
    found = classes()
    peaked = found.kurtosis[found.features("prediction")]
    flat = found.kurtosis[found.features("partition")]
    assert np.all(np.diff(peaked) <= 0) and np.all(np.diff(flat) >= 0)
    assert sum(len(found.features(kind)) for kind in CLASSES) == len(found.table) == 2048
    with pytest.raises(InputError, match="one of 'prediction'"):
        found.features("predictive")  # type: ignore[arg-type]


def test_it_is_printed_with_its_control_and_says_what_is_no_finding():
    text = classes().to_str(color=False)
    assert re.search(r"prediction +0\.\d+ \[.*\]; control 0\.\d+ .*seed 0\)", text)
    assert "suppression" in text and "within what random directions have" in text


def test_it_stands_on_a_page_with_links(demo, tmp_path):
    found = classes()
    first = found.features("prediction")[0]
    assert f'<a href="#here">{first}</a>' in found.fragment(links={(repr(demo.sae), first): "here"})
    page = found.to_html(tmp_path / "c.html").read_text(encoding="utf-8")
    assert "<h1" in page and "http" not in page.replace("http-equiv", "")


def test_it_is_drawn_over_its_control(tmp_path):
    pytest.importorskip("matplotlib")
    figure = classes().plot(tmp_path / "c.png")
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels[0] == "random directions (covariance)" and len(labels) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"control": "gaussian"}, "there are: isotropic"), ({"control": True}, "there are: isotropic"),
        ({"alpha": 0.5}, "alpha"), ({"draws": 19}, "an integer in [20, "), ({"seed": "0"}, "seed"),
        ({"sae": 3}, "Expected an SAE"),
        ({"model": 3}, "InterpretableModel"), ({"random_seed": 1}, "Did you mean seed="),
    ],
)  # fmt: skip
def test_an_argument_out_of_its_range_is_named(demo, arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        logit_classes(**({"model": demo.model, "sae": demo.sae} | arguments))


def test_a_decoder_row_that_is_not_finite_raises(demo):
    rows = demo.sae.W_dec[:2].copy()
    rows[1, 3] = np.nan
    with pytest.raises(mlxterp.SAEError):
        logit_classes(demo.model, with_rows(demo.sae, rows, 256))
