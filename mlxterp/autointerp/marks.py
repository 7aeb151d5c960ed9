"""Windows as a language model reads them: one line each, the tokens that count in << >>, and nothing ambiguous.

A window's own brackets and backslashes are escaped, so that a bare << or >> is always a mark, and no window can end
the fence that it stands in. `plain` undoes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np

from ..index.examples import FeatureExample

_OWN = {"\\": "\\\\", "<": "\\<", ">": "\\>", "\n": "\\n"}
_ESCAPE = re.compile(r"\\(u\{[0-9a-f]+\}|.)", re.DOTALL)
_STRONGEST = 10
"""What a window's, or a feature's, largest activation is written as."""


def line(text: str) -> str:
    """A text in one line: brackets, backslashes, line ends and what cannot be seen are written as escapes."""
    return "".join(_OWN.get(one) or (one if one.isprintable() else f"\\u{{{ord(one):x}}}") for one in text)


def plain(written: str) -> str:
    """The text that `line` wrote so."""

    def own(found: re.Match[str]) -> str:
        said = found[1]
        return chr(int(said[2:-1], 16)) if len(said) > 1 else {"n": "\n"}.get(said, said)

    return _ESCAPE.sub(own, written)


def whole(text: str) -> str:
    """A text that UTF-8 can hold: half characters (lone surrogates) become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def marked_line(tokens: Iterable[str], marks: Iterable[bool]) -> str:
    """Tokens in one line, each run of marked ones in << >>."""
    parts, inside = [], False
    for token, marked in zip(tokens, marks, strict=True):
        if bool(marked) != inside:
            parts.append(">>" if inside else "<<")
        inside = bool(marked)
        parts.append(line(token))
    return "".join(parts) + (">>" if inside else "")


def quoted(text: str) -> str:
    """A token in double quotes, in one line."""
    return '"' + line(text).replace('"', '\\"') + '"'


def strengths(example: FeatureExample, marks: np.ndarray, strongest: float) -> Iterator[str]:
    """Marked tokens with how strongly the feature fires, from 1 to 10, in their order.

    Args:
        strongest: The activation that is 10.
    """
    for token, value in zip(
        np.array(example.tokens, dtype=object)[marks], np.abs(example.activations[marks]), strict=True
    ):
        yield f"{quoted(str(token))} {int(np.clip(np.ceil(_STRONGEST * value / strongest), 1, _STRONGEST))}"
