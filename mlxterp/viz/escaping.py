"""Text made safe to show: escaped, and what cannot be seen made visible.

Every string that a view writes passes through here. Spaces and line breaks stay in the HTML as they are,
so that copied text is the text; their marks (· and ↵) come from the style sheet.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff"  # controls; lone surrogates are no UTF-8
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # directions: they reorder what follows
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2060-\u2065\u206a-\u206f\u3164\ufeff\uffa0"
    "\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"  # no width, or blank
    "\ufe00-\ufe0f\U000e0000-\U000e0fff]"  # variation selectors and tags: text can be hidden in them
)
_JOINERS = "\u200c\u200d"

_PICTURE = (
    "[\u00a9\u00ae\u203c\u2049\u2122\u2139\u2194-\u2199\u21a9\u21aa\u231a\u231b\u2328\u2388\u23cf\u23e9-\u23fa\u24c2"
    "\u25aa\u25ab\u25b6\u25c0\u25fb-\u25fe\u2600-\u27bf\u2934\u2935\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55\u3030\u303d"
    "\u3297\u3299\U0001f000-\U0001f1e5\U0001f200-\U0001f3fa\U0001f400-\U0001faff]"
)
_ELEMENT = f"{_PICTURE}[\U0001f3fb-\U0001f3ff]?[\ufe0e\ufe0f]?"
_FLAG = "\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{4,6}\U000e007f"
_EMOJI = re.compile(f"{_FLAG}|[0-9#*]\ufe0f\u20e3|{_ELEMENT}(?:\u200d{_ELEMENT})*")
"""Emoji with what belongs to them: joiners between pictures, one variation selector each, the tags of a flag."""
_JOINED_SCRIPTS = re.compile(
    "[\u0620-\u074f\u0750-\u077f\u07ca-\u07fa\u0840-\u085f\u0860-\u08ff\u0900-\u0dff\u0f00-\u0fff\u1000-\u109f"
    "\u1780-\u18aa\u1a20-\u1aaf\u1b00-\u1cff\ua800-\uaaff\uabc0-\uabff\ufb50-\ufdff\ufe70-\ufefc\U00010a00-\U00010aff"
    "\U00010b80-\U00010baf\U00010d00-\U00010d3f\U00010f30-\U00010fdf\U00011000-\U00011fff\U0001e900-\U0001e95f]"
)
"""Scripts whose spelling needs joiners: Arabic and its kin, those of India and its neighbours, Mongolian."""
_MONGOLIAN = re.compile("[\u1820-\u18aa]")

_BREAKS = str.maketrans({"\n": "↵", "\t": "⇥", "\u2028": "↵", "\u2029": "↵"})
_SPACES = {" ": "·", "\n": "↵", "\t": "⇥", "\u2028": "↵", "\u2029": "↵"}


# -- what can be seen -------------------------------------------------------------------------


def visible(text: str) -> str:
    """The text with ⟨200B⟩ for a character that cannot be seen; line breaks and tabs stay.

    What emoji are made of stays too, and joiners where a script is spelt with them.
    """
    if not _UNSEEN.search(text):
        return text
    kept = _kept(text)
    return _UNSEEN.sub(lambda found: found[0] if found.start() in kept else _sign(found[0]), text)


def visible_pieces(pieces: Sequence[str]) -> list[str]:
    """The parts of one text, each as it is seen within the whole: together they are `visible` of it."""
    text = "".join(pieces)
    if not _UNSEEN.search(text):
        return list(pieces)
    kept, found, start = _kept(text), [], 0
    for piece in pieces:
        shown = (c if i in kept or not _UNSEEN.match(c) else _sign(c) for i, c in enumerate(piece, start))
        found.append("".join(shown))
        start += len(piece)
    return found


def one_line(text: str) -> str:
    """As `visible`, with ↵ and ⇥ for line breaks and tabs."""
    return in_line(visible(text))


def in_line(seen: str) -> str:
    """Visible text in one line."""
    return seen.translate(_BREAKS)


def token_line(token: str) -> str:
    """A token by itself in one line: · for each space where it is nothing but white space."""
    if not token.isspace():
        return one_line(token)
    return "".join(_SPACES.get(c) or _sign(c) for c in token)


def own_token(token: str) -> str:
    """A text's token by itself in one line: ▯ for one whose character stands with the token before."""
    return token_line(token) or "▯"


def _kept(text: str) -> set[int]:
    """Places of unseen characters that belong to what is seen."""
    emoji = {i for found in _EMOJI.finditer(text) for i in range(*found.span())}
    return emoji | {i.start() for i in _UNSEEN.finditer(text) if _spells(text, i.start(), i[0])}


def _spells(text: str, i: int, c: str) -> bool:
    """Whether a joiner, or a Mongolian selector, stands where its script needs one."""
    before, after = text[i - 1] if i else "", text[i + 1 : i + 2]
    if "\u180b" <= c <= "\u180f":
        return bool(_MONGOLIAN.match(before))
    if c not in _JOINERS or (before and before in _JOINERS) or (after and after in _JOINERS):
        return False
    if c == "\u200d":
        return _is_joined(before) or _is_joined(after)
    return _is_joined(before) and (_is_joined(after) or unicodedata.combining(before) == 9)  # a virama


def _is_joined(c: str) -> bool:
    return bool(_JOINED_SCRIPTS.match(c)) and unicodedata.category(c)[0] in "LM"


def _sign(c: str) -> str:
    return f"⟨{ord(c):02X}⟩"


# -- as HTML ----------------------------------------------------------------------------------


def escaped(text: str) -> str:
    """HTML text or the value of an attribute in quotes."""
    return html.escape(visible(text), quote=True)


def attribute(text: str) -> str:
    """The value of an attribute in quotes, in one line."""
    return html.escape(one_line(text), quote=True)


def with_breaks(seen: str) -> str:
    """HTML of visible text in which the style sheet marks each line break and tab."""
    escaped = html.escape(seen, quote=True).replace("\n", "<i class=mxt-n>\n</i>")
    return escaped.replace("\t", "<i class=mxt-tab>\t</i>")


def with_marks(seen: str) -> str:
    """As `with_breaks`; leading spaces are marked too."""
    bare = seen.lstrip(" ")
    return "<i> </i>" * (len(seen) - len(bare)) + with_breaks(bare)


def token_html(token: str) -> str:
    """A token by itself: as `with_marks`, but what is nothing but white space is written with · and ↵."""
    return html.escape(token_line(token)) if token.isspace() else with_marks(visible(token))
