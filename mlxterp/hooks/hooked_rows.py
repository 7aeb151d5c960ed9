"""`HookedRows`: a language model that continues several texts, each changed and watched as if it were alone."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any

from ..anatomy.anatomy import Anatomy
from ..core.continuations import Continuation, Piece
from ..core.sites import SiteEdit
from ..edits.compile import site_edits
from .hooked_model import Effect, HookedModel, Watch
from .watched_text import WatchedText


class HookedRows:
    """See `LanguageModel`; only `stream_rows` is changed.

    Args:
        effects: Of each text, in order; texts that share an edit hold the very same object.
        given: Each prompt as it was given, for the texts that watchers are told.
    """

    def __init__(self, anatomy: Anatomy, effects: Sequence[Sequence[Effect]], given: Sequence[Any]):
        self._anatomy, self._base = anatomy, anatomy.model
        self._effects, self._given = effects, given

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)

    def stream_rows(self, rows: Sequence[Continuation], **options: Any) -> Generator[Piece, None, None]:
        """As `LanguageModel.stream_rows`; the changes act before the rows' own edits.

        Watchers are told of the texts in order, whichever ends first.
        """
        watched = _Watched()
        try:
            known: dict[tuple[int, ...], list[SiteEdit]] = {}
            for number, (row, effects) in enumerate(zip(rows, self._effects, strict=True)):
                row.edits = [*self._edits(number, row, effects, known, watched), *row.edits]
            with closing(self._base.stream_rows(rows, **options)) as pieces:
                for piece in pieces:
                    watched.took(piece)
                    yield piece
                    if not piece.ended and not rows[piece.row].wanted:
                        watched.enough.add(piece.row)
        finally:
            watched.close()

    def _edits(
        self,
        number: int,
        row: Continuation,
        effects: Sequence[Effect],
        known: dict[tuple[int, ...], list[SiteEdit]],
        watched: _Watched,
    ) -> list[SiteEdit]:
        """What acts on one text."""
        if any(isinstance(effect, Watch) for effect in effects):
            model = HookedModel(self._anatomy, effects, self._given[number])
            mine = model.generating(row.prompt, row.max_tokens)
            if model.text is not None:
                watched.texts[number] = model.text
            return mine
        key = tuple(map(id, effects))
        if key not in known:
            changes = [effect for effect in effects if not isinstance(effect, Watch)]
            known[key] = site_edits(self._anatomy, changes, generating=True)
        return known[key]


class _Watched:
    """The texts that are watched: each is told when all before it are."""

    def __init__(self) -> None:
        self.texts: dict[int, WatchedText] = {}
        self.enough: set[int] = set()
        """Texts that who reads the pieces has ended."""
        self._over: dict[int, bool] = {}
        """Whether a text that is over came to something."""

    def took(self, piece: Piece) -> None:
        """Notes the next piece, and tells what can be told."""
        text = self.texts.get(piece.row)
        if text is None:
            return
        text.took(piece.token, piece.text)
        if piece.ended:
            self._over[piece.row] = piece.failure is None
            while self.texts and (first := next(iter(self.texts))) in self._over:
                self._tell(first)

    def close(self) -> None:
        """Tells the rest; texts that are not over came to nothing."""
        for number in list(self.texts):
            self._tell(number)

    def _tell(self, number: int) -> None:
        text = self.texts.pop(number)
        if self._over.get(number, False):
            text.ended(enough=number in self.enough)
        else:
            text.failed()
