"""One browser, one model and one server for all tests of the explorer's pages."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import SAE, FeatureIndex
from mlxterp.core.controls import Controlled
from mlxterp.demo.choosing import short_stories
from mlxterp.geometry.maps import DecoderMap
from mlxterp.variants import TopK
from tests.index.small import random_sae

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_NEEDS = {
    "playwright (pip install mlxterp[browser])": importlib.util.find_spec("playwright"),
    "Chromium (apt-get install chromium)": CHROMIUM,
    "starlette (pip install mlxterp[serve])": importlib.util.find_spec("starlette"),
    "uvicorn (pip install mlxterp[serve])": importlib.util.find_spec("uvicorn"),
}
MISSING = [name for name, found in _NEEDS.items() if found is None]
STORIES, OTHERS = 24, 8
BALL = 741


@dataclass(frozen=True)
class Shown:
    """A server, and what it shows."""

    url: str
    demo: Any
    index: FeatureIndex
    other: FeatureIndex
    places: np.ndarray

    @property
    def saes(self) -> tuple[SAE, SAE]:
        """Of both indexes."""
        first, second = self.index.source, self.other.source
        assert first is not None and second is not None
        return first.sae, second.sae

    def at(self, place: str) -> str:
        """The address of a page."""
        return f"{self.url}#/{place}"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The system's Chromium, without a window."""
    if MISSING:
        pytest.skip(f"needs {', '.join(MISSING)}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM,
            timeout=120_000,
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """An index of the demo's stories with a map, and a smaller one of another SAE, on a server."""
    demo = mlxterp.load_demo()
    folder = tmp_path_factory.mktemp("shown")
    stories = [story for story in short_stories(demo) if " ball" in story or " dog" in story]
    index = demo.model.build_index(demo.sae, stories[:STORIES], folder / "stories", verbose=False)
    sae = random_sae(TopK(8), demo.model.d_model, 128)
    other = demo.model.build_index(sae, stories[:OTHERS], folder / "other", verbose=False)
    places = np.random.default_rng(0).standard_normal((index.d_hidden, 2)).astype(np.float32)
    drawn(index, places).save(index)
    with index.serve(open=False, others=[other]) as server:
        yield Shown(server.url, demo, index, other, places)


@pytest.fixture(scope="session")
def site(shown: Shown, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files with some of the index's features, and the other index beside it."""
    folder = tmp_path_factory.mktemp("site") / "pages"
    shown.index.to_site(
        folder,
        features=[*range(725, 757), 571, 160, 284, 1312],
        n=4,
        per_band=1,
        others=[shown.other],
        verbose=False,
    )
    return folder / "index.html"


def drawn(index: FeatureIndex, places: np.ndarray) -> DecoderMap:
    """A map whose points are given."""
    n, nothing = len(places), Controlled(0.0, (0.0, 0.0), np.zeros(0), "none", 0)
    return DecoderMap(
        coordinates=places, width=np.full(n, n), feature_id=np.arange(n), nearness=np.zeros(n), labels=("",) * n,
        tokens=(), scores={}, kept=nothing, dead={n: 0}, copies=0, method="pca", n_neighbors=2, min_dist=0.1, seed=0,
        component=index.component, fingerprints={n: index.fingerprint}, distinct=None,
    )  # fmt: skip


class Page:
    """A page under test: what its console said and what it asked for beyond its own server is kept.

    Attributes:
        said: Messages of the console, and errors.
        foreign: Addresses outside the server (or folder).
    """

    def __init__(self, page: Any, own: str):
        self.page, self.said, self.foreign = page, [], []
        page.set_default_timeout(60_000)
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", lambda dialog: (self.said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: self._asked(request.url, own))

    def _asked(self, url: str, own: str) -> None:
        if not url.startswith((own, "data:", "blob:")):
            self.foreign.append(url)

    def open(self, url: str) -> Any:
        """Opens an address and waits until the page is there; returns Playwright's page."""
        if self.page.url.partition("#")[0] == url.partition("#")[0]:
            self.page.evaluate("hash => { location.hash = hash }", "#" + url.partition("#")[2])
        else:
            self.page.goto(url)
        self.ready(url.partition("#")[2])
        return self.page

    def ready(self, place: str = "") -> None:
        """Waits until a page is drawn."""
        told = f'[data-ready="#{place.replace(">", "%3E")}"]' if place else "[data-ready]"
        self.page.wait_for_selector(f"body{told}", state="attached")


@pytest.fixture
def opened(browser: Any, shown: Shown, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A fresh page; at the end its console has to be empty, and nothing foreign may have been asked for.

    A test passes options of Playwright's context by parametrizing it indirectly.
    """
    options = {"viewport": {"width": 1280, "height": 800}, **getattr(request, "param", {})}
    context = browser.new_context(**options)
    page = Page(context.new_page(), shown.url.partition("?")[0])
    yield page
    context.close()
    assert page.said == []
    assert page.foreign == []
