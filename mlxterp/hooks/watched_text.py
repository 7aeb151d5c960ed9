"""Who watches: what sees the activations of a component, and how a text is shown that is still being generated."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from ..backends import backend_of
from ..core.sites import Array, Where
from ..data.text import decode


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


class WatchedText:
    """One text in generation, as watchers are shown it: each token that the next one needed, none that was read ahead.

    Args:
        given: The prompt as it was given, where it was a string.
    """

    def __init__(
        self, watchers: Sequence[Watcher], tokenizer: Any, given: Any, prompt: Sequence[int], max_tokens: int
    ):
        self._watchers, self._tokenizer, self._given = watchers, tokenizer, given
        self._prompt, self._max_tokens = list(prompt), max_tokens
        self._tokens: list[int] = []
        self._written = ""
        self._held: list[tuple[Watcher, Array, Where]] = []
        """The last pass, until it is known whether what it read is part of the text."""
        self._told = False

    def hold(self, watcher: Watcher, x: Array, where: Where) -> None:
        """Takes what a watcher is to see."""
        if self._told:
            return
        if self._held and self._held[0][2].positions[-1] < where.positions[-1]:
            self._show()
        self._held.append((watcher, backend_of(x).alias(x), where))

    def took(self, token: int | None, text: str) -> None:
        """The next piece of the continuation."""
        self._tokens += [] if token is None else [token]
        self._written += text

    def ended(self, enough: bool = False) -> None:
        """The text is whole; the watchers are told.

        Args:
            enough: Whether who reads the pieces ended it: then its last token was read ahead.
        """
        more = (
            not enough and len(self._tokens) < self._max_tokens
        )  # it ended by itself: its last token was read
        self._show(len(self._prompt) + len(self._tokens) - (not more))
        self._tell(self._whole(), [[*self._prompt, *self._tokens]])

    def failed(self) -> None:
        """The text came to nothing; the watchers are told so, unless it had ended."""
        self._held = []
        self._tell([], [])

    def watched(
        self, pieces: Iterator[tuple[int | None, str]]
    ) -> Generator[tuple[int | None, str], None, None]:
        """The pieces of a generation, each noted as it passes; closed before the first token, it came to nothing."""
        try:
            try:
                for token, text in pieces:
                    self.took(token, text)
                    yield token, text
            except GeneratorExit:  # who reads the pieces has enough
                if self._tokens:  # else the prompt was not read to its end
                    self.ended(enough=True)
                raise
            self.ended()
        finally:
            self.failed()

    def _show(self, end: int | None = None) -> None:
        """Shows the last pass, unless it read tokens from position `end` on."""
        held, self._held = self._held, []
        for watcher, x, where in held:
            if end is None or where.positions[-1] < end:
                watcher.see(x, where)

    def _whole(self) -> list[str] | None:
        """Prompt and continuation; what was written alone may lack the space between them."""
        before = decoded(self._tokenizer, self._prompt)
        both = decoded(self._tokenizer, [*self._prompt, *self._tokens])
        if before is None or both is None:
            return None
        first = self._given if isinstance(self._given, str) else before
        return [first + (both[len(before) :] if both.startswith(before) else self._written)]

    def _tell(self, texts: list[str] | None, tokens: Sequence[Sequence[int]]) -> None:
        if self._told:
            return
        self._told = True
        for watcher in self._watchers:
            watcher.finish(texts, tokens if texts else [])


def decoded(tokenizer: Any, ids: Any) -> str | None:
    """The text of token ids; None without a tokenizer."""
    return None if tokenizer is None else decode(tokenizer, np.asarray(ids))
