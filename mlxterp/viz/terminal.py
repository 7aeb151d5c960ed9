"""What the command line writes: plain where it is no terminal or NO_COLOR is set, never more than a text asked for.

Texts reach the screen as `rich.text.Text`, never as markup, and what cannot be seen in them is made visible.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ..core.quiet import quiet_loading
from ..errors import MlxterpWarning
from .escaping import in_line, one_line, token_line, visible_pieces

MARK = "bold black on orange1"
_PROSE = 100
"""Width of paragraphs, at most."""
_LONG_WORD = 12


class Screen(Console):
    """Standard output, in lines."""

    def __init__(self) -> None:
        plain = bool(os.environ.get("NO_COLOR"))
        super().__init__(markup=False, highlight=False, emoji=False, color_system=None if plain else "auto")

    def on_broken_pipe(self) -> None:
        """The reader has gone: `main` ends without a word."""
        raise BrokenPipeError

    @property
    def colored(self) -> bool:
        """Whether colours are shown."""
        return self.color_system is not None

    def write_line(self, text: str | Text = "", style: str = "", indent: int = 0) -> None:
        """A line; a terminal's width wraps it."""
        self._wrapped(text, style, indent, self.width if self.is_terminal else None)

    def say(self, text: str, style: str = "", indent: int = 0) -> None:
        """A paragraph, in lines that are easy to read."""
        self._wrapped(text, style, indent, min(self.width, _PROSE) if self.is_terminal else _PROSE)

    def _wrapped(self, text: str | Text, style: str, indent: int, width: int | None) -> None:
        shown = Text(one_line(text), style) if isinstance(text, str) else text
        for part in [shown] if width is None else shown.wrap(self, max(width - indent, 20)):
            part.rstrip()
            self.print(Text(" " * indent) + part, soft_wrap=True)

    def ansi(self, text: str) -> None:
        """Lines of a view's own terminal form."""
        for line in text.split("\n"):
            self.write_line(Text.from_ansi(line))

    def json(self, value: Any) -> None:
        """JSON in ASCII, indented."""
        self.print(json.dumps(value, indent=2), soft_wrap=True)

    def snippet(self, before: str, token: str, after: str, indent: int = 0) -> Text:
        """A token among its neighbours, in one line: marked by colour or by brackets, cut to a terminal's width."""
        left, token, right = visible_pieces([before.lstrip(" "), token, after])
        bare = token.lstrip(" ") or token
        left, right = in_line(left + token[: len(token) - len(bare)]), in_line(right)
        bare = token_line(bare) if bare.isspace() else in_line(bare)
        mark = Text(bare, MARK) if self.colored else Text(f"[{bare}]")
        if self.is_terminal:
            room = max(self.width - indent - mark.cell_len, 8)
            space = max(room - cell_len(right), room * 3 // 5)
            left = _last(left, space)
            right = _first(right, room - cell_len(left))
        return Text(left) + mark + Text(right)


def complain(message: str) -> None:
    """One line on standard error, above a progress bar where there is one."""
    from tqdm import tqdm

    tqdm.write(one_line(f"mlxterp: {' '.join(message.split())}"), file=sys.stderr)


@contextmanager
def notes() -> Iterator[None]:
    """Each warning is one line on standard error, once: "mlxterp: note: …"."""
    seen: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in seen:
            seen.add(str(message))
            complain(f"note: {message}")

    with warnings.catch_warnings(), quiet_loading():
        warnings.simplefilter("always", MlxterpWarning)
        warnings.showwarning = show
        yield


def around(tokens: Sequence[str], peak: int) -> tuple[str, str, str]:
    """What stands before a token, the token, and what stands after it.

    A token that only finishes a character belongs to the one that begins it.
    """
    while peak and not tokens[peak]:
        peak -= 1
    return "".join(tokens[:peak]), tokens[peak], "".join(tokens[peak + 1 :])


def _first(text: str, cells: int) -> str:
    """The beginning, with … where something is cut off."""
    shown = Text(text)
    shown.truncate(max(cells, 1), overflow="ellipsis")
    return shown.plain


def _last(text: str, cells: int) -> str:
    """The end, likewise."""
    if cell_len(text) <= cells:
        return text
    kept = text[-max(cells - 1, 1) :]
    while cell_len(kept) >= max(cells, 2):
        kept = kept[1:]
    word = kept.find(" ")  # begins in the middle of a word
    return "…" + kept[word if 0 < word < _LONG_WORD else 0 :]
