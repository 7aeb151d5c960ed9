"""Pages opened in a real browser that has no network."""

from __future__ import annotations

import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

from mlxterp import FeatureReport, TokenView
from mlxterp.viz import Section
from tests.viz.reading import HOSTILE, card

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0",
]  # fmt: skip

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium (apt-get install chromium)"),
]


def browse(page: Path, profile: Path, *options: str) -> tuple[str, list[str]]:
    """The page's elements as the browser made them, and what its console says."""
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={profile}", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture
def report(tmp_path) -> Path:
    values = np.array([[0, 1, -2, 0.5]], np.float32)
    view = TokenView(("Once", " upon", HOSTILE, " مرحبا 👩‍👧"), (3,), values, {3: HOSTILE})
    parts = [Section("A text", HOSTILE), view, Section("A feature"), card(label=HOSTILE)]
    return FeatureReport(HOSTILE, parts).to_html(tmp_path / "report.html")


def test_a_report_opens_without_network_and_the_console_stays_empty(report, tmp_path):
    elements, console = browse(report, tmp_path / "profile", "--dump-dom")
    assert console == []
    assert "<script" not in elements.lower()
    for said in ("&lt;script&gt;alert(1)&lt;/script&gt;", " cat", "Similar directions", "مرحبا"):
        assert said in elements


def test_a_page_that_fetches_or_fails_would_be_noticed(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        '<img src="http://x.test/a.png"><script>nothing_of_that_name()</script>', encoding="utf-8"
    )
    _, console = browse(page, tmp_path / "profile", "--dump-dom", "--virtual-time-budget=2000")
    assert any("nothing_of_that_name" in line for line in console)


@pytest.mark.parametrize(("scheme", "dark"), [("0", True), ("1", False)])
def test_the_page_is_dark_where_the_system_is(report, tmp_path, scheme, dark):
    picture = tmp_path / "page.png"
    browse(
        report,
        tmp_path / "profile",
        f"--blink-settings=preferredColorScheme={scheme}",
        f"--screenshot={picture}",
    )
    assert (max(first_pixel(picture.read_bytes())) < 60) == dark


def first_pixel(png: bytes) -> bytes:
    """Red, green and blue of a picture's first pixel, which no filter of PNG changes."""
    at, data = 8, b""
    while at < len(png):
        size, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        data += png[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += size + 12
    return zlib.decompress(data)[1:4]
