"""What an attribution graph explains: the likeliest tokens, tokens that are named, or directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ..core import checks
from ..core.frozen import FINAL, LOGITS, ReadAt
from ..core.integers import as_integer
from ..core.numeric import log_softmax
from ..core.texts import shown_ids
from ..data.text import TokenTexts
from ..errors import InputError
from ..tracing.objectives import LogitDifference, token_id


@dataclass(frozen=True, eq=False, slots=True)
class Target:
    """A number of the output that is explained.

    Attributes:
        name: The token's text, or what a direction is called.
        number: The token's id; for a direction, one beyond the vocabulary.
        of_token: Whether it is one token's logit.
        weight: The token's probability; for others, what was given.
        read: Where and along which direction it is read.
    """

    name: str
    number: int
    of_token: bool
    weight: float
    read: ReadAt


@dataclass(frozen=True, eq=False, slots=True)
class Output:
    """What targets are chosen among.

    Attributes:
        logits: float32, (vocabulary,): of the prompt's last position.
        position: That position.
        d_model: Width of directions.
        tokenizer: Of the model; None without one.
        before: Token ids of the prompt.
    """

    logits: np.ndarray
    position: int
    d_model: int
    tokenizer: Any
    before: list[int]

    def token(self, number: int) -> Target:
        """The logit of a token, less the mean of all."""
        size = len(self.logits)
        if not 0 <= number < size:
            raise InputError(f"targets= names token {number}; this model's vocabulary is [0, {size}).")
        text = TokenTexts(self.tokenizer).after(self.before, number)
        weight = float(np.exp(log_softmax(self.logits)[number]))
        return Target(text, number, True, weight, self._of_logits(_one(size, number) - np.float32(1 / size)))

    def difference(self, given: LogitDifference, name: str, number: int) -> Target:
        """One token's logit minus another's."""
        if given.position not in (-1, self.position):
            raise InputError(
                f"The logit difference is of position {given.position}; a graph explains the last position. Leave"
                " position= out."
            )
        size = len(self.logits)
        ids = [token_id(token, self.tokenizer) for token in (given.correct, given.wrong)]
        for found in ids:
            checks.integer(found, "a token of targets", 0, size - 1)
        correct, wrong = (TokenTexts(self.tokenizer).after(self.before, found) for found in ids)
        direction = _one(size, ids[0]) - _one(size, ids[1])
        return Target(name or f"{correct} − {wrong}", size + number, False, 1.0, self._of_logits(direction))

    def direction(self, given: Any, name: str, number: int) -> Target:
        """A direction of what the final norm puts out."""
        try:
            found = np.asarray(given, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise InputError(f"targets[{name!r}] is no direction of numbers: {error}") from error
        if found.shape != (self.d_model,) or not np.isfinite(found).all() or not found.any():
            raise InputError(
                f"targets[{name!r}] has shape {found.shape}; expected a direction of {self.d_model} finite numbers, not"
                " all 0, of what the final norm puts out; or a token, or mlxterp.logit_difference(…)."
            )
        read = ReadAt(FINAL, self.position, found)
        return Target(name, len(self.logits) + number, False, 1.0, read)

    def _of_logits(self, direction: np.ndarray) -> ReadAt:
        return ReadAt(LOGITS, self.position, direction.astype(np.float32))


def needs_final(given: Any) -> bool:
    """Whether a target is a direction, which is read after the final norm."""
    return isinstance(given, Mapping) and any(
        not isinstance(value, (str, LogitDifference)) and as_integer(value) is None
        for value in given.values()
    )


def targets_of(output: Output, given: Any, max_logits: int, logit_prob: float) -> list[Target]:
    """The targets, in the order given; None takes the likeliest tokens.

    Args:
        given: None; a token id, a text of one token or a logit difference; several of these; or {name: one of them or
            a direction (d_model,)}.
        max_logits: Tokens at most, where the likeliest are taken.
        logit_prob: As many as together reach this probability.

    Raises:
        InputError: Something else, a text of several tokens, a token twice, or none.
    """
    if given is None:
        return _likeliest(output, max_logits, logit_prob)
    if isinstance(given, Mapping):
        found = [_target(output, one, str(name), i) for i, (name, one) in enumerate(given.items())]
    else:
        single = isinstance(given, (str, LogitDifference)) or as_integer(given) is not None
        if not single and not isinstance(given, Iterable):
            raise InputError(f"targets= is {type(given).__name__}; expected tokens, or {{name: direction}}.")
        several: list[Any] = [given] if single else [*cast(Any, given)]
        found = [_target(output, one, "", i) for i, one in enumerate(several)]
    if not found:
        raise InputError("targets= is empty. Name at least one, or leave it out for the likeliest tokens.")
    numbers = [target.number for target in found]
    if twice := [n for n in numbers if numbers.count(n) > 1]:
        raise InputError(f"targets= names token {twice[0]} ({shown_ids([twice[0]])}) twice.")
    return found


def _target(output: Output, given: Any, name: str, number: int) -> Target:
    if isinstance(given, LogitDifference):
        return output.difference(given, name, number)
    if isinstance(given, str):
        return output.token(token_id(given, output.tokenizer))
    if (found := as_integer(given)) is not None:
        return output.token(found)
    if not name:
        raise InputError(
            f"An entry of targets= is {type(given).__name__}; expected a token id, a text of one token, or"
            " mlxterp.logit_difference(…). Directions have names: targets={'name': direction}."
        )
    return output.direction(given, name, number)


def _likeliest(output: Output, max_logits: int, logit_prob: float) -> list[Target]:
    most = checks.count(max_logits, "max_logits")
    share = checks.finite(logit_prob, "logit_prob", above=0.0, most=1.0)
    probabilities = np.exp(log_softmax(output.logits))
    order = np.argsort(-probabilities, kind="stable")[:most]
    needed = int(np.searchsorted(np.cumsum(probabilities[order]), share)) + 1
    return [output.token(int(token)) for token in order[:needed]]


def _one(size: int, place: int) -> np.ndarray:
    found = np.zeros(size, dtype=np.float32)
    found[place] = 1
    return found
