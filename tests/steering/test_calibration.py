"""Calibration: what it measures is what the model does, and its verdict follows from what it measured."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlxterp
from mlxterp.edits.edits import DirectionEdit
from mlxterp.errors import InputError, UnknownFeatureError
from mlxterp.steering import add_feature, calibrate, output_score
from mlxterp.steering.calibrate import PROMPTS, _random, _sequences_of, next_strength
from mlxterp.steering.calibration import Calibration, Strength
from mlxterp.steering.trials import Trials, Written, divergence, log_softmax, next_tokens, repeated, shown

STORIES = ("One day, a little", "Tom and Lily")
QUICK: dict[str, Any] = {"prompts": STORIES, "max_tokens": 10, "verbose": False, "receipt": False}


@pytest.fixture(scope="module", params=["torch", "mlx"])
def demo(request):
    """The demo in each installed wing, with an index of some stories and the feature of "ball"."""
    if request.param not in mlxterp.available_backends():
        pytest.skip(f"{request.param} is not installed")
    model, sae, texts = mlxterp.load_demo(request.param)
    stories = [*[text for text in texts if " ball" in text][:10], *texts[:20]]
    index = model.build_index(sae, [story[:600] for story in stories], verbose=False)
    return model, sae, index, index.search("ball")[0].feature_id


# -- what is measured -----------------------------------------------------------------------------


def test_unsteered_texts_are_what_the_model_writes(demo):
    model, sae, index, feature = demo
    found = calibrate(model, sae, feature, [0.0, 1.0], index=index, seed=3, **QUICK)
    plain = [model.generate(p, 10, temperature=0.7, seed=3 + i) for i, p in enumerate(STORIES)]
    assert list(found.unsteered.texts) == plain
    nothing, one = found.strengths
    assert nothing.kl == 0.0 and nothing.written.texts == found.unsteered.texts
    assert np.array_equal(nothing.written.readout, found.unsteered.readout)
    steer = add_feature(sae, feature, 1.0, units="max", index=index)
    assert one.written.texts[0] == model.generate(STORIES[0], 10, temperature=0.7, seed=3, steer=steer)
    assert one.kl > 0
    assert found.random is not None and len(found.random.texts) == len(STORIES)
    assert found.prompting.texts != found.unsteered.texts


def test_what_is_written_is_measured_by_the_unsteered_model_after_the_prompt_alone(demo):
    model, sae, index, feature = demo
    edit = add_feature(sae, feature, 1.0, units="max", index=index)
    ball = tuple(model.tokenize(" ball")[-1:])
    trials = Trials(model.session, sae, feature, sae.component, STORIES, 12, 0.0, 0, frozenset({ball}))
    for edits, prefix in (([edit], ""), ([], "Ball.\n")):
        written = trials.run(edits, prefix)
        for i, prompt in enumerate(STORIES):
            with model.steer(*edits) if edits else model.without_controllers():
                stream = model.anatomy.model.stream(
                    model.tokenize(prefix + prompt), 12, temperature=0.0, seed=0
                )
                new = [int(token) for token, _ in stream if token is not None]
            ids = model.tokenize(prompt)
            whole, before = (model.loss(x) * (len(x) - 1) for x in ([*ids, *new], ids))
            assert written.loss[i] == pytest.approx((whole - before) / len(new), rel=1e-4)
            got = model.trace([*ids, *new], capture=[sae.component]).activations[sae.component]
            rows = model.language_model.backend.get(got)[0, len(ids) :]
            assert written.readout[i] == pytest.approx(sae.encode(rows)[:, feature].max(), abs=1e-4)
            assert written.concept[i] == np.mean([(token,) == ball for token in new])


def test_the_output_score_is_that_of_the_promoted_tokens(demo):
    model, sae, index, feature = demo
    assert output_score(model, sae, feature, add_feature(sae, feature, 0.0)) == 0.0
    edit = add_feature(sae, feature, 2.0, units="max", index=index)
    ids = list(model.feature_logits(sae, feature, 10).promoted_ids)

    def score(prompt: str) -> float:
        logits = model.language_model.backend.get(model(prompt))[0, -1].astype(np.float64)
        p = np.exp(logits - logits.max())
        p /= p.sum()
        best = max(p[i] for i in ids)
        return best * (1 - sum(p > best) / len(p))

    before = [score(prompt) for prompt in PROMPTS]
    with model.steer(edit):
        after = [score(prompt) for prompt in PROMPTS]
    assert output_score(model, sae, feature, edit) == pytest.approx(
        np.mean(after) - np.mean(before), abs=1e-5
    )


def test_divergence_is_that_of_next_tokens(demo):
    model = demo[0]
    [clean] = next_tokens(model.session, [], ["Tom ran home."])
    assert clean.shape[0] == len(model.tokenize("Tom ran home."))
    assert np.allclose(np.exp(clean).sum(axis=1), 1)
    assert divergence([clean], [clean]) == 0.0
    one, other = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    by_hand = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert divergence([one, one], [one, other]) == pytest.approx(by_hand / 2)
    assert np.allclose(log_softmax(np.array([1000.0, 1000.0])), np.log([0.5, 0.5]))


def test_words_are_whole_sequences_without_what_opens_a_text(demo):
    model = demo[0]
    sequences = _sequences_of(model.session, ("ball", "Tyrannosaurus"))
    opening = model.tokenize("")
    assert not any(token in sequence for token in opening for sequence in sequences)
    name = model.tokenize(" Tyrannosaurus")[len(opening) :]
    assert len(name) > 1 and tuple(name) in sequences and (name[-1],) not in sequences


@given(st.lists(st.integers(0, 2), max_size=8), st.lists(st.integers(0, 2), min_size=1, max_size=3))
def test_a_token_shows_a_concept_where_it_is_part_of_one_of_its_sequences(tokens, sequence):
    size = len(sequence)
    starts = [i for i in range(len(tokens)) if tokens[i : i + size] == sequence]
    expected = [any(i <= at < i + size for i in starts) for at in range(len(tokens))]
    assert shown(tokens, {tuple(sequence)}).tolist() == expected


def test_repetition_is_the_share_of_threes_that_were_there():
    assert repeated([1, 2]) == repeated([1, 2, 3, 4]) == 0.0
    assert repeated([1, 1, 1, 1, 1]) == pytest.approx(2 / 3)


# -- the verdict ----------------------------------------------------------------------------------


def wrote(readout: float, perplexity: float = 4.0, repetition: float = 0.0, text: str = "a") -> Written:
    return Written((text,), *(np.array([x]) for x in (readout, 0.0, math.log(perplexity), repetition)))


def made(*rows: tuple[float, float, float], **changes: Any) -> Calibration:
    """Of (strength, readout, perplexity); the feature's maximum is 1, unsteered perplexity 4."""
    found = Calibration(
        feature=7, units="max", method="add", component="layers.1.resid_post", maximum=1.0, concept=(" ball",),
        strengths=tuple(Strength(s, wrote(r, p), 0.1) for s, r, p in rows), unsteered=wrote(0.0),
        prompting=wrote(0.5), random=wrote(0.0), output_score=0.1, max_perplexity=2.0, max_repetition=0.3,
        min_effect=0.2,
    )  # fmt: skip
    return replace(found, **changes)


