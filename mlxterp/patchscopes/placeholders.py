"""The token of a prompt whose activation is replaced: found in a text, or chosen so that it is one token.

A placeholder must be a token of its own: what is put in the place of half a word says nothing of the word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..core import checks
from ..core.integers import as_integer
from ..data.text import pieces_of
from ..errors import InputError

NAMED = ("X", "x")
"""What is taken for a placeholder in a prompt where none is named, after the tokenizer's unknown token."""
CANDIDATES = (*NAMED, "Z", "Y", "?", "_", "#", "*")
"""What is tried in the package's own questions."""


def unknown_token(tokenizer: Any) -> str | None:
    """The tokenizer's token for unknown text; None where it has none, or only one that means something else too."""
    found = getattr(tokenizer, "unk_token", None)
    return found if isinstance(found, str) and "unk" in found.lower() else None


def named_placeholder(given: Any) -> str | int | None:
    """A placeholder as users give it: a text, a token id, or None.

    Raises:
        InputError: It is something else, or empty.
    """
    if given is None or as_integer(given) is not None:
        return None if given is None else checks.integer(given, "placeholder", 0)
    if not isinstance(given, str) or not given.strip():
        raise InputError(
            f"placeholder is {given!r}; it must be a text that is one token, such as 'X', or a token id."
        )
    return given.strip()


def positions_of(tokenizer: Any, ids: Sequence[int], placeholder: str | int) -> tuple[int, ...]:
    """Where a placeholder stands among token ids.

    Raises:
        InputError: It is not there, or somewhere it is more or less than one token.
    """
    if isinstance(placeholder, int):
        found = tuple(i for i, token in enumerate(ids) if token == placeholder)
        if not found:
            raise InputError(
                f"The placeholder, token {placeholder}, is not in the prompt. {_tokens(tokenizer, ids)}"
            )
        return found
    if tokenizer is None:
        raise InputError(
            f"placeholder={placeholder!r} is a text, and this model has no tokenizer. Give a token id of the prompt."
        )
    pieces = pieces_of(tokenizer, ids)
    found = tuple(i for i, piece in enumerate(pieces) if piece.strip() == placeholder)
    there = occurrences("".join(pieces), placeholder)
    if not found and not there:
        raise InputError(
            f"The prompt holds no placeholder {placeholder!r}. Put it where the vector is to stand, or name the one"
            f" that is there with placeholder=. {_tokens(tokenizer, ids)}"
        )
    if len(found) != there:
        raise InputError(
            f"The placeholder {placeholder!r} stands {_times(there)} in the prompt, and is a token of its own"
            f" {_times(len(found))}. Take one that is one token everywhere, such as 'X' between spaces or quotes."
            f" {_tokens(tokenizer, ids)}"
        )
    return found


def found_placeholder(tokenizer: Any, ids: Sequence[int]) -> str:
    """The placeholder of a prompt for which none was named.

    Raises:
        InputError: There is none, or no tokenizer to find it with.
    """
    if tokenizer is None:
        raise InputError("This model has no tokenizer: name the placeholder by its token id, placeholder=17.")
    known = [one for one in (unknown_token(tokenizer), *NAMED) if one is not None]
    text = "".join(pieces_of(tokenizer, ids))
    for placeholder in known:
        if occurrences(text, placeholder):
            return placeholder
    raise InputError(
        f"The prompt holds none of {', '.join(map(repr, known))}, which stand for what is asked about. Put one of them"
        f" there, or name another with placeholder=. {_tokens(tokenizer, ids)}"
    )


def occurrences(text: str, placeholder: str) -> int:
    """How often a placeholder stands in a text as a word of its own."""
    before = r"(?<!\w)" if re.match(r"\w", placeholder) else ""
    after = r"(?!\w)" if re.search(r"\w$", placeholder) else ""
    return len(re.findall(f"{before}{re.escape(placeholder)}{after}", text))


def _times(n: int) -> str:
    return "once" if n == 1 else "never" if n == 0 else f"{n} times"


def _tokens(tokenizer: Any, ids: Sequence[int]) -> str:
    shown = [*pieces_of(tokenizer, list(ids)[:60])]
    return f"Its tokens: {'|'.join(shown)}{'|…' if len(ids) > 60 else ''}"
