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


def site_page() -> str:
    """The same for a folder of files, whose policy stands in it; a browser loads no modules from a disk.

    Raises:
        ValueError: `index.html` is not what this is made of.
    """
    page = index_page("site")
    for old, new in _IN_A_SITE.items():
        if page.count(old) != 1:
            raise ValueError(f"index.html has {old!r} {page.count(old)} times, expected once.")
        page = page.replace(old, new)
    return page


_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " base-uri 'none'; form-action 'none'"
)
_IN_A_SITE = {
    '<meta name="viewport"': f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n<meta name="viewport"',
    '<script type="module" src="static/main.js"></script>': '<script src="explorer.js" defer></script>',
    'href="static/palette.css"': 'href="palette.css"',
    'href="static/style.css"': 'href="style.css"',
}
