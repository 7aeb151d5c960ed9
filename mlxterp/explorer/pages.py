"""The files of the pages (`web/`), for the server and for a site."""

from __future__ import annotations

from pathlib import Path

from ..viz.escaping import attribute
from .palette_sheet import palette_sheet

WEB = Path(__file__).parent / "web"
PALETTE = "palette.css"
_KINDS = (".js", ".css", ".svg")


def files() -> dict[str, bytes]:
    """Files that pages fetch, by name."""
    found = {path.name: path.read_bytes() for path in sorted(WEB.iterdir()) if path.suffix in _KINDS}
    return {**found, PALETTE: palette_sheet().encode()}


def index_page(mode: str, token: str = "") -> str:
    """The page that everything is shown on.

    Args:
        mode: "live" where a server answers, "site" in a folder of files.
        token: What requests have to have.
    """
    page = (WEB / "index.html").read_text(encoding="utf-8")
    return page.replace("{{MODE}}", mode).replace("{{TOKEN}}", attribute(token))
