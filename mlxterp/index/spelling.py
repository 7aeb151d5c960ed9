"""How windows of an index's texts are written: as the usual pieces of their tokens, where the tokenizer joins those.

Decoding each window is most of the time that examples take. Tokens that were once decoded to their usual pieces within
a text are remembered, and windows of such tokens are not decoded again; the others of one question are, together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


class Spelling:
    """Reads windows with one tokenizer.

    Args:
        tokenizer: None reads each place by itself.
        usual: The text of each token id as it usually is; `HALF` in it stands for half a character.
        alone: Reads a place by itself.
    """

    def __init__(self, tokenizer: Any, usual: Mapping[int, str], alone: Callable[[Place], Sequence[str]]):
        self._tokenizer, self._usual, self._alone = tokenizer, usual, alone
        self._joined: set[int] = set()
        self._begins: dict[int, str] = {}

    def of(self, places: Sequence[Place]) -> list[tuple[str, ...]]:
        """The text of each place's tokens."""
        found: list[tuple[str, ...] | None] = []
        unknown: list[tuple[int, list[int], tuple[str, ...]]] = []
        for place in places:
            ids = place.shown.ids.tolist()
            pieces = self._pieces(ids)
            found.append(self._known(ids, pieces, place.shown.start))
            if found[-1] is None and place.shown.start and not any(HALF in piece for piece in pieces):
                unknown.append((len(found) - 1, ids, pieces))
        for row, pieces in self._read(unknown):
            found[row] = pieces
        return [self._by_itself(place) if pieces is None else pieces
                for place, pieces in zip(places, found, strict=True)]  # fmt: skip

    def _pieces(self, ids: list[int]) -> tuple[str, ...]:
        get = self._usual.get
        return tuple([get(token, HALF) for token in ids])

    def _known(self, ids: list[int], pieces: tuple[str, ...], start: int) -> tuple[str, ...] | None:
        if not self._joined.issuperset(ids if start else ids[1:]):
            return None
        if start:
            return pieces
        begin = self._begins.get(ids[0])
        return None if begin is None else (begin, *pieces[1:])

    def _read(
        self, windows: Sequence[tuple[int, list[int], tuple[str, ...]]]
    ) -> list[tuple[int, tuple[str, ...]]]:
        """Those of some windows within texts that are their usual pieces, by one look; all of them or none."""
        ids = [token for _, own, _ in windows for token in own]
        pieces = [piece for _, _, own in windows for piece in own]
        if not ids or self._tokenizer is None or not are_read_as(self._tokenizer, ids, pieces):
            return []
        self._joined.update(ids[1:])
        return [(row, own) for row, _, own in windows]

    def _by_itself(self, place: Place) -> tuple[str, ...]:
        """What one place is, alone; what a text begins with is remembered by its first token."""
        pieces = tuple(self._alone(place))
        ids = place.shown.ids.tolist()
        usual = self._pieces(ids)
        plain = pieces[1:] == usual[1:] and not any(HALF in piece for piece in (*pieces, *usual[:1]))
        if self._tokenizer is not None and place.shown.start == 0 and plain:
            self._begins[ids[0]] = pieces[0]
            self._joined.update(ids[1:])
        return pieces
