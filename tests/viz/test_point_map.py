"""Rows D7, D8: the page of a map, read as a file and opened in a browser that has no network, with a hand on it."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlxterp.geometry import decoder_map
from mlxterp.viz.point_map import Colouring, Points, point_map_page
from tests.geometry.families import NARROW, WIDE, family
from tests.viz.chromium import Chromium
from tests.viz.reading import HOSTILE
from tests.viz.test_browser import BROWSER, FLAGS

CANVAS = (
    "(r => [r.left, r.top, r.width, r.height])(document.querySelector('.mxm-canvas').getBoundingClientRect())"
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium (apt-get install chromium)")


def points(n: int = 400, labels: tuple[str, ...] | None = None) -> Points:
    """A square of points, two widths, three groups and a score."""
    draw = np.random.default_rng(0)
    group = draw.integers(-1, 3, n)
    width = np.where(np.arange(n) < n // 4, 128, 512)
    return Points(
        f"Map {HOSTILE}", ("kept: 0.2; control 0.1", HOSTILE), draw.uniform(-3, 7, (n, 2)).astype(np.float32), width,
        np.arange(n), labels or tuple(f"label {i}" for i in range(n)), [(" cat", HOSTILE, f"t{i}") for i in range(n)],
        (Colouring("width", (width == 512).astype(np.int64), ("128", "512"), ordered=True),
         Colouring("cluster", group, ("0", HOSTILE, "2")),
         Colouring("score", np.where(np.arange(n) % 7 == 0, np.nan, draw.normal(size=n)))),
        ((0.0, 0.0, HOSTILE),),
    )  # fmt: skip


def data_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="mxm-data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_d7_the_policy_lets_the_one_script_run_by_its_hash_and_nothing_else():
    page = point_map_page(points())
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(policy) == len(scripts) == 1 and page.lower().count("<script") == 2
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert policy[0].split("; ") == [
        "default-src 'none'", "style-src 'unsafe-inline'", "base-uri 'none'", "form-action 'none'",
        f"script-src 'sha256-{digest}'",
    ]  # fmt: skip
    assert "innerHTML" not in scripts[0] and "eval(" not in scripts[0] and scripts[0].isascii()


def test_d7_labels_reach_the_page_as_data_that_cannot_end_it():
    page = point_map_page(points(labels=(HOSTILE,) * 400))
    said = data_of(page)
    assert "<script>alert" not in page and "</p><script" in said["labels"][0]
    assert "⟨202E⟩" in said["labels"][0] and "↵" in said["labels"][0]


def test_d7_what_is_drawn_is_what_was_given():
    given = points()
    said = data_of(point_map_page(given))
    xy = np.frombuffer(base64.b64decode(said["xy"]), "<u2").reshape(-1, 2) / 65535
    placed = given.placed()[0]
    assert xy[:, 0] == pytest.approx(placed[:, 0], abs=1e-4) and 1 - xy[:, 1] == pytest.approx(
        placed[:, 1], abs=1e-4
    )
    ids = np.frombuffer(base64.b64decode(said["ids"]), "<i4")
    assert ids.tolist() == given.feature_id.tolist() and said["sizes"][0] > said["sizes"][1]
    score = said["colourings"][2]
    assert (
        np.isnan(np.frombuffer(base64.b64decode(score["values"]), "<f4")[0]) and score["low"] < score["high"]
    )


# -- in a browser -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(str(BROWSER), FLAGS, tmp_path_factory.mktemp("profile")) as found:
        yield found


def opened(browser: Chromium, page: str, folder: Path, fragment: str = "", theme: str = "light") -> None:
    path = folder / "map.html"
    path.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")
    browser.said.clear()
    browser.asked.clear()
    browser.call("Page.navigate", url="about:blank")
    browser.open(path, fragment, theme)


@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_d7_the_page_opens_without_a_console_message_and_without_a_request(browser, tmp_path, theme):
    opened(browser, point_map_page(points(labels=(HOSTILE,) * 400)), tmp_path, theme=theme)
    shade = (
        "getComputedStyle(document.querySelector('.mxm-stage')).backgroundColor.match(/\\d+/g).map(Number)"
    )
    assert (max(browser.value(shade)) < 60) == (theme == "dark")
    for name in ("cluster", "score", "width"):
        browser.value(f"location.hash = 'color={name}'")
        browser.wait(
            lambda name=name: browser.value("document.querySelector('.mxm-legend h2').textContent") == name
        )
    assert browser.said == [] and browser.asked == []
    assert browser.value("document.querySelector('h1').textContent").startswith("Map </p><script>alert(1)")


@needs_browser
@pytest.mark.browser
def test_a_script_that_slipped_in_would_not_run_and_be_noticed(browser, tmp_path):
    page = point_map_page(points()).replace("</main>", "<script>document.title = 'run'</script></main>")
    opened(browser, page, tmp_path)
    assert browser.value("document.title") != "run"
    browser.wait(lambda: any("Content Security Policy" in line for line in browser.said))


@needs_browser
@pytest.mark.browser
def test_d7_what_the_lasso_catches_is_listed_and_given_in_python(browser, tmp_path):
    given = points()
    opened(browser, point_map_page(given), tmp_path)
    left, top, width, height = browser.value(CANVAS)
    side = min(width, height) * 0.92
    x = (given.placed()[0][:, 0] - 0.5) * side + width / 2
    y = (0.5 - given.placed()[0][:, 1]) * side + height / 2
    corner = [left + width / 2 - 100, top + height / 2 - 80]
    square = [(corner[0] + a, corner[1] + b) for a, b in ((0, 0), (200, 0), (200, 160), (0, 160))]
    browser.drag(*square, modifiers=8)
    expected = np.flatnonzero((np.abs(x - width / 2) < 100) & (np.abs(y - height / 2) < 80))
    found = browser.value("document.querySelector('.mxm-code').value")
    said = ast.literal_eval(found.removeprefix("features = "))
    assert len(expected) > 10 and int(browser.value("mxm.dataset.selected")) == pytest.approx(
        len(expected), abs=2
    )
    caught = {i for own in said.values() for i in own}
    assert len(caught ^ set(expected.tolist())) <= 2 and set(said) <= {128, 512}
    rows = browser.value("[...document.querySelectorAll('.mxm-list tbody tr')].map((r) => r.textContent)")
    assert len(rows) == len(caught) and all("label" in row and "·" not in row for row in rows)
    browser.value("document.querySelector('.mxm-listhead button').click()")
    assert browser.value("document.querySelectorAll('.mxm-list tbody tr').length") == 0
    assert browser.said == [] and browser.asked == []


@needs_browser
@pytest.mark.browser
def test_d7_hover_and_search_show_label_and_tokens(browser, tmp_path):
    given = points()
    opened(browser, point_map_page(given), tmp_path, "#q=label 39")
    assert (
        browser.value("document.querySelector('.mxm-list h2').textContent") == "11 matches"
    )  # 39, 390 … 399
    browser.value("document.querySelector('.mxm-go').click()")
    tip = "document.querySelector('.mxm-tip').textContent"
    browser.wait(lambda: "label 39" in browser.value(tip))
    for said in ("feature 39", "width 128", " cat", "t39", "alert(1)", "score"):
        assert said in browser.value(tip)
    left, top, width, height = browser.value(CANVAS)
    middle = left + width / 2, top + height / 2
    browser.mouse("mouseMoved", middle[0] + 400, middle[1])
    browser.mouse("mouseMoved", *middle)
    assert "label 39" in browser.value(tip)
    assert browser.said == [] and browser.asked == []


@needs_browser
@pytest.mark.browser
def test_d7_sixty_five_thousand_points_are_drawn_at_once(browser, tmp_path):
    opened(browser, point_map_page(points(65_536)), tmp_path)
    times = []
    for _ in range(5):
        browser.mouse("mouseWheel", 500, 400, deltaX=0, deltaY=-40)
        times.append(
            float(
                browser.value(
                    "new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(mxm.dataset.drawn))))"
                )
            )
        )
    assert min(times) < 400  # 13 ms where nothing else runs
    assert browser.said == []


@needs_browser
@pytest.mark.browser
def test_d8_a_map_of_widths_writes_its_page(browser, tmp_path):
    drawn = decoder_map(family(), {(WIDE, 2): "child", (NARROW, 1): "parent"}, method="pca", n_neighbors=3)
    page = drawn.to_html(tmp_path / "map.html")
    browser.said.clear()
    browser.open(page)
    names = browser.value("[...document.querySelectorAll('.mxm-key')].map((k) => k.textContent)")
    assert names == ["88", "2424"]  # the width, and how many
    assert "share of a row" in browser.value("document.querySelector('.mxm-foot').textContent")
    assert browser.said == []
