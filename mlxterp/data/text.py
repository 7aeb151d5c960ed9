"""Text on the way out of a model: token ids as text, whole or piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..core.quiet import quiet
from ..core.texts import as_array, shown_ids, token_row
from ..errors import InputError

_LONGEST_CHARACTER = 6
"""Tokens that are joined at most to find a whole character; UTF-8 has at most 4 bytes, some begin with a space."""
_BYTES = 4
"""Bytes of a character, at most: so many tokens back decide what a token's bytes mean."""
_HALF = "\ufffd"
"""What decoding leaves of half a character; texts may hold it too."""


def token_after(tokenizer: Any, before: list[int], token: int) -> str:
    """The text of a token as it appears after others (a leading space is kept)."""
    with quiet:
        return _after(_decoder(tokenizer), before, [token])


class TokenTexts:
    """Texts of single tokens as they stand after others, each asked for once."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._known: dict[tuple[int, ...], str] = {}

    def after(self, before: Sequence[int], token: int) -> str:
        """Its number, as "#17", where there is no tokenizer or it knows no such token."""
        key = (*before, token)
        if key not in self._known:
            text = "" if self._tokenizer is None else token_after(self._tokenizer, [*before], token)
            self._known[key] = text or shown_ids([token])
        return self._known[key]


def pieces_of(tokenizer: Any, ids: Sequence[int], likely: Sequence[str] = ()) -> tuple[str, ...]:
    """The text of each token as it appears after those before it; together they are what the tokens decode to.

    A character that is spread over several tokens stands with the first of them, and the others are "". Without a
    tokenizer each is its number, as "#17".

    Args:
        likely: The text of each token as it usually is. Where these join to the whole, they are the answer, which saves
            decoding it token by token.
    """
    if tokenizer is None:
        return tuple(shown_ids([token]) for token in ids)
    ids = [int(i) for i in ids]
    decoded = _decoder(tokenizer)
    with quiet:
        whole = decoded(ids)
        if likely and "".join(likely) == whole and _HALF not in whole:
            return tuple(likely)
        pieces = _by_characters(decoded, ids)
        return tuple(pieces if "".join(pieces) == whole else _by_prefixes(decoded, ids, whole))


def are_read_as(tokenizer: Any, ids: Sequence[int], pieces: Sequence[str]) -> bool:
    """Whether tokens decode to what each usually is, but for a space at the beginning, and none is half a character.

    One look at many tokens, in place of `pieces_of` for each few of them.
    """
    said = "".join(pieces)
    if _HALF in said:
        return False
    decoded = _decoder(tokenizer)
    ids = [int(i) for i in ids]
    with quiet:
        whole = decoded(ids)
        return whole == said or whole == decoded(ids[:1]) + said[len(pieces[0]) :]


def pieces_in(text: str, pieces: Sequence[str]) -> list[str] | None:
    """The text of each of a text's tokens, where only the pieces of their ids are known.

    What is half a character by itself gets its characters from the text: each stands with the token that it is likely
    to begin in, and the others are "". Tokens before the text (a beginning-of-text token) keep their piece. None where
    the pieces do not make the text, as those of a tokenizer that changes it.
    """
    found, at, i = list(pieces), 0, 0
    while i < len(found):
        if _HALF not in found[i]:
            if text.startswith(found[i], at):
                at += len(found[i])
            elif at == 0 and found[i].startswith(" ") and text.startswith(found[i][1:]):
                found[i] = found[i][1:]
                at = len(found[i])
            elif at:
                return None
            i += 1
            continue
        stop = next((j for j in range(i, len(found)) if _HALF not in found[j]), len(found))
        more = next((j for j in range(stop, len(found)) if _HALF in found[j]), len(found))
        after = "".join(found[stop:more])
        room = range(at + 1, min(at + _LONGEST_CHARACTER * (stop - i), len(text)) + 1)
        ends = (end for end in room if text.startswith(after, end)) if after else reversed(room)
        if (end := next(ends, None)) is None:
            return None
        found[i:stop] = _shared_out(text[at:end], stop - i)
        at, i = end, stop
    return found if at == len(text) else None


def _shared_out(text: str, tokens: int) -> list[str]:
    """Each character with one of the tokens that make the text, by its place among the bytes."""
    found, before = [""] * tokens, 0
    size = len(text.encode("utf-8", "surrogatepass"))
    for character in text:
        found[before * tokens // size] += character
        before += len(character.encode("utf-8", "surrogatepass"))
    return found


Decoded = Callable[[list[int]], str]


def _decoder(tokenizer: Any) -> Decoded:
    """The tokenizer's `decode`, without removing spaces before punctuation where it would."""
    if not getattr(tokenizer, "clean_up_tokenization_spaces", False):
        return tokenizer.decode
    return lambda ids: tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def _by_characters(decoded: Decoded, ids: list[int]) -> list[str]:
    """Pieces, from few tokens at a time: each is the fewest that make whole characters."""
    found: list[str] = []
    starts: list[int] = []  # of the pieces
    while (start := len(found)) < len(ids):
        context = next((s for s in reversed(starts) if start - s >= _BYTES), 0)
        before, rest = ids[context:start], ids[start:]
        size, piece = 1, _after(decoded, before, rest[:1])
        for longer in range(1, min(_LONGEST_CHARACTER, len(rest)) + 1):
            joined = piece if longer == 1 else _after(decoded, before, rest[:longer])
            if _is_whole(decoded, before, rest, longer, joined):
                size, piece = longer, joined
                break
        starts.append(start)
        found += [piece, *[""] * (size - 1)]
    return found


