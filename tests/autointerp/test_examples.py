"""Windows that are drawn: what explains and what scores share no text, and every inactive one is inactive."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlxterp import InputError, autointerp
from mlxterp.autointerp import Plan
from mlxterp.errors import FeatureIndexError, UnknownFeatureError
from mlxterp.index import FeatureIndex

PLAN = Plan(least=2)


@pytest.fixture(scope="module")
def features(index):
    """Some of many and of few texts."""
    return [int(feature) for feature in index.live[5:400:20]]


@pytest.fixture(scope="module")
def examples(index, features):
    return autointerp.collect(index, features, PLAN, verbose=False)


def test_explaining_and_scoring_share_no_text(examples):
    for drawn in examples.values():
        explaining = {sample.example.text for sample in drawn.explaining}
        for samples in drawn.draws:
            assert explaining.isdisjoint(sample.example.text for sample in samples)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_every_window_is_what_the_model_and_the_sae_say_of_it(backend, in_wing):
    wing = in_wing(backend)
    index, model, sae = wing.index, wing.model, wing.sae
    chosen = [int(feature) for feature in index.summary.count.argsort()[::-1][60:62]]
    encoded: dict[str, Any] = {}
    checked = 0
    for feature, drawn in autointerp.collect(index, chosen, PLAN, verbose=False).items():
        for sample in [*drawn.explaining, *(one for samples in drawn.draws for one in samples)][::3]:
            example = sample.example
            if example.text not in encoded:
                place = str(sae.component)
                activations = model.trace(example.text, capture=[place]).activations[place]
                encoded[example.text] = sae.encode(model.language_model.backend.get(activations)[0])
            found = encoded[example.text][:, feature]
            mine = found[example.start : example.start + len(example.tokens)].copy()
            if example.start == 0:
                mine[0] = 0  # the beginning of a text is left out of the index
            assert np.allclose(mine, example.activations, atol=1e-3)
            assert sample.active == bool(example.activations.any()) == (sample.tenth is not None)
            checked += 1
    assert checked > 30


def test_windows_are_of_the_kinds_that_were_asked_for(examples):
    kept = [drawn for drawn in examples.values() if not drawn.reason]
    assert len(kept) > 10
    for drawn in kept:
        kinds = [sample.kind for sample in drawn.explaining]
        assert kinds.count("top") <= 10 and kinds.count("quantile") <= 10
        for samples in drawn.draws:
            active = [sample for sample in samples if sample.active]
            assert samples[: len(active)] == tuple(active)
            assert {sample.kind for sample in samples if not sample.active} <= set(autointerp.plan.NEGATIVES)
            assert all(sum(s.kind == kind for s in samples) <= 10 for kind in ("quantile", "random"))


def test_an_inactive_window_of_the_same_token_stands_around_one_the_feature_fires_on(examples):
    found = 0
    for drawn in examples.values():
        strongest = {
            sample.example.tokens[sample.example.position - sample.example.start]
            for sample in [*drawn.explaining, *(one for samples in drawn.draws for one in samples)]
            if sample.active
        }
        for sample in (one for samples in drawn.draws for one in samples if one.kind == "same_token"):
            found += 1
            assert sample.example.tokens[sample.example.position - sample.example.start] in strongest
    assert found > 50


def test_windows_that_are_alike_come_once(examples):
    for drawn in examples.values():
        for samples in drawn.draws:
            shown = [sample.example for sample in (*drawn.explaining, *samples)]
            around = [e.tokens[max(0, e.position - e.start - 5) : e.position - e.start + 6] for e in shown]
            assert len(set(around)) == len(around)


def test_one_seed_draws_the_same_and_another_something_else(index, features, examples):
    def places(found):
        return [
            [
                (s.kind, s.example.text_id, s.example.position)
                for s in (*drawn.explaining, *sum(drawn.draws, ()))
            ]
            for drawn in found.values()
        ]

    some = features[:8]
    again = autointerp.collect(index, some[::-1], PLAN, verbose=False)
    assert {f: places({f: examples[f]}) for f in some} == {f: places({f: again[f]}) for f in some}
    other = autointerp.collect(index, some, replace(PLAN, seed=1), verbose=False)
    assert places(other) != places({f: examples[f] for f in some})


def test_the_tenth_of_a_window_is_that_of_its_rank(index, features, examples):
    for feature in features[:8]:
        ranked = [text for text, _, _ in index.top_texts(feature, 10**6)]
        for sample in examples[feature].explaining:
            copies = [len(ranked) - 1 - i for i, text in enumerate(ranked) if text == sample.example.text]
            assert sample.tenth is not None
            assert any(abs(sample.tenth - rank * 10 // len(ranked)) <= 1 for rank in copies)


def test_a_feature_with_too_few_windows_has_a_reason(index):
    dead = next((f for f in range(index.d_hidden) if f not in set(index.live.tolist())), None)
    rare = min(index.live.tolist(), key=lambda f: index.stats(f).count)
    found = autointerp.collect(index, [f for f in (dead, rare) if f is not None], verbose=False)
    assert "windows" in found[rare].reason and found[rare].explaining == ()
    if dead is not None:
        assert "never active" in found[dead].reason
    assert set(found.left_out) == set(found)


def test_a_feature_that_always_fires_has_no_inactive_window(index):
    most = max(index.live.tolist(), key=lambda f: index.stats(f).count)
    wide = Plan(before=500, after=500, least=1)
    assert "not active" in autointerp.collect(index, [most], wide, verbose=False)[most].reason


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"explaining": {"best": 3}}, "best"), ({"explaining": {"top": 0}}, "no windows"),
        ({"negatives": 5}, "dictionary"), ({"positives": {"top": -1}}, "at least 0"), ({"draws": 0}, "at least 1"),
        ({"seed": 1.5}, "seed"), ({"before": "10"}, "before"),
    ],
)  # fmt: skip
def test_what_a_plan_cannot_be_is_named(settings, message):
    with pytest.raises(InputError, match=message):
        Plan(**settings)


def test_what_cannot_be_collected_is_named(index, features):
    with pytest.raises(UnknownFeatureError):
        autointerp.collect(index, [index.d_hidden], verbose=False)
    alone = FeatureIndex.open(index.path)
    with pytest.raises(FeatureIndexError, match="SAE"):
        autointerp.collect(alone, features[:1], PLAN, verbose=False)
    assert len(autointerp.collect(alone, features[:1], Plan(negatives={"random": 5}), verbose=False)) == 1
    assert len(autointerp.collect(index, np.int64(features[0]), PLAN, verbose=False)) == 1