def test_the_range_goes_from_where_it_shows_to_where_the_text_falls_apart():
    found = made(
        (0.25, 0.0, 4), (0.5, 0.3, 4), (1, 0.1, 5), (1.5, 0.8, 6), (1.75, 0.85, 7), (2, 1.0, 20), (3, 1, 5)
    )
    assert found.range == (0.5, 1.75)
    assert found.best == 1.5  # 0.8 is nine tenths of 0.85, and costs less
    assert found.strongest_fluent == 1.75
    repeats = [*found.strengths[:3], replace(found.strengths[3], written=wrote(0.8, 4, 0.5))]
    assert replace(found, strengths=tuple(repeats)).range == (0.5, 0.5)


def test_negative_strengths_are_counted_from_zero():
    found = made((-2, 1.0, 50), (-1, 0.9, 5), (-0.5, 0.5, 4), (0, 0, 4), (1, 0.3, 5))
    assert found.range == (-1, -0.5) and found.best == -1


def test_without_a_range_it_says_why():
    silent, broken = made((1, 0.1, 4), (2, 0.1, 9)), made((1, 0.1, 4), (2, 0.9, 9))
    for found, reason in ((silent, "shows an effect; try larger"), (broken, "before the text falls apart")):
        assert found.range is None and found.best is None and reason in str(found)
        assert found.strongest_fluent == 1
    assert made((1, 0.9, 99)).strongest_fluent is None


