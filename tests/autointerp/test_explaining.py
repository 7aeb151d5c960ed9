"""Explanations of features, and what becomes of those that cannot be explained."""

from __future__ import annotations

import pytest

from mlxterp import InputError, MlxterpWarning, autointerp


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
