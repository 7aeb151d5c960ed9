"""Objectives for `model.gradients`: numbers computed from the logits.

They are summed in float32 at least: in a model's 16 bits a difference over a few dozen texts is off by a third.
"""

from __future__ import annotations

from typing import Any

from ..backends import backend_of
from ..core import checks
from ..core.options import names_options
from ..core.sites import Array
from ..core.tokens import TokenBatch, encode_bare
from ..errors import InputError

__all__ = ["LogitDifference", "logit_difference"]


@names_options
def logit_difference(correct: int | str, wrong: int | str, position: int = -1) -> LogitDifference:
    """The logit of one token minus that of another, summed over the texts of a batch (in float32).

    Args:
        correct: A token id, or text that is one token.
        wrong: Likewise.
        position: Whose prediction is meant; negative ones count from each text's own end.

    Examples:
        >>> she = mlxterp.logit_difference(" she", " he")
        >>> found = model.gradients("Lily lost her ball because", she, "layers.1.resid_post")
        >>> tuple(found["layers.1.resid_post"].shape)
        (1, 6, 192)
    """
    return LogitDifference(correct, wrong, position)


class LogitDifference:
    """A function of logits (batch, positions, vocabulary), made by `logit_difference`."""

    def __init__(self, correct: int | str, wrong: int | str, position: int):
        self.correct, self.wrong = token_given(correct, "correct"), token_given(wrong, "wrong")
        self.position = checks.integer(position, "position")
        self._rows: list[int] | None = None

    def bind(self, batch: TokenBatch, tokenizer: Any) -> LogitDifference:
        """The same objective for these texts: token texts become ids, ends become each text's own."""
        bound = LogitDifference(
            token_id(self.correct, tokenizer), token_id(self.wrong, tokenizer), self.position
        )
        rows = [int(n) + self.position if self.position < 0 else self.position for n in batch.lengths]
        for i, (row, n) in enumerate(zip(rows, batch.lengths, strict=True)):
            if not 0 <= row < n:
                raise InputError(f"Position {self.position} is outside text {i}, which has {n} tokens.")
        bound._rows = rows
        return bound

    def __call__(self, logits: Array) -> Array:
        if isinstance(self.correct, str) or isinstance(self.wrong, str):
            raise InputError("A LogitDifference of texts needs model.gradients to look up their ids.")
        vocabulary = logits.shape[-1]
        for token in (self.correct, self.wrong):
            if not 0 <= token < vocabulary:
                raise InputError(f"Token id {token} is outside this model's vocabulary [0, {vocabulary}).")
        rows = self._rows or [self.position] * logits.shape[0]
        for row in rows:
            if not -logits.shape[1] <= row < logits.shape[1]:
                raise InputError(f"Position {row} is outside these logits, of {logits.shape[1]} positions.")
        widen = backend_of(logits).widen
        terms = [
            widen(logits[i, row, self.correct]) - widen(logits[i, row, self.wrong])
            for i, row in enumerate(rows)
        ]
        return sum(terms[1:], terms[0])


def token_given(given: Any, name: str) -> int | str:
    """A token as users name it: its id, or its text.

    Raises:
        InputError: It is neither.
    """
    if isinstance(given, str):
        return given
    return checks.count(given, name, 0, hint="It is a token id, or text that is one token.")


def token_id(token: int | str, tokenizer: Any) -> int:
    """The id of a token that was named by its id or its text.

    Raises:
        InputError: The text is not exactly one token, or there is no tokenizer.
    """
    if not isinstance(token, str):
        return int(token)
    if tokenizer is None:
        raise InputError(f"{token!r} needs a tokenizer; give a token id instead.")
    ids = encode_bare(tokenizer, token)
    if len(ids) != 1:
        spaced = f" {token}"
        one = bool(ids) and not token.startswith(" ") and len(encode_bare(tokenizer, spaced)) == 1
        hint = f" {spaced!r}, as within a sentence, is one." if one else ""
        raise InputError(f"{token!r} is {len(ids)} tokens ({ids}); expected text that is exactly one.{hint}")
    return ids[0]
