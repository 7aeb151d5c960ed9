"""Row U8: the page of attention patterns, read as a file, and in a browser without a network, with a hand on it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlxterp import InputError
from mlxterp.attention import AttentionPatterns
from mlxterp.viz import pattern_page as of_page
from mlxterp.viz.pattern_page import PatternText, packed, pattern_page
from mlxterp.viz.pattern_picture import HeadPattern, pattern_panel
from tests.viz.chromium import Chromium
from tests.viz.reading import ATTRIBUTES, HOSTILE, TAGS, Reader
from tests.viz.test_browser import BROWSER, FLAGS

needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium (apt-get install chromium)")


def weights(heads: int = 3, n: int = 9, seed: int = 0, sharp: float = 0.3) -> np.ndarray:
    """(heads, n, n): rows that sum to 1 and see no later token."""
    drawn = np.tril(np.random.default_rng(seed).gamma(sharp, size=(heads, n, n)) + 1e-6)
    return (drawn / drawn.sum(axis=-1, keepdims=True)).astype(np.float32)


def page(n: int = 9, tokens: list[str] | None = None, **options) -> str:
    words = tokens or [f" w{i}" for i in range(n)]
    layers = {2: weights(3, n, 1), 5: weights(3, n, 2)}
    shares = {layer: np.linspace(0, 1, 3 * n).reshape(3, n) for layer in layers}
    return pattern_page(
        f"Heads {HOSTILE}", (HOSTILE,), [PatternText(words, layers, shares)], {2: (0, 1, 2), 5: (0, 4, 7)}, **options
    )  # fmt: skip


def data_of(document: str) -> dict:
    found = re.search(r'<script type="application/json" id="mxm-data">(.*?)</script>', document, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def unpacked(parts: list[str], heads: int, n: int) -> np.ndarray:
    counts, keys, steps = (base64.b64decode(part) for part in parts)
    many, where = np.frombuffer(counts, "<u2"), np.frombuffer(keys, "u1" if n <= 256 else "<u2")
    found = np.zeros((heads * n, n))
    found[np.repeat(np.arange(heads * n), many), where] = np.frombuffer(steps, "u1") / 255
    return found.reshape(heads, n, n)


def test_u8_the_policy_lets_the_one_script_run_by_its_hash_and_nothing_else():
    document = page()
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', document)
    scripts = re.findall(r"<script>(.*?)</script>", document, re.DOTALL)
    assert len(policy) == len(scripts) == 1 and document.lower().count("<script") == 2
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert policy[0].endswith(f"script-src 'sha256-{digest}'") and "default-src 'none'" in policy[0]
    assert "innerHTML" not in scripts[0] and "eval(" not in scripts[0] and scripts[0].isascii()


def test_u8_tokens_reach_the_page_as_data_that_cannot_end_it():
    document = page(tokens=[HOSTILE] * 9)
    assert "<script>alert" not in document
    assert "</p><script" in data_of(document)["texts"][0]["tokens"][0]


@pytest.mark.parametrize("n", [1, 9, 300])
def test_u8_what_is_kept_is_what_was_given_in_steps_of_a_255th(n):
    given = weights(2, n)
    assert np.abs(unpacked(packed(given), 2, n) - given).max() <= 0.5 / 255 + 1e-7


def test_u8_a_layer_of_32_heads_and_40_tokens_takes_less_than_150_kb():
    for sharp in (0.05, 0.3, 100):  # few keys for each token, or all alike: then nothing is sparse
        text = PatternText([f" token{i}" for i in range(40)], {0: weights(32, 40, sharp=sharp)})
        assert len(pattern_page("Attention", (), [text], {0: range(32)}).encode()) <= 150_000


def test_u8_a_page_too_large_for_a_browser_is_refused(monkeypatch):
    monkeypatch.setattr(of_page, "_LARGEST", 1000)
    with pytest.raises(InputError, match="fewer layers="):
        page()


def test_u8_a_notebook_shows_pictures_without_a_script():
    tokens = (HOSTILE, *(f" w{i}" for i in range(8)))
    patterns = AttentionPatterns({0: weights(40)[None]}, {0: tuple(range(40))}, (tokens,))
    read = Reader(patterns._repr_html_())
    assert {tag for tag, _ in read.elements} <= TAGS | {"path", "figcaption"}
    for _, attributes in read.elements:
        assert set(attributes) <= ATTRIBUTES | {"d", "shape-rendering"}
    assert "The first 24 of 40 heads" in read.everything
    assert sum(tag == "svg" for tag, _ in read.elements) == 24


def test_u8_a_picture_colours_the_cells_by_their_weight():
    made = np.array([[1, 0, 0], [0.5, 0.5, 0], [0.01, 0.09, 0.9]], np.float32)
    html = pattern_panel("A", [], ["a", "b", "c"], [HeadPattern("L0H0", made)], 3, "x")
    paths = dict(re.findall(r'class="mxt-f(\d)" d="([^"]*)"', html))
    cell = "M{} {}h1v1h-1z".format
    assert paths == {"1": cell(1, 2), "4": cell(0, 1) + cell(1, 1), "8": cell(0, 0) + cell(2, 2)}


# -- in a browser -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(str(BROWSER), FLAGS, tmp_path_factory.mktemp("profile")) as found:
        yield found


def opened(browser: Chromium, document: str, folder: Path, fragment: str = "", theme: str = "light") -> None:
    path = folder / "attention.html"
    path.write_text(document, encoding="utf-8", errors="xmlcharrefreplace")
    browser.said.clear()
    browser.asked.clear()
    browser.call("Page.navigate", url="about:blank")
    browser.open(path, fragment, theme)
    browser.wait(lambda: browser.value("document.getElementById('mxm').dataset.overview") == "done")


def shown(browser: Chromium) -> str:
    return browser.value("document.getElementById('mxm').dataset.shown")


def press(browser: Chromium, key: str) -> None:
    browser.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key if len(key) == 1 else "")
    browser.call("Input.dispatchKeyEvent", type="keyUp", key=key)


@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_u8_the_page_opens_without_a_console_message_and_hostile_tokens_are_text(browser, tmp_path, theme):
    opened(browser, page(tokens=[HOSTILE, *(f" w{i}" for i in range(8))]), tmp_path, theme=theme)
    shade = "getComputedStyle(document.querySelector('.mxa-card')).backgroundColor.match(/\\d+/g).map(Number)"
    assert (max(browser.value(shade)) < 60) == (theme == "dark")
    assert browser.said == [] and browser.asked == []
    assert "<script>alert(1)</script>" in browser.value("document.querySelector('.mxa-token').textContent")
    assert browser.value("document.querySelectorAll('.mxa-token').length") == 9
    assert browser.value("document.querySelectorAll('.mxa-thumb').length") == 4  # three heads and their mean
    assert browser.value("document.querySelectorAll('script').length") == 2


@needs_browser
@pytest.mark.browser
def test_u8_all_of_it_is_reached_by_keyboard(browser, tmp_path):
    opened(browser, page(), tmp_path, "#layer=5&head=4&token=3")
    assert shown(browser) == "5 4 3 destination"
    for key, expected in (
        ("ArrowLeft", "5 4 2 destination"), ("ArrowDown", "2 1 2 destination"), ("]", "2 2 2 destination"),
        ("s", "2 2 2 source"), ("m", "2 mean 2 source"), ("v", "2 mean 2 source"), ("t", "2 mean 2 source"),
        ("ArrowUp", "5 mean 2 source"), ("ArrowRight", "5 mean 3 source"),
    ):  # fmt: skip
        press(browser, key)
        assert shown(browser) == expected, key
    assert browser.value("document.documentElement.dataset.theme") == "dark"
    assert browser.value("[...document.querySelectorAll('[aria-pressed=true]')].length") == 2
    assert browser.said == []


@needs_browser
@pytest.mark.browser
def test_u8_a_token_is_pointed_at_and_held_and_tells_what_it_reads(browser, tmp_path):
    opened(browser, page(), tmp_path, "#layer=2&head=1")
    spot = (
        "(i => { const r = document.querySelectorAll('.mxa-token')[i].getBoundingClientRect();"
        " return [r.x + 4, r.y + 4]; })"
    )
    browser.mouse("mouseMoved", *browser.value(f"{spot}(4)"))
    browser.wait(lambda: shown(browser) == "2 1 4 destination")
    best = int(weights(3, 9, 1)[1, 4].argmax())
    assert browser.value("document.querySelector('.mxa-list li').textContent").startswith(f"{best}")
    browser.drag(browser.value(f"{spot}(6)"), browser.value(f"{spot}(6)"))
    browser.mouse("mouseMoved", *browser.value(f"{spot}(2)"))
    assert shown(browser) == "2 1 6 destination" and "held" in browser.value(
        "document.querySelector('.mxa-said').textContent"
    )
    press(browser, "Escape")
    browser.mouse("mouseMoved", *browser.value(f"{spot}(3)"))
    browser.wait(lambda: shown(browser) == "2 1 3 destination")
    assert browser.said == []
