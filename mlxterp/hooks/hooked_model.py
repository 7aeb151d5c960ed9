"""`HookedModel`: a language model whose every pass is changed and watched, by what is attached to it.

`InterpretableModel` runs one wherever an SAE or a hook is attached, or a `steer` block is open. It lives for one
call: it looks at what is attached when it is made, and tells watchers the texts once, also where a trace runs them
again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..core.continuations import Continuation, Piece
from ..core.sites import Array, Run, Site, SiteEdit, Where
from ..core.tokens import TokenBatch
from ..edits.compile import Change, Hooked, site_edits
from .watched_text import WatchedText, Watcher, decoded


@dataclass(frozen=True, eq=False, slots=True)
class Watch:
    """A watcher, at its place among changes: it sees what those before it left."""

    watcher: Watcher


Effect = Change | Watch


class HookedModel:
    """See `LanguageModel`; what is not about passes is the model's own.

    Args:
        effects: In order; they act before what a call brings itself.
        given: What was given to run, for the texts that watchers are told.
    """

    def __init__(self, anatomy: Anatomy, effects: Sequence[Effect], given: Any = None):
        self._anatomy, self._effects = anatomy, tuple(effects)
        self._watchers = [effect.watcher for effect in effects if isinstance(effect, Watch)]
        self._base, self._given = anatomy.model, given
        self._told = not self._watchers
        self.text: WatchedText | None = None
        """The text that is generated, where one is and somebody watches."""
        self._edits = site_edits(anatomy, self._changes())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)

    @property
    def described(self) -> tuple[str, ...]:
        """What changes the passes, in words that tell one change from another."""
        found = []
        for effect in self._effects:
            if not isinstance(effect, Watch):
                sae = getattr(effect, "sae", None)
                found.append(repr(effect) if sae is None else f"{effect!r} of SAE {sae.fingerprint[:12]}")
        return tuple(found)

    def _changes(self) -> list[Change]:
        return [
            Hooked(effect.watcher.component, self._showing(effect.watcher))
            if isinstance(effect, Watch)
            else effect
            for effect in self._effects
        ]

    def _showing(self, watcher: Watcher) -> Callable[[Array, Where], Array]:
        def show(x: Array, where: Where) -> Array:
            if where.lengths is None and self.text is not None:
                self.text.hold(watcher, x, where)
            elif not self._told and where.lengths is not None:
                watcher.see(x, where)
            return x

        return show

    # -- passes -------------------------------------------------------------------------------

    def forward(self, batch: TokenBatch) -> Array:
        """As `LanguageModel.forward`, with the changes."""
        if not self._edits:
            return self._base.forward(batch)
        logits = self.run(batch).logits
        assert logits is not None
        return logits

    def run(
        self, batch: TokenBatch, capture: Sequence[Site] = (), edits: Sequence[SiteEdit] = (), **options: Any
    ) -> Run:
        """As `LanguageModel.run`; the changes act before `edits`."""
        texts: list[str] | None = []
        tokens: list[list[int]] = []
        try:
            run = self._base.run(batch, capture, [*self._edits, *edits], **options)
            texts = self._texts(batch)
            tokens = [row[:n].tolist() for row, n in zip(batch.ids, batch.lengths, strict=True)]
        finally:
            self._tell(texts, tokens)
        return run

    def stream(
        self, prompt: Sequence[int], max_tokens: int, edits: Sequence[SiteEdit] = (), **options: Any
    ) -> Generator[tuple[int | None, str], None, None]:
        """As `LanguageModel.stream`; the changes act before `edits`."""
        pieces = self._base.stream(
            prompt, max_tokens, [*self.generating(prompt, max_tokens), *edits], **options
        )
        return pieces if self.text is None else self.text.watched(pieces)

    def generating(self, prompt: Sequence[int], max_tokens: int) -> list[SiteEdit]:
        """The changes as edits of a generation that begins now."""
        if not self._told:
            self.text = WatchedText(self._watchers, self._base.tokenizer, self._given, prompt, max_tokens)
            self._told = True  # by the text, at its end
        return site_edits(self._anatomy, self._changes(), generating=True)

    def stream_rows(self, rows: Sequence[Continuation], **options: Any) -> Generator[Piece, None, None]:
        """As `LanguageModel.stream_rows`; the changes act on every text. Watchers need `HookedRows`."""
        if self._watchers:
            raise RuntimeError("Several texts are watched by a HookedRows, which keeps them apart.")
        mine = site_edits(self._anatomy, self._changes(), generating=True)
        for row in rows:
            row.edits = [*mine, *row.edits]
        return self._base.stream_rows(rows, **options)

    def gradients(
        self,
        batch: TokenBatch,
        objective: Callable[[Array], Array],
        edits: Callable[[Mapping[str, Sequence[Array]]], Sequence[SiteEdit]],
        deltas: Mapping[str, Sequence[Array]],
    ) -> tuple[Array, dict[str, list[Array]]]:
        """As `LanguageModel.gradients`, with the changes before `edits`."""
        self._told = True
        return self._base.gradients(batch, objective, lambda given: [*self._edits, *edits(given)], deltas)

    def pullbacks(
        self,
        batch: TokenBatch,
        capture: Sequence[Site],
        value: Callable[[Run], Array],
        edits: Callable[[Sequence[Array]], Sequence[SiteEdit]],
        deltas: Sequence[Array],
        cotangents: Iterable[np.ndarray],
    ) -> Iterator[list[Array]]:
        """As `LanguageModel.pullbacks`, with the changes before `edits`."""
        self._told = True
        changed = lambda given: [*self._edits, *edits(given)]  # noqa: E731
        return self._base.pullbacks(batch, capture, value, changed, deltas, cotangents)

    # -- who watches --------------------------------------------------------------------------

    def _texts(self, batch: TokenBatch) -> list[str] | None:
        given = [self._given] if isinstance(self._given, str) else self._given
        if isinstance(given, (list, tuple)) and all(isinstance(text, str) for text in given):
            return [str(text) for text in given]
        found = [self._decoded(row[:n]) for row, n in zip(batch.ids, batch.lengths, strict=True)]
        return None if None in found else [text for text in found if text is not None]

    def _decoded(self, ids: Any) -> str | None:
        return decoded(self._base.tokenizer, ids)

    def _tell(self, texts: list[str] | None, tokens: Sequence[Sequence[int]]) -> None:
        if self._told:
            return
        self._told = True
        for watcher in self._watchers:
            watcher.finish(texts, tokens)


def with_effects(anatomy: Anatomy, effects: Sequence[Effect], given: Any = None) -> Anatomy:
    """The model's components, run with what acts; the same object where nothing does."""
    if not effects:
        return anatomy
    model: Any = HookedModel(anatomy, effects, given)
    return anatomy.run_by(model)