@given(st.floats(0.05, 30), st.floats(0.01, 30))
def test_the_search_finds_the_strengths_between_which_the_text_falls_apart(limit, onset):
    tried: dict[float, tuple[float, float]] = {}
    while (
        strength := next_strength(made(*((s, *row) for s, row in sorted(tried.items()))), 1.0)
    ) is not None:
        assert strength not in tried and len(tried) < 8
        tried[strength] = (float(strength >= onset), 4.0 if strength <= limit else 40.0)
    fluent, broken = ([s for s in tried if (s <= limit) is side] for side in (True, False))
    assert max(fluent) <= limit < min(broken)
    assert min(broken) - max(fluent) <= 0.5 * min(broken)
    if len(tried) < 8:
        assert min(broken) - max(fluent) <= 0.2 * min(broken)
        assert min(tried) < max(onset, 1 / 16) or not any(s >= onset for s in tried)


def test_a_search_ends_where_nothing_has_an_effect_or_everything_falls_apart():
    for readout, perplexity, limit in ((0.0, 4.0, 32.0), (0.0, 99.0, 1 / 32)):
        tried = [1.0]
        while len(tried) < 20:
            strength = next_strength(made(*((s, readout, perplexity) for s in sorted(tried))), 1.0)
            if strength is None:
                break
            tried.append(strength)
        assert tried[-1] == limit and len(tried) == 6


def test_the_random_direction_is_as_long_as_what_is_added(demo):
    _, sae, _, feature = demo
    length = float(np.linalg.norm(sae.W_dec[feature].astype(np.float64)))
    for units, expected in (("max", 1.5 * 2.0 * length), ("raw", 1.5 * length)):
        edit = _random(sae, feature, units, 1.5, 2.0, made(), 0)
        assert isinstance(edit, DirectionEdit)
        assert np.linalg.norm(edit.vector) * edit.number == pytest.approx(expected, rel=1e-5)
    norm = _random(sae, feature, "norm", 0.3, None, made(), 0)
    assert isinstance(norm, DirectionEdit) and norm.kind == "add_norm" and norm.number == 0.3


# -- how it is shown ------------------------------------------------------------------------------


def test_the_table_has_a_row_for_each_strength_and_baseline():
    found = made((1, 0.5, 5), (2, 0.9, 50))
    assert [row["what"] for row in found.table] == [
        "unsteered", "steered", "steered", "random direction", "prompt",
    ]  # fmt: skip
    assert [row["strength"] for row in found.table] == [None, 1, 2, 1, None]
    steered = found.table[1]
    assert steered["readout"] == 0.5 and steered["shows"] and steered["fluent"]
    assert steered["perplexity"] == pytest.approx(5)
    assert len(str(found).splitlines()) == 5 + len(found.table) and "works from 1 to 1, best 1" in repr(found)


def test_a_notebook_and_a_terminal_show_texts_as_texts():
    found = made((1, 0.5, 5), unsteered=wrote(0.0, text="<script>\x1b[2J\nx"), concept=("<b>",))
    html = found._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html
    assert "\x1b" not in str(found) and len(str(found).splitlines()) == 5 + len(found.table)


