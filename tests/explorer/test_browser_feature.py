"""A feature's page, and several SAEs side by side, in a real browser: what they say is what the index says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.explorer.conftest import BALL, Page, Shown
from tests.explorer.in_page import rows_of

pytestmark = pytest.mark.browser


def column(page: Any, part: str, n: int) -> list[str]:
    """The cells of a table's column, numbered from 1."""
    return page.locator(f"{part} tbody td:nth-child({n})").all_inner_texts()


def test_the_page_of_a_feature_says_what_the_index_says(opened: Page, shown: Shown):
    index, page = shown.index, opened.open(shown.at(f"feature/{BALL}"))
    stats = index.stats(BALL)
    figures = dict(
        zip(
            page.locator(".stats dt").all_inner_texts(),
            page.locator(".stats dd").all_inner_texts(),
            strict=True,
        )
    )
    assert figures["active on"] == f"{stats.count} of {index.n_tokens:,} tokens"
    assert figures["texts"] == str(stats.n_texts)
    assert float(figures["max"]) == pytest.approx(stats.maximum, rel=6e-3)
    told = [float(one) for one in page.locator("ol.ex.top .num").all_inner_texts()]
    examples = index.examples(BALL, len(told))
    np.testing.assert_allclose(told, [one.activation for one in examples], rtol=6e-3)
    peaks = page.locator("ol.ex.top mark.peak").all_inner_texts()
    assert [peak.strip() for peak in peaks] == [
        one.tokens[one.position - one.start].strip() for one in examples
    ]
    similar = page.locator("[aria-label='Similar directions'] .feature .id").all_inner_texts()
    assert [int(one) for one in similar] == [f for f, _ in index.similar(BALL, len(similar))]
    together = page.locator("[aria-label='Active together'] .feature .id").all_inner_texts()
    assert [int(one) for one in together] == [f for f, _ in index.coactivation(BALL, top_k=len(together))]
    page.wait_for_selector("[aria-label=Writes] svg.hist")
    promoted = page.locator("[aria-label=Writes] table").first.locator("code").all_inner_texts()
    logits = index.feature(BALL).logits
    assert [one.strip() for one in promoted] == [
        token.strip() for token, _ in logits.promoted[: len(promoted)]
    ]


def test_no_window_stands_twice_on_the_page_of_a_feature(opened: Page, shown: Shown):
    page = opened.open(shown.at(f"feature/{BALL}"))
    windows = page.locator("ol.ex:not(.hard) .window").all_inner_texts()
    assert len(windows) > 3
    assert len(set(windows)) == len(windows)


def test_a_whole_text_opens_in_its_place(opened: Page, shown: Shown):
    page = opened.open(shown.at(f"feature/{BALL}"))
    first = page.locator("ol.ex.top li").first
    first.locator("button.whole").click()
    page.wait_for_selector("ol.ex.top .text.all")
    whole = first.locator(".text.all").text_content()
    assert whole.removeprefix("⟨bos⟩") == shown.index.examples(BALL, 1)[0].text
    first.locator("button.whole").click()
    page.wait_for_selector("ol.ex.top .text.all", state="detached")


def test_pointing_at_a_token_marks_its_activation_in_the_histogram(opened: Page, shown: Shown):
    page = opened.open(shown.at(f"feature/{BALL}"))
    assert page.get_attribute(".hist .mark", "visibility") == "hidden"
    page.locator("ol.ex.top mark.peak").first.hover()
    assert page.locator(".hist .mark").first.get_attribute("visibility") == "visible"


def test_two_saes_are_searched_and_read_side_by_side(opened: Page, shown: Shown):
    page = opened.open(shown.at("list?src=all&sort=-max"))
    for pane, index in zip(page.locator(".pane").all(), (shown.index, shown.other), strict=True):
        found = pane.locator(".row").evaluate_all("rows => rows.map(r => +r.dataset.id)")
        best = np.argsort(-np.asarray(index.summary.maximum), kind="stable")
        assert found[:5] == best[:5].tolist()
    text = "Tom had a red ball."
    opened.open(shown.at(f"text?src=all&by=act&t={text.replace(' ', '+')}"))
    demo = shown.demo
    for pane, sae in zip(page.locator(".pane").all(), shown.saes, strict=True):
        ids = pane.locator("tr[data-f]").evaluate_all("rows => rows.map(r => +r.dataset.f)")
        hits = demo.model.get_top_features_for_text(text, sae, *demo.place, top_k=len(ids))
        assert ids == [hit[0] for hit in hits]


def test_a_feature_that_is_not_there_is_told(opened: Page, shown: Shown):
    for wrong in ("99999999", "-1", "1e3", "%3Cscript%3E", ""):
        page = opened.open(shown.at(f"feature/{wrong}"))
        assert "There is no feature" in page.inner_text("[role=alert]:visible")
    page.click("a:text('All features')")
    page.wait_for_selector(".row")
    assert rows_of(page)
