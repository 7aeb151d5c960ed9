"""Explanations of features, and what becomes of those that cannot be explained."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mlxterp import InputError, MlxterpWarning, UnknownFeatureError, autointerp


@pytest.mark.filterwarnings("ignore:.*have no explanation")
def test_features_are_explained_with_where_it_comes_from(index):
    features = [int(f) for f in index.live[100:130:5]]
    plan = autointerp.Plan(least=1, seed=4)
    examples = autointerp.collect(index, features, plan, verbose=False)
    found = autointerp.explain(index, features, plan=plan, verbose=False)
    assert [one.feature_id for one in found] == [f for f in features if not examples[f].reason]
    again = autointerp.explain(index, features, examples=examples, verbose=False)
    assert again == found
    about = found[0].provenance
    assert about["index"]["sae"] == index.fingerprint and about["plan"]["seed"] == 4
    assert about["explainer"] == found[0].source == "token list of 5"
    concepts = index.source.sae.concepts
    concepts.add_explanations(found)
    assert concepts.explanations[found[0].feature_id][0].text == found[0].text
    concepts.clear_explanations()


def test_features_without_an_explanation_are_counted(index):
    rare = min(index.live.tolist(), key=lambda f: index.stats(f).count)
    common = max(index.live.tolist(), key=lambda f: index.stats(f).count)
    plan = autointerp.Plan(before=3, after=3, least=3)
    with pytest.warns(MlxterpWarning, match=f"1 of 2 features have no explanation; feature {rare}"):
        found = autointerp.explain(index, [rare, common], plan=plan, verbose=False)
    assert [one.feature_id for one in found] == [common]


def test_examples_of_another_index_are_refused(index, demo):
    model, sae, texts = demo
    other = model.build_index(sae, [text[:300] for text in texts[:5]], verbose=False)
    examples = autointerp.collect(other, [int(other.live[0])], verbose=False)
    with pytest.raises(InputError, match="of this index"):
        autointerp.explain(index, [1], examples=examples, verbose=False)
    with pytest.raises(InputError, match="take the place"):
        autointerp.explain(other, [1], plan=autointerp.Plan(), examples=examples, verbose=False)


@pytest.mark.parametrize("bad", ["x", 2.5, b"x", [], object()])
def test_what_is_no_plan_explainer_or_judge_is_named_before_anything_is_asked(index, bad):
    ask: Any = autointerp
    feature = int(index.live[0])
    for call, words in (
        (lambda: ask.collect(index, feature, bad), "plan is"),
        (lambda: ask.explain(index, feature, bad), "explainer is .*explain"),
        (lambda: ask.explain(index, feature, judge=bad), "judge is .*probabilities"),
        (lambda: ask.explain(index, feature, examples=bad), "examples is"),
        (lambda: ask.score(index, bad), "explanations="),
        (lambda: ask.neighbour_precision(bad, index), "explanation is"),
        (lambda: ask.LLMExplainer(bad), "judge is .*write"),
    ):
        with pytest.raises(InputError, match=words):
            call()


def test_features_are_taken_as_everywhere_else(index):
    feature = int(index.live[0])
    ask: Any = autointerp.collect
    one: list[Any] = [
        feature,
        np.array(feature),
        (feature, 2.5),
        [feature],
        np.array([feature]),
        iter([feature]),
    ]
    for given in one:
        assert list(ask(index, given, verbose=False)) == [feature]
    bads: list[Any] = ["", "7", b"x"]
    for bad in bads:
        with pytest.raises(UnknownFeatureError, match="No feature"):
            ask(index, bad, verbose=False)


@pytest.mark.parametrize("value", [[1], {"source": "x"}, {"text": 3}, {"text": "a", "more": 1}, 7])
def test_an_edited_line_of_what_is_kept_is_asked_again(index, tmp_path, value):
    common = max(index.live.tolist(), key=lambda f: index.stats(f).count)
    path, ask = tmp_path / "kept.jsonl", autointerp.explain
    given: dict[str, Any] = {"plan": autointerp.Plan(least=1), "path": path, "verbose": False}
    [told] = ask(index, common, **given)
    head = path.read_text().splitlines()[0]
    path.write_text(head + "\n" + json.dumps({"key": str(told.feature_id), "value": value}) + "\n")
    assert ask(index, common, **given) == [told]
