"""Text made safe to show: escaped, and what cannot be seen made visible.

Every string that a view writes passes through here. Spaces and line breaks stay in the HTML as they are,
so that copied text is the text; their marks (· and ↵) come from the style sheet.
"""

from __future__ import annotations

import html
import re

# Controls, bidirectional overrides (they reorder what follows them) and lone surrogates (not UTF-8).
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_BREAKS = str.maketrans({"\n": "↵", "\t": "⇥", "\u2028": "↵", "\u2029": "↵"})


def visible(text: str) -> str:
    """The text with ⟨1B⟩ for a character that cannot be shown; line breaks and tabs stay."""
    return _UNSEEN.sub(_sign, text)


def one_line(text: str) -> str:
    """As `visible`, with ↵ and ⇥ for line breaks and tabs."""
    return visible(text).translate(_BREAKS)


def escaped(text: str) -> str:
    """HTML text or the value of an attribute in quotes."""
    return html.escape(visible(text), quote=True)


def attribute(text: str) -> str:
    """The value of an attribute in quotes, in one line."""
    return html.escape(one_line(text), quote=True)


def with_breaks(text: str) -> str:
    """HTML text in which the style sheet marks each line break."""
    return escaped(text).replace("\n", "<i class=mxt-n>\n</i>")


def with_marks(text: str) -> str:
    """As `with_breaks`; leading spaces are marked too."""
    bare = text.lstrip(" ")
    return "<i> </i>" * (len(text) - len(bare)) + with_breaks(bare)


def _sign(found: re.Match[str]) -> str:
    return f"⟨{ord(found[0]):02X}⟩"
