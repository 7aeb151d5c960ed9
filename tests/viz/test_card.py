"""The card of one feature, and pages of several."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from mlxterp import FeatureReport, InputError, TokenView
from mlxterp.viz import Section, cards_page, page
from mlxterp.viz.histogram import histogram_line, histogram_svg
from mlxterp.viz.page import write_page
from tests.viz.reading import HOSTILE, Example, Logits, Reader, Stats, assert_offline, card


def test_a_card_shows_all_that_it_holds():
    read = assert_offline(card()._repr_html_())
    for said in ("Feature 5", "cats", "tiny SAE", "layers.1.mlp", "0.3 %", "3 of 1,000 tokens", "+3.500", "-2.500",
                 "Strongest", "dogs", "0.750", "25 %", "stories"):  # fmt: skip
        assert said in read.everything, said
    assert read.of_class("mxt-snip") == ["… cat sat on …"] * 2
    assert read.of_tag("caption") == ["Promotes", "Suppresses", "Similar directions", "Active together with"]
    cells = read.of_tag("td")
    assert {"9 dogs  dog", "11  cow  hen", "12 birds"} < set(cells)
    assert [title for title in read.of_tag("title") if title[0].isalpha()] == [
        "Activations where active", "Logits of the vocabulary"
    ]  # fmt: skip


def test_a_card_shows_the_same_in_the_terminal():
    shown = str(card())
    for said in ("Feature 5 · cats", "0.3 % of tokens (3 of 1,000)", "“ mat” +3.50", "“ dog” -2.50", "“↵” ×1",
                 "… cat [sat=4] [on] …", "9 (0.75, dogs)  11 (0.50, “ cow”)", "9 (25 %, dogs)  12 (12.5 %, birds)",
                 "logits     -2.5 ▂█▃ 3.5", "data stories"):  # fmt: skip
        assert said in shown, said
    assert "\x1b[1mFeature 5\x1b[0m" in card().to_str(color=True)
    assert repr(card()) == "FeatureCard(Feature 5: cats: active on 0.3 % of 1,000 tokens)"


def test_parts_that_are_not_known_are_left_out():
    nothing = Stats(0, 1000, 0.0, 0.0, 0.0, (np.zeros(3, int), np.ones(4)), ())
    bare = card(
        label=None, stats=nothing, examples=[], logits=None, similar=(), coactive=(), facts={}, sae_name=""
    )
    read = assert_offline(bare._repr_html_())
    assert "Never active in 1,000 tokens" in read.everything
    assert not {"table", "svg", "ol", "footer"} & {tag for tag, _ in read.elements}
    assert str(bare).splitlines() == ["Feature 5", "layers.1.mlp", "never active in 1,000 tokens"]


def test_colours_are_by_the_features_maximum_not_the_windows():
    html = card(stats=Stats(maximum=8.0)).fragment()
    assert "class=mxt-p4" in html and "class=mxt-p8" not in html


def test_a_window_at_a_texts_ends_is_not_cut():
    whole = Example("the cat sat", 0, 2, 4.0, ("the", " cat", " sat"), np.array([0, 0, 4.0]), 0)
    read = Reader(card(examples=[("All", [whole])]).fragment())
    assert read.of_class("mxt-snip") == ["the cat sat"]


def test_hostile_text_anywhere_on_a_card_stays_text(tmp_path):
    example = Example(HOSTILE, 0, 1, 1.0, (HOSTILE, HOSTILE), np.array([0, 1.0]), 0)
    hostile = card(
        label=HOSTILE, stats=Stats(top_tokens=((HOSTILE, 1),)), examples={HOSTILE: [example]},
        logits=Logits(((HOSTILE, 1.0),), ((HOSTILE, -1.0),)), similar=[(1, 0.5, HOSTILE)], sae_name=HOSTILE,
        component=HOSTILE, facts={HOSTILE: HOSTILE},
    )  # fmt: skip
    read = assert_offline(hostile.to_html(tmp_path / "card.html").read_text(encoding="utf-8"))
    assert read.everything.count("alert(1)") == 13
    assert "\x1b" not in str(hostile) and "\x00" not in str(hostile)


def test_a_card_of_usual_size_is_at_most_60_kb():
    tokens = tuple(f" word{i}" for i in range(32))
    values = np.zeros(32, np.float32)
    values[10:16] = np.linspace(0.1, 4, 6)
    examples = [Example(" ".join(tokens), i, 15, 4.0, tokens, values, 0) for i in range(40)]
    stats = Stats(histogram=(np.arange(64), np.geomspace(0.01, 100, 65)), top_tokens=((" word", 9),) * 20)
    assert len(card(stats=stats, examples={"All": examples})._repr_html_().encode()) <= 60_000


def test_a_histogram_has_a_bar_for_each_bin_in_use():
    counts, edges = np.array([0, 1, 0, 4, 0]), np.array([0.1, 0.2, 0.4, 0.8, 1.6, 3.2])
    read = Reader(histogram_svg(counts, edges))
    assert read.of_tag("title") == ["Activations", "0.2 to 0.4: 1", "0.8 to 1.6: 4"]
    assert read.of_tag("desc") == ["5 values from 0.2 to 1.6; the most, 4, lie between 0.8 and 1.6."]
    assert histogram_line(counts, edges) == "0.2 ▂ █ 1.6"
    assert histogram_svg(np.zeros(5, int), edges) == histogram_line(np.zeros(5, int), edges) == ""


def test_a_histogram_names_both_axes_and_its_ticks():
    read = Reader(
        histogram_svg(np.array([2, 0, 30]), np.array([-0.9, -0.3, 0.3, 0.9]), "What", "logit", "tokens")
    )
    assert read.of_tag("text") == ["0", "15", "30", "tokens", "-0.5", "0", "0.5", "logit"]
    lines = [float(at["x1"] or 0) for tag, at in read.elements if tag == "line" and at["x1"] == at["x2"]]
    assert lines == [
        44.0,
        98.7,
        167.0,
        235.3,
    ]  # the axis of counts, then a tick for each value, in proportion


def test_counts_of_an_axis_are_whole_numbers():
    for counts, named in (
        ([1], ["0", "1"]),
        ([3], ["0", "3"]),
        ([4], ["0", "2", "4"]),
        ([2501], ["0", "1,250", "2,501"]),
    ):
        read = Reader(histogram_svg(np.array(counts), np.array([1.0, 2.0]), up="tokens"))
        assert read.of_tag("text")[: len(named)] == named


def test_many_bins_are_joined_and_none_is_lost():
    counts = np.arange(1, 101)
    read = Reader(histogram_svg(counts, np.geomspace(0.1, 10, 101)))
    bars = read.of_tag("title")[1:]
    assert len(bars) == 34 and sum(int(bar.rpartition(" ")[2]) for bar in bars) == counts.sum()


# -- pages ------------------------------------------------------------------------------------


def test_cards_of_one_page_link_to_each_other():
    html = cards_page(
        [card(5), card(9, "dogs"), card(9, "other", sae_name="another SAE")], "All", "Said first."
    )
    read = assert_offline(html)
    ids = [attributes["id"] for _, attributes in read.elements if attributes.get("id")]
    targets = [attributes["href"] for tag, attributes in read.elements if tag == "a"]
    assert len(ids) == len(set(ids)) == 3
    assert targets == [f"#mxt-{i}" for i in (0, 1, 2, 1, 1, 1, 1, 2, 2)]  # the contents, then 9 in each card
    assert "Said first." in read.everything and read.of_tag("h1") == ["All"]


def test_a_report_holds_sections_views_and_cards_under_headings_in_order(tmp_path):
    view = TokenView(("a", " b"), (3, 4), np.array([[0, 1.0], [2, 0]], np.float32))
    report = FeatureReport("Report", [Section("One", "with text"), view, Section("Two"), card()], "Intro")
    read = assert_offline(report.to_html(tmp_path / "report.html").read_text(encoding="utf-8"))
    levels = [int(tag[1]) for tag, _ in read.elements if tag in ("h1", "h2", "h3", "h4", "h5")]
    assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert read.of_tag("h2") == ["One", "Two"]
    assert assert_offline(report._repr_html_()).of_tag("h2") == ["One", "Two"]
    assert repr(report) == "FeatureReport('Report', 4 parts)"


def test_a_page_allows_nothing_to_be_fetched_or_run():
    read = assert_offline(page(HOSTILE, "<p>body</p>"))
    (policy,) = [a["content"] for _, a in read.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert "alert(1)" in read.of_tag("title")[0]


def test_every_rule_of_the_style_sheet_lies_under_the_root():
    css = Reader(card()._repr_html_()).style
    assert css.count("{") == css.count("}") and len(css) < 10_000
    selectors = [s.strip() for rule in css.replace("@media (prefers-color-scheme:dark){", "").split("}")
                 for s in rule.split("{")[0].split(",") if s.strip()]  # fmt: skip
    assert all(".mlxterp-view" in s or ".mlxterp-page" in s for s in selectors)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.html"
    assert write_page(str(path), "first") == path

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_page(path, "second")
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"] and path.read_text() == "first"


def test_a_path_that_cannot_be_a_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="it is a folder"):
        card().to_html(tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        card().to_html(Path(tmp_path) / "none" / "a.html")