def test_a_plot_is_written(tmp_path):
    pytest.importorskip("matplotlib")
    figure = made((1, 0.5, 5), (2, 0.9, 50)).plot(tmp_path / "strengths.png")
    assert (tmp_path / "strengths.png").stat().st_size > 1000 and len(figure.axes) == 2
    made((1, 0.0, 5)).plot(tmp_path / "none.svg")
    assert "<svg" in (tmp_path / "none.svg").read_text()


# -- on the demo ----------------------------------------------------------------------------------


def test_a_feature_of_the_demo_is_calibrated(demo):
    model, sae, index, feature = demo
    found = calibrate(
        model, sae, feature, index=index, prompts=PROMPTS[:3], max_tokens=12, verbose=False, receipt=False
    )
    assert found.units == "max" and found.maximum == pytest.approx(index.stats(feature).maximum)
    assert " ball" in found.concept and 2 <= len(found.strengths) <= 8
    assert [row.strength for row in found.strengths] == sorted(row.strength for row in found.strengths)
    assert any(not found.fluent(row.written) for row in found.strengths)
    strongest = found.strengths[-1].written
    assert strongest.readout.mean() > found.unsteered.readout.mean()
    assert strongest.concept.mean() > found.unsteered.concept.mean()


def test_clamping_and_units_of_length_are_calibrated_too(demo):
    model, sae, index, feature = demo
    clamped = calibrate(model, sae, feature, [1.0], index=index, method="clamp", concept="ball", **QUICK)
    assert clamped.method == "clamp" and clamped.concept == ("ball",)
    free = calibrate(model, sae, feature, [0.3], asking="About {words}: ", **QUICK)
    assert free.units == "norm" and free.maximum is None and len(free.concept) == 10
    assert free.scale == pytest.approx(free.strengths[0].written.readout.mean() or 1.0)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"strengths": []}, "empty"), ({"strengths": "12"}, "list of numbers"), ({"strengths": 3}, "list of numbers"),
    ({"strengths": [math.nan]}, "finite"), ({"units": "raw"}, "needs strengths"), ({"units": "sigma"}, "units"),
    ({"units": "max"}, "not known"), ({"method": "scale"}, "method"),
    ({"method": "clamp", "units": "norm", "strengths": [1]}, "clamp"), ({"prompts": []}, "prompts="),
    ({"prompts": 5}, "prompts="), ({"prompts": ["a", ""]}, "prompts="), ({"neutral": [3]}, "neutral="),
    ({"concept": []}, "concept="), ({"concept": 5}, "concept="), ({"asking": "words"}, "asking="),
    ({"max_tokens": 0}, "max_tokens"), ({"temperature": -1}, "temperature"), ({"max_perplexity": None}, "limit"),
    ({"index": "stories"}, "index= is a str"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_input_is_refused(demo, changes, message):
    model, sae, _, feature = demo
    with pytest.raises(InputError, match=message):
        calibrate(model, sae, feature, **{**QUICK, **changes})


def test_a_wrong_model_or_feature_is_refused(demo):
    model, sae, _, feature = demo
    with pytest.raises(InputError, match="InterpretableModel"):
        calibrate(cast(Any, object()), sae, feature)
    with pytest.raises(UnknownFeatureError):
        calibrate(model, sae, sae.d_hidden)
    with pytest.raises(InputError, match="needs a tokenizer"):
        calibrate(mlxterp.InterpretableModel(model.language_model.model), sae, feature)


def test_the_plot_shows_the_random_direction_and_the_limit_and_its_legend_hides_nothing():
    pytest.importorskip("matplotlib")
    found = made((1, 0.1, 3), (2, 0.5, 5), (4, 0.8, 9), (8, 0.9, 50))
    figure = found.plot()
    names = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"readout, random direction", "perplexity, random direction", "limit of perplexity"} <= names
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert not any(box.overlaps(axes.bbox) for axes in figure.axes)
    ticks = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert all("^" not in tick for tick in ticks) and "5" in ticks
