"""Makes `docs/images/explorer.png`: the features that a word finds, and the page of one, as a browser shows them.

    python tools/pictures/explorer.py

Needs Chromium, Playwright and Pillow; the index is that of `mlxterp serve --demo`.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

import mlxterp
from mlxterp.demo.kept_index import kept_index

FEATURE, WORD = 741, "ball"
PICTURE = Path(__file__).parents[2] / "docs" / "images" / "explorer.png"
LIST, PAGE = (1180, 340), (1180, 760)
"""What of each page is shown, in CSS pixels."""
COLOURS = 48


def photographs(url: str) -> list[Image.Image]:
    """The list and the feature's page."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("Chromium is needed: apt-get install chromium")
    found = []
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        for place, (width, height) in ((f"list?q={WORD}", LIST), (f"feature/{FEATURE}?q={WORD}", PAGE)):
            page = opened.new_page(viewport={"width": width, "height": height})
            page.goto(f"{url}#/{place}")
            page.wait_for_selector("body[data-ready]", state="attached")
            page.wait_for_load_state("networkidle")
            found.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
        opened.close()
    return found


def main() -> None:
    demo = mlxterp.load_demo()
    with kept_index(demo).serve(open=False, read_only=True) as explorer:
        parts = photographs(explorer.url)
    whole = Image.new("RGB", (parts[0].width, sum(part.height for part in parts) + 12), (150, 150, 160))
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height + 12
    PICTURE.parent.mkdir(exist_ok=True)
    whole.quantize(COLOURS, dither=Image.Dither.NONE).save(PICTURE, optimize=True)
    print(PICTURE, f"{PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
