"""The page of an attribution graph, read as a file and opened in a browser that has no network, with a hand on it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxterp.viz.link_graph import LinkGraph, LinkNode, link_graph_page
from tests.viz.chromium import Chromium
from tests.viz.test_browser import BROWSER, FLAGS

HOSTILE = "</script><script>document.title='run'</script>"
PLAIN = '<table class="mxt-t"><tbody><tr><td>read without scripts</td></tr></tbody></table>'

needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium (apt-get install chromium)")


def graph(layers: int = 4, tokens: int = 10, each: int = 3) -> LinkGraph:
    """Nodes in every place, and random links upwards."""
    draw = np.random.default_rng(0)
    nodes = [LinkNode(f"E_{p}_{p}", "embedding", -1, p, f"token {p}", 0.5) for p in range(tokens)]
    for layer in range(layers):
        for p in range(tokens):
            nodes += [
                LinkNode(f"{layer}_{i}_{p}", "feature", layer, p, f"L{layer} #{i} at {p} {HOSTILE}", i / each)
                for i in range(each)
            ]
            nodes.append(LinkNode(f"{layer}_-1_{p}", "error", layer, p, f"L{layer} error at {p}", 0.9))
    nodes.append(LinkNode("9_7_9", "output", layers, tokens - 1, "output ' x'", 1.0))
    links = [
        (i, j, float(draw.normal()))
        for j, target in enumerate(nodes) if target.kind in ("feature", "output")
        for i, source in enumerate(nodes)
        if source.layer < target.layer and source.position <= target.position and draw.random() < 0.2
    ]  # fmt: skip
    return LinkGraph(
        f"Graph {HOSTILE}", ("a fact",), layers, [f"t{p}{HOSTILE}" for p in range(tokens)], nodes, links
    )


def test_the_policy_lets_the_one_script_run_by_its_hash():
    page = link_graph_page(graph(), PLAIN)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.endswith(f"script-src 'sha256-{digest}'") and "default-src 'none'" in policy
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_the_data_are_what_was_given_and_cannot_end_their_element():
    given = graph()
    page = link_graph_page(given, PLAIN)
    (text,) = re.findall(r'id="mxg-data">(.*?)</script>', page, re.DOTALL)
    data = json.loads(text)
    assert [node[0] for node in data["nodes"]] == [node.id for node in given.nodes]
    assert [link[:2] for link in data["links"]] == [[source, target] for source, target, _ in given.links]
    assert HOSTILE not in page and PLAIN in page


def test_a_page_of_a_graph_as_large_as_is_read_is_small():
    given = graph(6, 8, 2)
    assert len(given.nodes) > 150
    links = [(i % 100, 152, 0.5) for i in range(3000)]
    draw = np.random.default_rng(0)
    effects: dict[str, Any] = {node.id: draw.normal(size=(3, 10)).tolist() for node in given.nodes[:153]}
    page = link_graph_page(
        LinkGraph("g", (), 6, given.tokens, given.nodes[:153], links, effects=effects), PLAIN
    )
    assert len(page.encode()) < 300_000


# -- in a browser -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    assert BROWSER is not None
    with Chromium(BROWSER, FLAGS, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def told() -> LinkGraph:
    """The same with all that somebody may add."""
    given = graph()
    nodes = [
        replace(node, label="given" if node.id == "1_0_3" else "", card="c" if node.id == "2_1_5" else "")
        for node in given.nodes
    ]
    return replace(
        given, nodes=nodes, pins=["0_0_0"], groups={"both": ["1_0_3", "1_1_3"]}, cards={"c": "<p>a card</p>"},
        effects={"0_0_0": ([1.0], [0.5], [0.25]), "1_0_3": ([2.0], [1.0], [0.5])},
        group_effects={"both": ([3.0], [2.0], [-7.125])},
    )  # fmt: skip


def opened(
    browser: Chromium, folder: Path, fragment: str = "", theme: str = "light", given: Any = None
) -> Any:
    path = folder / "graph.html"
    path.write_text(link_graph_page(given or graph(), PLAIN), encoding="utf-8")
    browser.said.clear()
    browser.asked.clear()
    browser.call("Page.navigate", url="about:blank")
    browser.open(path, fragment, theme, "mxg")


@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_opens_without_a_console_message_and_without_a_request(browser, tmp_path, theme):
    opened(browser, tmp_path, theme=theme)
    assert browser.value("document.querySelectorAll('.mxg-node').length") == len(graph().nodes)
    assert browser.value("document.querySelector('.mxg-panel h2').textContent") == "output ' x'"
    assert browser.value("document.querySelectorAll('.mxg-lines line').length") > 3
    assert browser.value("document.title") != "run"
    assert browser.said == [] and browser.asked == []


@needs_browser
@pytest.mark.browser
def test_what_is_pinned_leads_to_one_page_that_steers_by_all_of_it(browser, tmp_path):
    address = "http://127.0.0.1:1/?t=e=k#/steer?p=a%20b&e="
    steer = {"1_0_3": f"{address}0:7:add:1", "2_1_5": f"{address}1:5:add:1"}
    opened(browser, tmp_path, "#pins=1_0_3,0_0_0,2_1_5", given=replace(graph(), steer=steer))
    link = "document.querySelector('a.mxg-steer').href"
    assert browser.value(link) == f"{address}0:7:add:1,1:5:add:1"
    opened(browser, tmp_path, "#pins=0_0_0", given=replace(graph(), steer=steer))
    assert browser.value("document.querySelectorAll('a.mxg-steer').length") == 0


@needs_browser
@pytest.mark.browser
def test_clicks_pins_keys_and_the_slider_change_the_picture_and_the_address(browser, tmp_path):
    opened(browser, tmp_path, "#node=2_1_5&pins=2_1_5,0_0_0&influence=60")
    heading = "document.querySelector('.mxg-panel h2').textContent"
    assert browser.value(heading).startswith("L2 #1 at 5")
    assert browser.value("document.querySelectorAll('.mxg-pinned').length") == 2
    assert browser.value("document.querySelectorAll('.mxg-error:not(.mxg-hidden)').length") == 0
    browser.value("document.querySelector('.mxg-panel td button').click()")
    assert not browser.value(heading).startswith("L2 #1 at 5")
    browser.value(
        "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'p', bubbles: true}))"
    )
    assert browser.value("document.querySelectorAll('.mxg-pinned').length") == 3
    assert "pins=" in browser.value("location.hash") and "influence=60" in browser.value("location.hash")
    assert browser.said == [] and browser.asked == []


PANEL = "document.querySelector('.mxg-panel').textContent"
HEADING = "document.querySelector('.mxg-panel h2').textContent"


def press(browser: Chromium, *keys: str) -> None:
    for key in keys:
        browser.value(
            f"document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}', bubbles: true}}))"
        )


@needs_browser
@pytest.mark.browser
def test_labels_groups_pins_cards_and_effects_that_are_given_are_shown(browser, tmp_path):
    opened(browser, tmp_path, "#node=2_1_5", given=told())
    assert browser.value("document.querySelectorAll('.mxg-pinned').length") == 1
    assert browser.value("document.querySelectorAll('.mxg-grouped').length") == 2
    panel = browser.value(PANEL)
    assert "a card" in panel and "both (2)" in panel and "-7.13" in panel  # of the group, all of it at once
    assert "+1+0.5+0.25output" in panel  # of the one pinned node
    opened(browser, tmp_path, "#node=1_0_3", given=told())
    assert browser.value(HEADING).endswith(" — given") and "+2+1+0.5output" in browser.value(PANEL)
    assert browser.said == [] and browser.asked == []


@needs_browser
@pytest.mark.browser
def test_what_is_labelled_pinned_and_grouped_stands_in_the_address_and_in_the_saved_page(browser, tmp_path):
    opened(browser, tmp_path, "#node=2_1_5", given=told())
    label = "document.querySelector('.mxg-panel input[placeholder=label]')"
    browser.value(f"{label}.value = 'my <b>&=name'; {label}.dispatchEvent(new Event('change')), 0")
    assert browser.value(HEADING).endswith(" — my <b>&=name")
    browser.value("document.querySelector('.mxg-chosen').focus()")
    press(browser, "p")
    assert browser.value("document.querySelectorAll('.mxg-pinned').length") == 2
    browser.value("document.querySelector('[placeholder=\"name of a group\"]').value = 'a=b, c'")
    browser.value("document.querySelector('[placeholder=\"name of a group\"]').nextElementSibling.click()")
    assert "a=b, c (2)" in browser.value(PANEL) and "both (2)" in browser.value(PANEL)
    kept = browser.value("location.hash")

    browser.value("URL.createObjectURL = (blob) => { window.saved = blob; return 'blob:x'; }")
    browser.value("HTMLAnchorElement.prototype.click = () => {}")
    browser.value(
        "[...document.querySelectorAll('.mxg-tools button')].find((b) => b.textContent === 'Save page').click()"
    )
    again = tmp_path / "again.html"
    again.write_text(browser.value("window.saved.text()"), encoding="utf-8")
    for path, fragment in ((tmp_path / "graph.html", kept), (again, "")):
        browser.call("Page.navigate", url="about:blank")
        browser.open(path, fragment, app="mxg")
        assert browser.value(HEADING).endswith(" — my <b>&=name"), path
        assert "a=b, c (2)" in browser.value(PANEL) and "both (2)" in browser.value(PANEL)
        assert browser.value("document.querySelectorAll('.mxg-pinned').length") == 2
    assert browser.said == [] and browser.asked == []


@needs_browser
@pytest.mark.browser
def test_arrows_follow_the_strongest_links_and_paths_lead_from_pins(browser, tmp_path):
    opened(browser, tmp_path)
    first = browser.value(HEADING)
    press(browser, "ArrowDown")
    below = browser.value(HEADING)
    assert below != first
    press(browser, "ArrowDown")
    assert browser.value("document.querySelectorAll('[tabindex=\"0\"].mxg-node').length") == 1
    assert browser.value("document.querySelectorAll('.mxg-way').length") >= 1
    press(browser, "p", "Escape")
    assert browser.value(HEADING) == first and "Strongest path (share" in browser.value(PANEL)
    press(browser, "x", "ArrowRight")
    assert browser.value(HEADING) == first  # it is alone in its row
    assert browser.said == [] and browser.asked == []
