"""Makes `docs/images/feature_card.png`: a card of the embedded SAE's feature of colours, as a browser shows it.

    python tools/pictures/feature_card.py

Needs Chromium and Pillow. The name is that of `tools/demo_model/readings.json`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

import mlxterp

FEATURE, NAME = 1096, "colours"
PICTURE = Path(__file__).parents[2] / "docs" / "images" / "feature_card.png"
SIZE, PIXELS = (860, 1088), 1.5
"""What of the page is shown, in CSS pixels, and how many pixels each has: down to the examples of the middle."""
COLOURS = 48


def card(folder: Path) -> Path:
    model, sae, texts = mlxterp.load_demo()
    stories = [story for story in texts if len(model.tokenize(story)) <= 256]
    index = model.build_index(sae, stories, verbose=False)
    index.labels = {FEATURE: NAME}
    return index.feature(FEATURE, n=5).to_html(folder / "card.html")


def photograph(page: Path, picture: Path, folder: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("Chromium is needed: apt-get install chromium")
    subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run", "--hide-scrollbars",
         f"--user-data-dir={folder / 'profile'}", f"--window-size={SIZE[0]},{SIZE[1]}",
         f"--force-device-scale-factor={PIXELS}", f"--screenshot={picture}", page.as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photograph(card(folder), folder / "card.png", folder)
        with Image.open(folder / "card.png") as shown:
            PICTURE.parent.mkdir(exist_ok=True)
            shown.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(PICTURE, optimize=True)
    print(PICTURE, f"{PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
