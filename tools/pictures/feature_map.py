"""Makes `docs/images/feature_map.png`: the page of a map of the embedded SAE, with clusters and a search.

    pip install ".[cpu,umap]" && python tools/pictures/feature_map.py

Needs Chromium and Pillow.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

import mlxterp
from mlxterp import geometry

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "feature_map.png"
SIZE, COLOURS, QUERY = (1280, 860), 256, "q=dog&color=cluster"


def drawn(folder: Path) -> Path:
    model, sae, texts = mlxterp.load_demo()
    stories = [story for story in texts if len(model.tokenize(story)) <= 256]
    index = model.build_index(sae, stories, verbose=False)
    return geometry.decoder_map(sae, index, model).clusters().to_html(folder / "map.html")


def photograph(page: Path, picture: Path, folder: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("Chromium is needed: apt-get install chromium")
    subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run", "--hide-scrollbars",
         f"--user-data-dir={folder / 'profile'}", f"--window-size={SIZE[0]},{SIZE[1]}",
         "--virtual-time-budget=3000", f"--screenshot={picture}", f"{page.as_uri()}#{QUERY}"],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photograph(drawn(folder), folder / "map.png", folder)
        with Image.open(folder / "map.png") as shown:
            shown.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
                PICTURE, optimize=True
            )
    print(PICTURE, f"{PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
