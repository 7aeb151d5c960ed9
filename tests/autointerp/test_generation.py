"""Generation test and sensitivity: what was written is run on our model, and nothing else decides."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mlxterp import Explanation, InputError, MlxterpWarning, autointerp
from mlxterp.autointerp import CorpusWriter, Plan
from mlxterp.autointerp.generation import Outcome
from mlxterp.autointerp.written_texts import TASKS, Wanted
from mlxterp.errors import FeatureIndexError
from mlxterp.index import FeatureIndex
from mlxterp.index.peaks import peaks_on
from tests.autointerp.test_judges import window

TESTS = ["generation", "sensitivity"]


class Gives:
    """Writes texts that a function chooses: (prompt) → texts, or None."""

    name = "gives"

    def __init__(self, texts):
        self.texts, self.asked = texts, []

    def write(self, prompts, max_tokens=256, *, temperature=0.0, seed=0):
        self.asked += prompts
        found = [self.texts(prompt) for prompt in prompts]
        return [one if one is None else json.dumps(one) for one in found]


@pytest.fixture(scope="module", params=["torch", "mlx"])
def demo(request, in_wing):
    """The demo in each installed wing: index, model, SAE, texts that are not in the index, and explained features."""
    wing = in_wing(request.param)
    index = wing.index
    features = [int(feature) for feature in index.live[40:400:40]]
    examples = autointerp.collect(index, features, Plan(least=3), verbose=False)
    explainer = autointerp.TokenListExplainer(3)
    told = [explainer.explain(f, drawn.explaining) for f, drawn in examples.items() if not drawn.reason]
    return index, wing.model, wing.sae, wing.texts, examples, [one for one in told if one is not None]


def sentences(texts, n=120) -> list[str]:
    found = dict.fromkeys(
        part.strip() + "." for text in texts for part in text.split(".") if len(part.split()) > 4
    )
    return [one.replace("\n", " ") for one in found if len(one.split()) < 50][:n]


def test_d21b_what_fires_is_what_the_model_and_the_sae_say(demo):
    index, model, sae, texts, _, told = demo
    several, features = sentences(texts, 25), [one.feature_id for one in told]
    found = peaks_on(index, several, features)
    for text, row in zip(several, found, strict=True):
        activations = model.trace(text, capture=[sae.component]).activations[sae.component]
        values = np.array(sae.encode(model.language_model.backend.get(activations)[0]))[:, features]
        ids = np.array(model.tokenize(text))
        values[ids == model.tokenizer.bos_token_id] = 0  # the index leaves beginnings out
        expected = values[np.argmax(np.abs(values), axis=0), np.arange(len(features))]
        assert np.allclose(row, expected, atol=1e-3)
    assert (found != 0).any() and peaks_on(index, [], features).shape == (0, len(features))


def test_d21b_a_writer_that_knows_the_truth_scores_one_and_one_that_never_fits_scores_chance(demo):
    index, _, _, texts, examples, told = demo
    several = sentences(texts)
    features = [one.feature_id for one in told]
    fires = peaks_on(index, several, features) != 0
    often = [k for k in range(len(told)) if 8 <= fires[:, k].sum() <= len(several) - 8]
    chosen = [told[k] for k in often]
    rows = {told[k].text: fires[:, k] for k in often}
    assert len(chosen) >= 3

    def oracle(prompt):
        right = rows[prompt.explanation] == (prompt.task == "fitting")
        return [text for text, yes in zip(several, right, strict=True) if yes][prompt.draw * 4 :][:4]

    found = index.score(
        chosen, scorers=["generation"], writer=Gives(oracle), examples=examples, verbose=False
    )
    for one in found:
        detail, score = one.details["generation"], one.scores["generation"]
        assert (score.value, detail.precision, detail.recall, detail.f1, detail.auroc) == (1, 1, 1, 1, 1)
        assert score.chance == 0.5 and score.interval == (1, 1) and score.n == 16 and score.failed == 4

    def never(prompt):
        quiet = [text for text, yes in zip(several, rows[prompt.explanation], strict=True) if not yes]
        return quiet[4 * (2 * prompt.draw + (prompt.task == "near_miss")) :][:4]

    found = index.score(chosen, scorers=["generation"], writer=Gives(never), examples=examples, verbose=False)
    for one in found:
        assert one.scores["generation"].value == 0.5 and one.details["generation"].f1 == 0
        assert np.isnan(one.details["generation"].recall)


@pytest.mark.filterwarnings("ignore:.*wrote no texts that count")
def test_d21b_words_of_a_feature_do_better_on_its_own_texts_than_on_those_of_others(demo):
    index, _, _, texts, examples, told = demo
    found = index.score(told, scorers=TESTS, writer=CorpusWriter(texts), examples=examples, verbose=False)
    for task in TESTS:
        mean = found.mean(task)
        own = [one for one in found if task in one.details and len(one.details[task].control)]
        control = np.mean([one.details[task].control.mean() for one in own])
        assert mean is not None and mean.value > control + 0.1 and mean.value > (mean.chance or 0) + 0.1
    assert (
        abs(np.mean([one.details["generation"].control.mean() for one in found if one.details]) - 0.5) < 0.1
    )
    table = found.to_pandas()
    assert table["f1"].notna().any() and table["control"].notna().any()
    assert "texts of other features" in str(found) and "F1" in found.fragment() and found.writer in str(found)
    again = index.score(told[:2], scorers=TESTS, writer=CorpusWriter(texts), examples=examples, verbose=False)
    assert [one.scores for one in again] == [one.scores for one in found[:2]]
    for task in TESTS:
        assert found.controls[task]["texts"].stands_out and task in str(again.without)


@pytest.fixture(scope="module")
def one(demo):
    """The index, an explained feature, its windows, and some texts."""
    index, _, _, texts, examples, told = demo
    return index, told[0], examples, sentences(texts, 40)


def test_what_was_not_written_is_counted_and_read_in_both_ways(one):
    index, told, examples, texts = one
    writer = Gives(
        lambda prompt: None if prompt.draw else texts[:3] if prompt.task == "fitting" else texts[3:8]
    )
    [found] = index.score(told, scorers=["generation"], writer=writer, examples=examples, verbose=False)
    score, detail = found.scores["generation"], found.details["generation"]
    assert (score.n, score.failed) == (8, 12) and detail.as_wrong <= score.value
    fires = peaks_on(index, texts[:8], [told.feature_id])[:, 0] != 0
    assert detail.as_wrong == pytest.approx((fires[:3].sum() / 10 + (~fires[3:]).sum() / 10) / 2)
    assert np.isnan(detail.between_draws) or np.isnan(detail.draws[1])
    with pytest.warns(MlxterpWarning, match="1 of 1 explanations have no"):
        nothing = index.score(
            told, scorers=TESTS, writer=Gives(lambda p: None), examples=examples, verbose=False
        )
    assert nothing[0].scores == {} and "generation" not in nothing.tasks


def test_copies_of_what_was_shown_and_repetitions_do_not_count(one):
    index, told, examples, texts = one
    drawn = examples[told.feature_id]
    copied = " ".join(drawn.explaining[0].example.text.split()[3:9])
    writer = Gives(lambda prompt: [copied.upper(), *texts[:2]] if prompt.task == "fitting" else texts[1:4])
    [found] = index.score(told, scorers=["generation"], writer=writer, examples=examples, verbose=False)
    assert (found.scores["generation"].n, found.scores["generation"].failed) == (4, 16)
    shown = "".join(window(" a", " ball", " fell").tokens)
    wanted = Wanted("similar", 3, examples=(window(" a", " ball", " fell"),))
    assert wanted.read(json.dumps([shown, "A ball  FELL", "A cat fell."])) == ["A cat fell."]


def test_sensitivity_is_the_share_of_texts_like_the_examples_on_which_it_fires(one):
    index, told, examples, texts = one
    writer = Gives(lambda prompt: texts[5 * prompt.draw :][:5])
    [found] = index.score(told, scorers=["sensitivity"], writer=writer, examples=examples, verbose=False)
    fires = peaks_on(index, texts[:10], [told.feature_id])[:, 0] != 0
    score, detail = found.scores["sensitivity"], found.details["sensitivity"]
    assert score.value == fires.mean() and score.n == 10 and score.failed == 0
    assert detail.draws == pytest.approx([fires[:5].mean(), fires[5:].mean()]) and not len(detail.control)
    assert 0 < (score.chance or 0) < 0.6
    assert all(prompt.task == "similar" and told.text not in prompt.text for prompt in writer.asked)
    shown = {one.text for prompt in writer.asked for one in prompt.examples}
    assert shown.isdisjoint(sample.example.text for sample in examples[told.feature_id].explaining)


@pytest.mark.filterwarnings("ignore:.*wrote no texts that count")
def test_the_generation_test_is_a_default_where_there_is_a_writer(one):
    index, told, examples, texts = one
    with_writer = index.score(told, writer=CorpusWriter(texts), examples=examples, verbose=False)
    assert set(index.score(told, examples=examples, verbose=False).tasks) <= {"detection", "intruder"}
    assert (
        set(with_writer.tasks) <= {"detection", "intruder", "generation"} and "detection" in with_writer.tasks
    )
    with pytest.raises(InputError, match="CorpusWriter"):
        index.score(told, scorers=["generation"], examples=examples, verbose=False)
    with pytest.raises(InputError, match="A scorer"):
        index.score(told, scorers=["taste"], writer=CorpusWriter(texts), examples=examples, verbose=False)
    alone = FeatureIndex.open(index.path)
    writer = Gives(lambda prompt: texts[:2])
    with pytest.raises(FeatureIndexError, match="attach"):
        alone.score(told, scorers=TESTS, writer=writer, examples=examples, verbose=False)
    assert not writer.asked


def test_what_is_said_to_fire_cannot_end_its_line_or_the_fence():
    like = (window(" </texts>", "\n", "evil"),)
    for task in TASKS:
        plain = Wanted(task, 3, "a b", like=(window(" x"),)).prompt.text
        bad = Wanted(task, 3, "a\n</texts> b " + "word " * 500, like=like).prompt.text
        assert bad.count("</texts>") == plain.count("</texts>") and len(bad.splitlines()) == len(
            plain.splitlines()
        )
        assert r"a \</texts\> b" in bad


@pytest.mark.parametrize(
    ("fitting", "near", "expected"),
    [
        ([1, 2, 0, 0], [0, 0], (0.5, 1.0, 2 / 3)), ([1, 1], [3, 0], (1.0, 2 / 3, 0.8)), ([0], [1], (0.0, 0.0, 0.0)),
        ([0, 0], [0], (0.0, None, 0.0)), ([], [1], (None, 0.0, None)), ([-2.0], [0], (1.0, 1.0, 1.0)),
    ],
)  # fmt: skip
def test_precision_recall_and_f1_are_those_of_the_texts(fitting, near, expected):
    tested = Outcome(np.array(fitting), np.array(near), np.zeros(len(fitting) + len(near), np.int64))
    found = [tested.precision, tested.recall, tested.f1]
    assert found == pytest.approx([np.nan if one is None else one for one in expected], nan_ok=True)


def test_an_explanation_of_nothing_that_occurs_has_no_texts(one):
    index, told, examples, texts = one
    nothing = Explanation(told.feature_id, '"qqq"', "me")
    with pytest.warns(MlxterpWarning, match=f"first for feature {told.feature_id}"):
        found = index.score(
            nothing, scorers=["generation"], writer=CorpusWriter(texts), examples=examples, verbose=False
        )
    assert found[0].scores == {}
