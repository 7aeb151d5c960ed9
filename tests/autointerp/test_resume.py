"""Long calls that were killed: they go on, ask nothing twice but what was under way, and end alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import mlxterp
from mlxterp import InputError, MlxterpWarning, autointerp
from mlxterp.autointerp.finished import Finished

from .interrupted import KILLS

ROOT = Path(mlxterp.__file__).parents[1]


@pytest.fixture(scope="module")
def folder(index):
    """Of the index."""
    return index.path


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_a_run_killed_at_ten_random_points_equals_one_that_was_not(folder, tmp_path):
    command = [sys.executable, "-m", "tests.autointerp.interrupted", str(folder), str(tmp_path), "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    whole, killed = (
        json.loads((tmp_path / name / "scores.json").read_text()) for name in ("whole", "killed")
    )
    cost, other = whole.pop("cost"), killed.pop("cost")
    assert whole == killed and cost["questions"] == other["questions"]
    for name in ("told", "scored"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    asked, again = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("whole", "killed")
    )
    assert len({process for process, _ in again}) == KILLS + 1
    last = dict(again)
    finisher = again[-1][0]
    in_flight = Counter(q for process, batch in last.items() if process != finisher for q in batch)
    once = Counter(q for _, batch in asked for q in batch)
    assert Counter(q for _, batch in again for q in batch) - in_flight == once


def test_a_finished_call_asks_nothing_and_more_scorers_ask_only_theirs(folder, tmp_path):
    class Counting(autointerp.TokenListJudge):
        asked = 0

        def probabilities(self, questions):
            Counting.asked += len(questions)
            return super().probabilities(questions)

    index = mlxterp.FeatureIndex.open(folder)
    plan = autointerp.Plan(negatives={"random": 5}, least=2)
    told = index.explain(index.summary.count.argsort()[::-1][60:180:40], plan=plan, verbose=False)
    path = tmp_path / "answers.jsonl"
    first = index.score(told, Counting(), ["detection"], path=path, verbose=False)
    before = Counting.asked
    again = index.score(told, Counting(), ["detection"], path=path, verbose=False)
    assert Counting.asked == before == first.cost["questions"] == again.cost["questions"]
    assert str(again) == str(first)
    index.score(told, Counting(), ["detection", "fuzzing"], path=path, verbose=False)
    assert before < Counting.asked <= 2 * before
    with pytest.raises(InputError, match="explanations, windows differ"):
        index.score(told[1:], Counting(), ["detection"], path=path, verbose=False)
    with pytest.raises(InputError, match="Choose another path"):
        index.explain([1], plan=plan, path=path, verbose=False)


def test_what_cannot_be_gone_on_with_is_named(tmp_path):
    path = tmp_path / "file"
    Finished(path, {"call": "x"}).put("a", 1)
    assert Finished(path, {"call": "x"}).get("a") == 1
    for change, message in (
        (lambda text: text.replace('"version": 1', '"version": 2'), "version 2"),
        (lambda text: text.replace("mlxterp-finished", "other"), "no such file"),
        (lambda text: "a shopping list", "no such file"), (lambda text: text.replace('"x"', '"y"'), "call differ"),
    ):  # fmt: skip
        bad = tmp_path / "bad"
        bad.write_text(change(path.read_text()))
        with pytest.raises(InputError, match=message):
            Finished(bad, {"call": "x"})


def test_a_line_that_was_cut_off_is_done_again_and_a_broken_one_is_counted(tmp_path):
    path = tmp_path / "file"
    kept = Finished(path, {"call": "x"})
    kept.put("a", [0.1, None])
    kept.put("b", 2)
    data = path.read_bytes()
    for end in range(len(data)):
        path.write_bytes(data[:end])
        found = Finished(path, {"call": "x"})
        assert ("a" in found) == (data[:end].count(b"\n") > 1) and "b" not in found
        found.put("b", 3)
        assert Finished(path, {"call": "x"}).get("b") == 3
    path.write_bytes(data.replace(b'"key": "a"', b'"key: "a"'))
    with pytest.warns(MlxterpWarning, match="1 lines .* done again"):
        found = Finished(path, {"call": "x"})
    assert "a" not in found and found.get("b") == 2


def test_an_answer_that_was_changed_is_asked_again(folder, tmp_path):
    index = mlxterp.FeatureIndex.open(folder)
    plan = autointerp.Plan(negatives={"random": 5}, least=2)
    told = index.explain(int(index.summary.count.argsort()[-40]), plan=plan, verbose=False)
    path = tmp_path / "answers"

    def score():
        return index.score(told, scorers=["detection"], controls=False, path=path, verbose=False)

    first, good = score(), path.read_text()
    for old, new in (
        ('"answers": [[', '"answers": ["x", ['),
        ('"tokens": [0, 0]', '"tokens": 0'),
        ("[[", "[[true, "),
    ):
        assert old in good
        path.write_text(good.replace(old, new, 1))
        assert str(score()) == str(first) and len(path.read_text().splitlines()) > len(good.splitlines())


class Dies:
    """A writer that is killed at a call, and tells what it was asked."""

    name = "dies"

    def __init__(self, at: int, reply):
        self.left, self.reply, self.asked = at, reply, list[str]()

    def write(self, prompts, max_tokens=256, *, temperature=0.0, seed=0):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        self.asked += [prompt.text for prompt in prompts]
        return [self.reply(prompt) for prompt in prompts]


SMALL = autointerp.Plan(negatives={"random": 4}, least=1, draws=1)


@pytest.mark.filterwarnings("ignore:.*have no explanation")
def test_explanations_of_a_language_model_are_kept_some_at_a_time(index, demo, tmp_path, monkeypatch):
    monkeypatch.setattr("mlxterp.autointerp.explaining.BATCH", 2)
    features = [int(feature) for feature in index.summary.count.argsort()[::-1][60:67]]
    examples = autointerp.collect(index, features, SMALL, verbose=False)

    def reply(prompt):
        return "unclear" if len(prompt.text) % 3 == 0 else f"a thing of {len(prompt.text)} letters"

    def told(writer, path, **settings):
        explainer = autointerp.LLMExplainer(writer, contrast=True, **settings)
        found = index.explain(features, explainer, examples=examples, path=path, verbose=False)
        return [(one.feature_id, one.text) for one in found], explainer.left_out

    whole = Dies(-1, reply)
    expected = told(whole, None)
    first, second, third = Dies(3, reply), Dies(-1, reply), Dies(-1, reply)
    with pytest.raises(KeyboardInterrupt):
        told(first, tmp_path / "told")
    assert told(second, tmp_path / "told") == expected
    assert first.asked + second.asked == whole.asked and len(first.asked) == 4
    assert told(third, tmp_path / "told") == expected and not third.asked
    with pytest.raises(InputError, match="settings differ"):
        told(third, tmp_path / "told", cot=True)


@pytest.mark.filterwarnings("ignore:.*wrote no texts that count")
def test_texts_that_were_written_are_kept_and_scores_of_them_saved(index, demo, tmp_path, monkeypatch):
    monkeypatch.setattr("mlxterp.autointerp.kept_writer._BATCH", 4)
    told = index.explain(index.summary.count.argsort()[::-1][60:63], plan=SMALL, verbose=False)
    corpus = autointerp.CorpusWriter(demo.texts[60:])

    def score(writer, path):
        return index.score(
            told,
            scorers=["detection", "generation", "sensitivity"],
            writer=writer,
            path=path,
            controls=False,
            verbose=False,
        )

    def reply(prompt):
        return corpus.write([prompt])[0]

    whole, first, second, third = (Dies(at, reply) for at in (-1, 3, -1, -1))
    expected = score(whole, None)
    with pytest.raises(KeyboardInterrupt):
        score(first, tmp_path / "part")
    found = score(second, tmp_path / "part")
    assert first.asked + second.asked == whole.asked and len(first.asked) == 6
    assert str(score(third, tmp_path / "part")) == str(found) == str(expected) and not third.asked
    assert found.provenance["writer"] == "dies" == found.writer
    assert set(found.provenance["prompts_to_write"]["rendered"]) == {"fitting", "near_miss", "similar"}
    assert found.cost["questions"] == expected.cost["questions"] > len(whole.asked)
    again = autointerp.Scores.load(found.save(tmp_path / "scores.json"))
    assert str(again) == str(found) and again.fragment() == found.fragment() and again.writer == "dies"
    assert again.to_pandas().equals(found.to_pandas())
    pytest.importorskip("matplotlib")
    axes = found.plot().axes[-1]
    assert [one.get_text() for one in axes.get_xticklabels()] == ["generation", "sensitivity"]
