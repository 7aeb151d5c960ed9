"""One offline HTML file, or a notebook's cell: the style sheet, the page around a body, and writing it.

Views make the body; a page's policy forbids anything that would be fetched, and every script but the page's own (as a
rule it has none), should something slip past the escaping.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Protocol

from ..core.files import atomic_write
from ..core.places import path_of
from ..errors import InputError
from .escaping import escaped
from .palette import declarations, rules

Links = Mapping[tuple[str, int], str]
"""Id of the element that shows a feature, by (sae_name, feature_id)."""

MODES = {
    "light": "--mxt-fg:#1c1c1f;--mxt-muted:#5a5a63;--mxt-bg:#ffffff;--mxt-page:#f4f4f6;--mxt-line:#dfdfe4;"
    "--mxt-code:#f0f0f3;--mxt-link:#0b5cad;color-scheme:light",
    "dark": "--mxt-fg:#ececf0;--mxt-muted:#a9a9b4;--mxt-bg:#1e1e22;--mxt-page:#141416;--mxt-line:#3a3a42;"
    "--mxt-code:#2b2b31;--mxt-link:#8cc4ff;color-scheme:dark",
}
_THEMES = {
    "light": ('[data-jp-theme-light="true"]', ".vscode-light", "html[theme=light]", "[data-theme=light]"),
    "dark": ('[data-jp-theme-light="false"]', ".vscode-dark", "html[theme=dark]", "[data-theme=dark]"),
}
"""How Jupyter, VS Code, Colab and others say which theme they show; it wins over the system's."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


class Fragment(Protocol):
    """What can stand on a page: a view, a card, a section."""

    def fragment(self, level: int = 3, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet; its headings start at `level`."""
        ...


def page(title: str, body: str, frames: str = "") -> str:
    """A whole HTML document.

    Args:
        title: Plain text.
        body: HTML of fragments, already escaped.
        frames: Address whose pages may stand in frames; "" allows none.
    """
    policy = f"{_POLICY}; frame-src {frames}" if frames else _POLICY
    return _document(title, body, policy, style(), "", "mlxterp-page")


def app_page(title: str, body: str, script: str, sheet: str) -> str:
    """A document that takes the whole window and runs one script; its policy allows that one, by its hash.

    Args:
        title: Plain text.
        body: HTML, already escaped.
        script, sheet: Of this package.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = f"{_POLICY}; script-src 'sha256-{digest}'"
    styles, run = f"{style()}<style>{sheet}</style>", f"<script>{script}</script>"
    return _document(title, body, policy, styles, run, "mlxterp-page mxt-app")


def _document(title: str, body: str, policy: str, styles: str, run: str, kind: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}</title>{styles}</head>\n"
        f'<body class="{kind}"><main class="mlxterp-view">\n{body}\n</main>{run}</body></html>\n'
    )


def feature_link(sae_name: str, feature: int, links: Links | None) -> str:
    """HTML of a feature's id: a link to where the page shows it, where it does."""
    target = (links or {}).get((sae_name, feature))
    return f'<a href="#{target}">{feature}</a>' if target else str(feature)


def cell(fragment: Fragment) -> str:
    """The HTML of a notebook's cell."""
    return f'{style()}<div class="mlxterp-view" lang="en">{fragment.fragment()}</div>'


def write_page(path: str | os.PathLike, document: str) -> Path:
    """Writes an HTML document; the file is there whole or not at all.

    Raises:
        InputError: The folder does not exist, or `path` is a folder, or no path.
        WriteError: It cannot be written (no space, no permission); what was there is unchanged.
    """
    target = path_of(path)
    if target.is_dir() or not target.parent.is_dir():
        what = "it is a folder" if target.is_dir() else f"there is no folder {str(target.parent)!r}"
        raise InputError(
            f"Cannot write {str(target)!r}: {what}. Give the path of a file, such as 'feature.html'."
        )
    with atomic_write(target) as draft:
        draft.write_text(document, encoding="utf-8", errors="xmlcharrefreplace", newline="\n")
    return target


@cache
def style() -> str:
    """The style element, the same for every view."""
    dark, light = (_declared(mode) for mode in ("dark", "light"))
    css = re.sub(r"/\*.*?\*/", "", (Path(__file__).parent / "style.css").read_text(encoding="utf-8"))
    css = re.sub(r"\s*([{};,>])\s*", r"\1", re.sub(r"(?<=[a-z-]):\s+", ":", css)).replace(";}", "}").strip()
    return (
        f"<style>{_roots()},{_roots('light')}{{{light}}}"
        f"@media (prefers-color-scheme:dark){{{_roots()}{{{dark}}}}}"
        f"{_roots('dark')}{{{dark}}}{css}{rules()}</style>"
    )


def _declared(mode: str) -> str:
    return f"{MODES[mode]};{declarations(mode)}"


def _roots(theme: str | None = None) -> str:
    """Selectors of what carries the colours, in any theme or in one."""
    if theme is None:
        return ".mlxterp-view,.mlxterp-page"
    return ",".join(f"{outer} .mlxterp-view" for outer in _THEMES[theme])
