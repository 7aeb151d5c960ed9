"""`HookedRows`: a language model that continues several texts, each changed and watched as if it were alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..anatomy.anatomy import Anatomy
from ..core.continuations import Continuation, Piece
from ..core.sites import SiteEdit
from ..edits.compile import site_edits
from .hooked_model import Effect, HookedModel, Watch


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

    def stream_rows(self, rows: Sequence[Continuation], **options: Any) -> Iterator[Piece]:
        """As `LanguageModel.stream_rows`; the changes act before the rows' own edits."""
        known: dict[tuple[int, ...], list[SiteEdit]] = {}
        watched: dict[int, HookedModel] = {}
        for number, (row, effects) in enumerate(zip(rows, self._effects, strict=True)):
            if any(isinstance(effect, Watch) for effect in effects):
                model = watched[number] = HookedModel(self._anatomy, effects, self._given[number])
                mine = model.generating(row.prompt, row.max_tokens)
            else:
                key = tuple(map(id, effects))
                if key not in known:
                    changes = [effect for effect in effects if not isinstance(effect, Watch)]
                    known[key] = site_edits(self._anatomy, changes, generating=True)
                mine = known[key]
            row.edits = [*mine, *row.edits]
        texts = {number: model.text for number, model in watched.items()}
        try:
            for piece in self._base.stream_rows(rows, **options):
                text = texts.get(piece.row)
                if text is not None:
                    text.took(piece.token, piece.text)
                    if piece.failure is not None:
                        text.failed()
                    elif piece.ended:
                        text.ended(enough=not rows[piece.row].wanted)
                yield piece
        finally:
            for text in texts.values():
                text.failed()
