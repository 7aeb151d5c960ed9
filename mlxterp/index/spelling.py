"""How windows of an index's texts are written: as the usual pieces of their tokens, where the tokenizer joins those.

Decoding each window is most of the time that examples take. Tokens that were once decoded to their usual pieces within
a text are remembered, and windows of such tokens are not decoded again; the others of one question are, together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.text import are_read_as
from .examples import Window

HALF = "\ufffd"


@dataclass(frozen=True, eq=False, slots=True)
class Place:
    """Tokens of a text that are to be shown.

    Attributes:
        shown: They.
        wider: Gives them with so many more tokens on both sides.
        text: The whole text.
    """

    shown: Window
    wider: Callable[[int], Window]
    text: str


class _Usual(dict[int, str]):
    """The text of each token id as it usually is."""

    def __missing__(self, token: int) -> str:
        return HALF


class Spelling:
    """Reads windows with one tokenizer.

    Args:
        tokenizer: None reads each place by itself.
        usual: The text of each token id as it usually is; `HALF` in it stands for half a character.
        alone: Reads a place by itself.
    """

    def __init__(self, tokenizer: Any, usual: Mapping[int, str], alone: Callable[[Place], Sequence[str]]):
        self._tokenizer, self._alone = tokenizer, alone
        self._usual = np.full(
            max(usual, default=-1) + 2, HALF, dtype=object
        )  # the last stands for all others
        self._usual[list(usual)] = list(usual.values())
        self._joined = np.zeros(len(self._usual), dtype=bool)
        self._begins: dict[int, str] = {}

    def of(
        self, windows: Sequence[np.ndarray], starts: Sequence[int], place: Callable[[int], Place]
    ) -> list[tuple[str, ...]]:
        """The text of each window's tokens.

        Args:
            windows: Token ids of each, at least one.
            starts: Position in its text of each one's first token.
            place: Gives a window by its number, with what is around it; asked for where one is read by itself.
        """
        ids = self._known_ids(np.concatenate(windows))
        usual, joined = self._usual[ids].tolist(), self._joined[ids].tobytes()
        found: list[tuple[str, ...] | None] = []
        unknown: list[tuple[int, slice, tuple[str, ...]]] = []
        end = 0
        for row, (window, start) in enumerate(zip(windows, starts, strict=True)):
            begin, end = end, end + len(window)
            pieces = tuple(usual[begin:end])
            known = joined.find(0, begin if start else begin + 1, end) < 0
            if known and not start:
                found.append(self._at_beginning(int(ids[begin]), pieces))
                continue
            found.append(pieces if known else None)
            if not known and start and not any(HALF in piece for piece in pieces):
                unknown.append((row, slice(begin, end), pieces))
        for row, pieces in self._read(ids, unknown):
            found[row] = pieces
        return [self._by_itself(place(row)) if pieces is None else pieces for row, pieces in enumerate(found)]

    def _known_ids(self, ids: np.ndarray) -> np.ndarray:
        return np.minimum(ids, len(self._usual) - 1)

    def _at_beginning(self, first: int, pieces: tuple[str, ...]) -> tuple[str, ...] | None:
        """The pieces of a text's beginning, where it is known how its first token is written there."""
        begin = self._begins.get(first)
        return None if begin is None else (begin, *pieces[1:])

    def _read(
        self, ids: np.ndarray, windows: Sequence[tuple[int, slice, tuple[str, ...]]]
    ) -> list[tuple[int, tuple[str, ...]]]:
        """Those of some windows within texts that are their usual pieces, by one look; all of them or none."""
        if not windows or self._tokenizer is None:
            return []
        own = np.concatenate([ids[part] for _, part, _ in windows])
        pieces = [piece for _, _, own in windows for piece in own]
        if not are_read_as(self._tokenizer, own.tolist(), pieces):
            return []
        self._joined[own[1:]] = True
        return [(row, own) for row, _, own in windows]

    def _by_itself(self, place: Place) -> tuple[str, ...]:
        """What one place is, alone; what a text begins with is remembered by its first token."""
        pieces = tuple(self._alone(place))
        ids = self._known_ids(place.shown.ids)
        usual = tuple(self._usual[ids].tolist())
        plain = pieces[1:] == usual[1:] and not any(HALF in piece for piece in (*pieces, *usual[:1]))
        if self._tokenizer is not None and place.shown.start == 0 and plain:
            self._begins[int(ids[0])] = pieces[0]
            self._joined[ids[1:]] = True
        return pieces
