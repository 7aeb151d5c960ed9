"""`HookedModel`: a language model whose every pass is changed and watched, by what is attached to it.

`InterpretableModel` runs one wherever an SAE or a hook is attached, or a `steer` block is open. It lives for one
call: it looks at what is attached when it is made, and tells watchers the texts once, also where a trace runs them
again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..backends import backend_of
from ..core.sites import Array, Run, Site, SiteEdit, Where
from ..core.tokens import TokenBatch
from ..data.text import decode
from ..edits.compile import Change, Hooked, site_edits


class Watcher(Protocol):
    """Sees the activations of one component."""

    component: str

    def see(self, x: Array, where: Where) -> None:
        """One pass over texts, or over the next tokens of one text in generation (`where.lengths` is None).

        Args:
            x: Native, (batch, positions, …), beyond `where.lengths` undefined.
        """
        ...

    def finish(self, texts: Sequence[str] | None, tokens: Sequence[Sequence[int]]) -> None:
        """The texts of the passes since the last time; None where the model has no tokenizer.

        Called once for each call of the model, also where it failed, then with empty lists.

        Args:
            tokens: The ids of each text, at least of all tokens that were seen.
        """
        ...


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
        self._held: list[tuple[Watcher, Array, Where]] = []
        """In generation the last pass, until it is known whether what it read is part of the text."""
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
            if not self._told and where.lengths is not None:
                watcher.see(x, where)
            elif not self._told:
                self._hold(watcher, x, where)
            return x

        return show

    def _hold(self, watcher: Watcher, x: Array, where: Where) -> None:
        if self._held and self._held[0][2].positions[-1] < where.positions[-1]:
            self._show_held()
        self._held.append((watcher, backend_of(x).alias(x), where))

    def _show_held(self, end: int | None = None) -> None:
        """Shows the last pass, unless it read tokens from position `end` on."""
        held, self._held = self._held, []
        for watcher, x, where in held:
            if end is None or where.positions[-1] < end:
                watcher.see(x, where)

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
    ) -> Iterator[tuple[int | None, str]]:
        """As `LanguageModel.stream`; the changes act before `edits`."""
        mine = site_edits(self._anatomy, self._changes(), len(prompt))
        pieces = self._base.stream(prompt, max_tokens, [*mine, *edits], **options)
        return self._watched(pieces, prompt, max_tokens) if self._watchers else pieces

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

    # -- who watches --------------------------------------------------------------------------

    def _watched(
        self, pieces: Iterator[tuple[int | None, str]], prompt: Sequence[int], max_tokens: int
    ) -> Iterator[tuple[int | None, str]]:
        """The pieces; each token is shown that the next one needed, and none that a wing read ahead."""
        tokens: list[int] = []
        written = ""
        texts: list[str] | None = []
        try:
            try:
                for token, text in pieces:
                    tokens += [] if token is None else [token]
                    written += text
                    yield token, text
                more = len(tokens) < max_tokens  # it ended before, so the last token was read
            except GeneratorExit:  # who reads the pieces has enough
                self._show_held(len(prompt) + len(tokens) - 1)
                texts = self._written(prompt, tokens, written)
                raise
            self._show_held(len(prompt) + len(tokens) - (not more))
            texts = self._written(prompt, tokens, written)
        finally:
            self._tell(texts, [[*prompt, *tokens]] if texts else [])

    def _written(self, prompt: Sequence[int], tokens: Sequence[int], text: str) -> list[str] | None:
        """Prompt and continuation; `text`, the continuation alone, may lack the space between them."""
        before, both = self._decoded(prompt), self._decoded([*prompt, *tokens])
        if before is None or both is None:
            return None
        first = self._given if isinstance(self._given, str) else before
        return [first + (both[len(before) :] if both.startswith(before) else text)]

    def _texts(self, batch: TokenBatch) -> list[str] | None:
        given = [self._given] if isinstance(self._given, str) else self._given
        if isinstance(given, (list, tuple)) and all(isinstance(text, str) for text in given):
            return [str(text) for text in given]
        found = [self._decoded(row[:n]) for row, n in zip(batch.ids, batch.lengths, strict=True)]
        return None if None in found else [text for text in found if text is not None]

    def _decoded(self, ids: Any) -> str | None:
        tokenizer = self._base.tokenizer
        return None if tokenizer is None else decode(tokenizer, np.asarray(ids))

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
