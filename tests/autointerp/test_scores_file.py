"""Scores in a file and in a picture."""

from __future__ import annotations

import json

import numpy as np
import pytest

import mlxterp
from mlxterp import InputError, autointerp
from mlxterp.autointerp import Scores

from .test_scoring import Failing

PLAN = autointerp.Plan(negatives={"random": 8}, least=2)
TASKS = ["detection", "intruder", "simulation", "neighbour_precision"]


@pytest.fixture(scope="module")
def told(index):
    features = [int(f) for f in index.live[100:300:40]]
    examples = autointerp.collect(index, features, PLAN, verbose=False)
    return index.explain([f for f in features if not examples[f].reason], plan=PLAN, verbose=False)


@pytest.fixture(scope="module")
def scores(index, told):
    plan = autointerp.Plan(negatives={"random": 8, "neighbour": 4}, least=2)
    return index.score(told, scorers=TASKS, plan=plan, verbose=False)


def test_scores_are_read_as_they_were_written(scores, index, told, tmp_path):
    rare = min(index.live.tolist(), key=lambda f: index.stats(f).count)
    more = index.score(
        [*told[:3], mlxterp.Explanation(rare, "é\n'\"", "me")], Failing(), ["detection", "fuzzing"], plan=PLAN,
        verbose=False,
    )  # fmt: skip
    for number, one in enumerate((scores, more)):
        path = one.save(tmp_path / f"{number}.json")
        again = Scores.load(path)
        assert str(again) == str(one) and again.explanations == one.explanations
        assert again.provenance == json.loads(json.dumps(one.provenance)) and again.cost == one.cost
        assert again.fragment() == one.fragment()
        for old, new in zip(one, again, strict=True):
            for task, detail in old.details.items():
                assert np.array_equal(detail.draws, new.details[task].draws, equal_nan=True)
                assert dict(detail.by_tenth) == new.details[task].by_tenth
                assert detail.false_positives == new.details[task].false_positives
        assert again.save(tmp_path / "again.json").read_bytes() == path.read_bytes()
        json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} in JSON"))


def test_two_runs_with_one_seed_write_the_same_bytes_but_for_the_times(index, told, scores, tmp_path):
    plan = autointerp.Plan(negatives={"random": 8, "neighbour": 4}, least=2)
    again = index.score(told, scorers=TASKS, plan=plan, batch_size=17, verbose=False)
    one, other = (
        found.save(tmp_path / f"{n}.json").read_text().partition('"cost"')
        for n, found in enumerate((scores, again))
    )
    assert one[0] == other[0] and json.loads("{" + one[1] + one[2])["cost"].keys() == again.cost.keys()


def test_provenance_says_all_that_scores_depend_on(index, scores, told):
    about = scores.provenance
    assert (
        about["index"]["sae"] == index.fingerprint and about["seed"] == 0 and about["judge"] == "token list"
    )
    assert about["plan"]["negatives"] == {"random": 8, "neighbour": 4} and about["scorers"] == TASKS
    assert set(about["prompts"]["rendered"]) == set(TASKS) and len(about["prompts"]["digest"]) == 8
    assert told[0].text in about["prompts"]["rendered"]["detection"]
    assert scores.cost["questions"] > 0 and scores.cost["seconds"] >= 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "cannot be read"), (lambda text: "[]", "no scores"),
        (lambda text: text.replace('"version": 1', '"version": 9', 1), "newer"),
        (lambda text: text.replace("token list", "token lost", 1), "digest"),
        (lambda text: text.replace('"digest"', '"dig"'), "digest"), (lambda text: text + "{", "cannot be read"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(scores, tmp_path, change, message):
    path = scores.save(tmp_path / "scores.json")
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=message):
        Scores.load(path)
    with pytest.raises(InputError, match=r"missing\.json"):
        Scores.load(tmp_path / "missing.json")


def test_the_plot_has_a_line_by_tenths_with_chance_and_controls(scores, tmp_path):
    pytest.importorskip("matplotlib")
    figure = scores.plot(tmp_path / "scores.svg")
    assert [axes.get_ylabel() for axes in figure.axes] == ["detection", "simulation", "neighbour_precision"]
    [legend] = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown[:2] == ["mean over features", "chance"] and any("exchanged" in text for text in shown)
    first = figure.axes[0].lines[0].get_ydata()
    found = [one.details["detection"].by_tenth.get(9) for one in scores]
    assert first[-1] == pytest.approx(np.mean([value for value in found if value is not None]))
    assert (tmp_path / "scores.svg").stat().st_size > 1000
    assert scores.to_html(tmp_path / "scores.html").read_text().count("control, ") >= 5
