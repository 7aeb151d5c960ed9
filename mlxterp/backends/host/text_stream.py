"""Text that each further token of a continuation adds, for any tokenizer with `decode`."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, Protocol

from ...core.quiet import quiet


class Detokenizer(Protocol):
    """Tokens in, text out; some of it only when the next token, or the end, is there."""

    def add(self, token: int) -> str: ...

    def finish(self) -> str: ...


def with_text(
    tokens: Iterable[int | None], text: Detokenizer, ends: set[int]
) -> Generator[tuple[int | None, str], None, None]:
    """Each token before the first of `ends`, with the text it adds; then (None, what was held back).

    Args:
        tokens: None is a pause in which nothing came yet.
    """
    for token in tokens:
        if token is None:
            yield None, ""
            continue
        if token in ends:
            break
        yield token, text.add(token)
    rest = text.finish()
    if rest:
        yield None, rest


class TextStream:
    """Tokens in, pieces of text out; the pieces add up to the continuation's text.

    A character is held back until all its tokens are there. One space at the very beginning is left out, as
    mlx-lm's own detokenizers do.

    Args:
        known: Text of one token and of two, kept for several streams of one tokenizer.
    """

    def __init__(self, tokenizer: Any, known: dict[tuple[int, ...], str] | None = None):
        self._tokenizer = tokenizer
        self._known = {} if known is None else known
        self._tokens: list[int] = []
        self._from = 0  # decoding starts here, so that long texts are not decoded again and again
        self._done = 0  # tokens before this one are already told
        self._begun = False

    def add(self, token: int) -> str:
        """The text that is ready with this token."""
        self._tokens.append(token)
        return self._advance(final=False)

    def finish(self) -> str:
        """What was still held back."""
        return self._advance(final=True)

    def _decoded(self, tokens: list[int]) -> str:
        key = tuple(tokens)
        text = self._known.get(key) if key else ""
        if text is None:
            with quiet:
                text = str(self._tokenizer.decode(tokens))
            if len(key) < 3:
                self._known[key] = text
        return text

    def _advance(self, final: bool) -> str:
        if self._tokenizer is None or self._done == len(self._tokens):
            return ""
        before = self._decoded(self._tokens[self._from : self._done])
        text = self._decoded(self._tokens[self._from :])
        unfinished = text.endswith("\ufffd") or len(text) <= len(before)
        if unfinished and not final:
            return ""
        self._from, self._done = self._done, len(self._tokens)
        piece = text[len(before) :]
        if not self._begun and piece:
            self._begun, piece = True, piece.removeprefix(" ")
        return piece
