"""The explorer's pages in a real browser: what a user does, from a folder of files and on the server."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxterp import FeatureReport
from tests.explorer.conftest import BALL, Page, Shown
from tests.explorer.in_page import faint, focused, outlined, rows_of, whole_list, width

pytestmark = pytest.mark.browser

PHONE = {"viewport": {"width": 390, "height": 780}}
PAGES = (
    "list", "list?q=ball", f"feature/{BALL}", "text", f"text?t=a+red+ball&pos=3&f={BALL}",
    f"steer?e=0:{BALL}:add:1", f"compare/0:{BALL}/0:571",
    "map", "names",
)  # fmt: skip
HOSTILE = (
    '<script>alert(1)</script></script>"><img src=x onerror=alert(2)>\u202e\u0000\ud800{{TOKEN}}${1}'
    + "w" * 10_000
)


def browses(tab: Page, start: str) -> None:
    """List, search, sort, feature, next, previous, back: the same steps from files and from the server."""
    page = tab.open(start + "#/list")
    assert page.locator(".row").count() <= 60
    page.click("button[data-key=max]")
    tab.ready("/list?sort=-max")
    page.keyboard.press("/")
    page.keyboard.type("ball")
    page.keyboard.press("Enter")
    tab.ready("/list?q=ball")
    ids = rows_of(page)
    assert len(ids) > 1
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    tab.ready(f"/feature/{ids[0]}?q=ball")
    assert page.locator("ol.ex.top li").count() > 0
    assert page.locator("mark.peak").count() > 0
    page.keyboard.press("j")
    tab.ready(f"/feature/{ids[1]}?q=ball")
    page.keyboard.press("k")
    tab.ready(f"/feature/{ids[0]}?q=ball")
    page.keyboard.press("u")
    tab.ready("/list?q=ball")
    assert page.locator(".row.on").get_attribute("data-id") == str(ids[0])
    page.wait_for_selector(".peek mark")


# -- 1, 2 -------------------------------------------------------------------------------------------


def test_a_folder_of_files_is_browsed_without_a_server(browser, site: Path):
    context = browser.new_context(offline=True)
    tab = Page(context.new_page(), site.parent.as_uri())
    browses(tab, site.as_uri())
    page = tab.open(site.as_uri() + "#/text")
    assert "mlxterp serve" in page.inner_text("main")
    tab.open(f"{site.as_uri()}#/compare/0:{BALL}/1:3")
    assert page.locator(".facing section").count() == 2 and "of a folder" not in page.inner_text("main")
    tab.open(site.as_uri() + "#/list?src=1")
    assert page.locator(".row").count() > 0
    context.close()
    assert (tab.said, tab.foreign) == ([], [])


def test_the_server_is_browsed_by_the_same_steps(opened: Page, shown: Shown):
    browses(opened, shown.url)


# -- 3 ----------------------------------------------------------------------------------------------


def columns_of(shown: Shown) -> dict[str, np.ndarray]:
    """What the columns are, counted in NumPy."""
    index, summary = shown.index, shown.index.summary
    stats = [index.stats(f) for f in range(index.d_hidden)]
    count = np.asarray(summary.count)
    first = np.array([s.top_tokens[0][1] if s.top_tokens else 0 for s in stats])
    return {
        "id": np.arange(index.d_hidden), "density": count, "max": np.asarray(summary.maximum),
        "mean": (summary.total / np.maximum(count, 1)).astype(np.float32),
        "texts": np.array([s.n_texts for s in stats]),
        "focus": np.asarray(100 * (first / np.maximum(count, 1)), np.float32),
    }  # fmt: skip


def test_the_list_is_in_numpys_order_by_every_column_with_ties(opened: Page, shown: Shown):
    page = opened.open(shown.at("list"))
    columns = columns_of(shown)
    for key, values in columns.items():
        up = np.argsort(values, kind="stable").tolist()
        down = np.argsort(-values.astype(np.float64), kind="stable").tolist()
        assert whole_list(page, f"sort={key}") == up, key
        assert whole_list(page, f"sort=-{key}") == down, key
    opened.open(shown.at("list?sort=-texts"))
    assert rows_of(page)[:8] == whole_list(page, "sort=-texts")[:8]
    assert len(np.unique(columns["texts"])) < shown.index.d_hidden  # there are ties


def test_a_column_is_filtered_by_what_is_written_above_it(opened: Page, shown: Shown):
    page = opened.open(shown.at("list"))
    values = columns_of(shown)["max"]
    for text, kept in {">9": values > 9, "9": values >= 9, "2-3.5": (values >= 2) & (values <= 3.5)}.items():
        page.fill("[data-filter=max]", text)
        page.keyboard.press("Enter")
        opened.ready(f"/list?max={text}")
        assert sorted(whole_list(page, f"max={text}")) == np.flatnonzero(kept).tolist()
        assert page.inner_text(".count").startswith(f"{int(kept.sum()):,} of ")
    page.fill("[data-filter=max]", "many")
    page.keyboard.press("Enter")
    assert page.get_attribute("[data-filter=max]", "aria-invalid") == "true"


# -- 4 ----------------------------------------------------------------------------------------------


def test_search_finds_tokens_and_names_and_names_outlive_the_server(opened: Page, shown: Shown):
    page = opened.open(shown.at("list?q=dog"))
    found = whole_list(page, "q=dog")
    top = {f: [token.strip().lower() for token, _ in shown.index.stats(f).top_tokens[:5]] for f in found}
    assert found
    assert all(any(token.startswith("dog") for token in tokens) for tokens in top.values())
    opened.open(shown.at("feature/7"))
    page.keyboard.press("e")
    page.keyboard.type("zebra crossing")
    page.keyboard.press("Enter")
    page.wait_for_selector(".saved:text('saved')")
    opened.open(shown.at("list?q=zebra"))
    assert rows_of(page) == [7]
    assert page.inner_text(".row .name-of") == "zebra crossing"
    with shown.index.serve(open=False) as again:
        context = page.context.browser.new_context()
        fresh = Page(context.new_page(), again.url.partition("?")[0])
        fresh.open(again.url + "#/names")
        assert fresh.page.locator("ul.names li[data-id='7'] .name").input_value() == "zebra crossing"
        fresh.page.click("ul.names li[data-id='7'] .remove")
        fresh.page.wait_for_selector("li[data-id='7']", state="detached")
        context.close()


# -- 5 ----------------------------------------------------------------------------------------------


def test_the_text_page_shows_the_features_of_get_top_features_for_text(opened: Page, shown: Shown):
    text = "Tom had a red ball and a dog."
    page = opened.open(shown.at("text?by=act&t=" + text.replace(" ", "+")))
    ids = page.locator("table.listing tbody tr").evaluate_all("rows => rows.map(r => +r.dataset.f)")
    demo = shown.demo
    expected = demo.model.get_top_features_for_text(text, demo.sae, *demo.place, top_k=len(ids))
    assert ids == [hit[0] for hit in expected]
    told = page.locator("table.listing tbody .pin").all_inner_texts()
    np.testing.assert_allclose([float(one) for one in told], [hit[1] for hit in expected], rtol=6e-3)
    page.locator(".tok", has_text="ball").first.click()
    page.wait_for_selector("caption:text('Features on “ball”')")
    page.keyboard.press("h")
    page.wait_for_selector("table.heat td.p8")
    assert "view=heat" in page.url and "pos=" in page.url


# -- 8 ----------------------------------------------------------------------------------------------


def test_hostile_texts_and_names_stay_text(opened: Page, shown: Shown):
    def fulfil(route: Any) -> None:
        answer = route.fetch().json()
        if "labels" in answer:
            answer["labels"] = {str(BALL): {"name": HOSTILE, "note": HOSTILE, "etag": "x"}}
            answer["explanations"] = {"3": {"text": HOSTILE, "source": HOSTILE, "score": None}}
        else:
            answer["explanations"] = [{"text": HOSTILE, "source": HOSTILE, "confidence": None, "scores": {}}]
            answer["flags"], answer["note"] = [HOSTILE], HOSTILE
            for part in ("tokens", "before", "after"):
                answer[part] = [[HOSTILE, 3]]
            for ex in answer["top"]:
                ex["tokens"][0] = HOSTILE
        route.fulfill(status=200, content_type="application/json", body=json.dumps(answer))

    page = opened.page
    page.route(re.compile(rf"/api/0/(labels|feature/{BALL})"), fulfil)
    for place in (
        f"feature/{BALL}",
        "list?has=name",
        "list?has=explanation",
        "names",
        f"compare/0:{BALL}/0:5",
    ):
        opened.open(shown.at(place))
        assert page.evaluate("document.querySelectorAll('main script, main img, main iframe').length") == 0
        assert width(page) <= 1280, place
        assert page.evaluate("document.scripts.length") == 1
    opened.open(shown.at(f"feature/{BALL}"))
    assert "alert(1)" in page.inner_text("main")


# -- 9, 11 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "opened", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True, ids=["light", "dark"]
)
def test_every_text_contrasts_with_what_is_behind_it(opened: Page, shown: Shown):
    page = opened.page
    for place in PAGES:
        opened.open(shown.at(place))
        assert faint(page) == [], place
    page.keyboard.press("?")
    assert faint(page) == []
    page.keyboard.press("Escape")
    page.click("#theme")
    assert faint(page) == []


@pytest.mark.parametrize("opened", [PHONE], indirect=True)
def test_no_page_is_wider_than_a_phone(opened: Page, shown: Shown):
    page = opened.page
    for place in (*PAGES, "list?src=all", "text?view=heat", "text?src=all", f"compare/0:{BALL}/1:5"):
        opened.open(shown.at(place))
        assert width(page) <= 390, place
    opened.open(shown.at("list"))
    page.click("text=Filter")
    assert page.locator("[data-filter=max]").is_visible()


# -- 10 ---------------------------------------------------------------------------------------------


def test_everything_is_reached_by_keyboard(opened: Page, shown: Shown):
    page, key = opened.open(shown.at("list")), opened.page.keyboard
    for _ in range(3):
        key.press("j")
    assert outlined(page)
    key.press("Enter")
    page.wait_for_selector(".page-feature footer")
    key.press("s")
    page.wait_for_selector(".edits input[type=range]")
    page.focus(".edits input[type=range]")
    assert outlined(page)
    key.press("ArrowRight")
    page.wait_for_selector(".edits output:text('1.1')")
    kept = page.evaluate("location.hash")[2:]
    assert ":add:1.1" in kept
    for press, place in {
        "t": "text",
        "c": "compare",
        "m": "map",
        "n": "names",
        "s": kept,  # a page that was left is found again as it was
        "f": "list",
    }.items():
        page.evaluate("document.activeElement.blur()")
        key.press("g")
        key.press(press)
        opened.ready(f"/{place}")
    key.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    key.press("Escape")
    key.press("?")
    page.wait_for_selector("dialog[open]")
    key.press("Escape")
    page.evaluate("document.activeElement.blur()")
    seen = set()
    for _ in range(40):
        key.press("Tab")
        seen.add(focused(page))
        assert outlined(page) or page.evaluate("document.activeElement === document.body")
    assert {"skip", "brand", "q", "theme", "help"} <= seen


# -- 12 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opened", [{"java_script_enabled": False}], indirect=True)
def test_a_report_is_read_without_javascript(opened: Page, shown: Shown, tmp_path):
    report = FeatureReport("Some features", [shown.index.feature(BALL)]).to_html(tmp_path / "report.html")
    opened.page.goto(report.as_uri())
    assert f"Feature {BALL}" in opened.page.inner_text("main")
    opened.foreign.clear()  # the report itself


# -- what a new user stumbled over ------------------------------------------------------------------


def test_words_that_no_feature_fits_find_what_comes_near_or_say_what_to_do(opened: Page, shown: Shown):
    page = opened.open(shown.at("list?q=ball"))
    best = rows_of(page)[0]
    opened.open(shown.at("list?q=balls"))
    assert best in rows_of(page)
    assert "come near" in page.inner_text(".count")
    opened.open(shown.at("list?q=ball+qqzz"))
    assert best in rows_of(page)
    opened.open(shown.at("list?q=qqzz"))
    assert rows_of(page) == []
    assert "names and explanations" in page.inner_text(".rows")
    page.get_by_role("link", name="Features of it as a text").click()
    opened.ready("/text?t=qqzz")
    assert page.get_by_label("Your text").input_value() == "qqzz"


def test_what_more_is_found_stands_below_and_moves_no_row(opened: Page, shown: Shown):
    page = opened.open(shown.at("list"))
    words = ("ball", "dog", "park", "red", "big", "the")
    more = {
        word: {f for f, *_ in shown.index.search(word, 12)} - set(whole_list(page, f"q={word}"))
        for word in words
    }
    opened.open(shown.at(f"list?q={next(word for word in words if more[word])}"))
    page.wait_for_selector(".also")
    assert page.locator(".also").bounding_box()["y"] > page.locator(".row").first.bounding_box()["y"]


def test_a_refusal_is_told_on_the_page_and_not_in_the_console(opened: Page, shown: Shown):
    page = opened.open(shown.at(f"steer?e=0:{BALL}:add:1"))
    page.get_by_role("textbox", name="Prompt").fill("The dog ran. " * 200)
    page.get_by_role("button", name="Generate").click()
    page.wait_for_selector(".error:text('positions')")
    opened.open(shown.at("text"))
    page.get_by_label("Your text").fill("The dog ran. " * 200)
    page.wait_for_selector(".error:text('positions')")
    opened.open(shown.at("feature/1?src=7"))
    assert "There is no SAE 7 here" in page.inner_text("main")


def test_the_field_that_takes_the_focus_is_not_under_the_header(opened: Page, shown: Shown):
    page = opened.open(shown.at(f"feature/{BALL}"))
    page.evaluate("window.scrollTo(0, 1000)")
    page.keyboard.press("e")
    header, field = page.locator("header").bounding_box(), page.locator("h1 .name").bounding_box()
    assert field["y"] >= header["y"] + header["height"]


def test_a_number_in_the_search_leaves_the_keys_to_the_feature(opened: Page, shown: Shown):
    page = opened.open(shown.at("list"))
    page.get_by_role("searchbox").fill(str(BALL))
    page.keyboard.press("Enter")
    opened.ready(f"/feature/{BALL}")
    page.keyboard.press("s")
    opened.ready(f"/steer?e=0:{BALL}")


def test_another_search_begins_at_its_top(opened: Page, shown: Shown):
    page = opened.open(shown.at("list"))
    last = whole_list(page, "q=the")[-1]
    opened.open(shown.at(f"feature/{last}"))
    page.get_by_role("searchbox").fill("the")
    page.keyboard.press("Enter")
    opened.ready("/list?q=the")
    assert page.evaluate("document.querySelector('.rows').scrollTop") == 0


def test_steer_offers_what_was_looked_at(opened: Page, shown: Shown):
    page = opened.open(shown.at(f"feature/{BALL}"))
    page.get_by_role("link", name="Steer", exact=True).click()
    assert "No feature is steered yet" in page.inner_text(".steer")
    page.get_by_role("button", name=f"+ {BALL}").click()
    page.wait_for_selector(f"[data-edit='0:{BALL}']")


def test_a_feature_without_an_explanation_says_what_it_fires_on(opened: Page, shown: Shown):
    told = [{"text": HOSTILE, "source": "token list of 5", "confidence": None, "scores": {}}]
    body = json.dumps(told)
    opened.page.route(
        re.compile("/explain/5$"), lambda route: route.fulfill(content_type="application/json", body=body)
    )
    page = opened.open(shown.at("feature/5"))
    said = page.locator("[aria-label=Explanations] li")
    said.wait_for()
    assert "alert(1)" in said.inner_text() and "token list of 5, not scored" in said.inner_text()
    opened.open(shown.at(f"feature/{BALL}"))
    page.wait_for_selector("text=active in too few texts")


# -- 13, 14 -----------------------------------------------------------------------------------------


def test_a_server_that_is_gone_is_told(browser, shown: Shown):
    context = browser.new_context()
    server = shown.index.serve(open=False)
    tab = Page(context.new_page(), server.url.partition("?")[0])
    page = tab.open(server.url + "#/list")
    server.stop()
    tab.open(server.url + "#/feature/11")
    assert "Is `mlxterp serve` still running?" in page.inner_text("#gone")
    assert page.inner_text("main h1") == "The server is gone"
    tab.open(server.url + "#/list")
    assert rows_of(page)
    context.close()


def test_back_restores_the_filter_and_how_far_the_list_was_scrolled(opened: Page, shown: Shown):
    page = opened.open(shown.at("list?density=>0.05&sort=-max"))
    before = rows_of(page)
    page.evaluate("document.querySelector('.rows').scrollTop = 3000")
    page.wait_for_selector(".row[aria-posinset='60']")
    page.locator(".row[aria-posinset='60']").click()
    page.wait_for_selector(".page-feature footer")
    page.go_back()
    page.wait_for_selector(".row[aria-posinset='60']")
    assert page.evaluate("document.querySelector('.rows').scrollTop") == 3000
    assert "density=%3E0.05" in page.url
    assert page.input_value("[data-filter=density]") == ">0.05"
    assert rows_of(page) != before