def _is_whole(decoded: Decoded, before: list[int], rest: list[int], size: int, joined: str) -> bool:
    """Whether what follows these tokens leaves their text as it is."""
    if not joined.endswith(_HALF):
        return True
    longer = range(size + 1, min(size + _BYTES, len(rest) + 1))
    return all(_after(decoded, before, rest[:n]).startswith(joined) for n in longer)


def _by_prefixes(decoded: Decoded, ids: list[int], whole: str) -> list[str]:
    """Pieces of tokens that belong to no text: each is what it adds to the part of the whole that stands fast."""
    found, begun, start, end = [""] * len(ids), 0, 0, 0
    for i in range(len(ids)):
        text = decoded(ids[: i + 1])
        end = max(end, _same(text, whole)) if i + 1 < len(ids) else len(whole)
        found[begun] += whole[start:end]
        if len(text) <= end:  # no half character at its end
            begun = i + 1
        start = end
    return found


def _same(text: str, whole: str) -> int:
    """Characters that two texts begin with alike."""
    if whole.startswith(text):
        return len(text)
    return next((i for i, (a, b) in enumerate(zip(text, whole, strict=False)) if a != b), len(whole))


def _after(decoded: Decoded, before: list[int], ids: list[int]) -> str:
    if not before:
        return decoded(ids)
    prefix, both = decoded(before), decoded([*before, *ids])
    return both[len(prefix) :] if both.startswith(prefix) else decoded(ids)


def decode(tokenizer: Any, tokens: Any, vocab_size: int | None = None) -> str:
    """The text of token ids given as an integer, a list or an array (positions,) or (1, positions).

    Args:
        vocab_size: Where known, ids are checked to lie in [0, vocab_size).

    Raises:
        InputError: Something else, or an id outside the vocabulary.
    """
    array = as_array(tokens, "What is to decode")
    if array.dtype.kind not in "iu" or array.squeeze().ndim > 1:
        raise InputError(f"decode takes token ids of one text, got {array.dtype} of shape {array.shape}.")
    row = token_row(array.reshape(-1), "What is to decode", vocab_size)
    with quiet:
        return tokenizer.decode(row.tolist())
