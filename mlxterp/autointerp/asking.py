"""`Asker`: puts the questions of items to a judge, some at a time, and keeps every answer that came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from ..core.integers import is_integer, is_number
from ..errors import InputError
from .finished import Finished
from .judges import (
    PROBABILITIES,
    STRONGEST,
    CosineJudge,
    GainJudge,
    Judge,
    Question,
    StrengthJudge,
    tokens_so_far,
)
from .scorers import Item

_LIMITS = {
    PROBABILITIES: (0.0, 1.0), "strengths": (0.0, STRONGEST), "gains": (-np.inf, np.inf), "cosines": (-1.0, 1.0)
}  # fmt: skip
_SLACK = 1e-6
"""Beyond a limit that rounding may bring an answer."""


class Asker:
    """Asks a judge.

    Args:
        judge: Who is asked.
        size: Questions at a time.
        finished: Where answers are kept.

    Attributes:
        asked: Questions that were answered, now or in a call that this one goes on with.
        tokens: What the judge has read and written for them.
    """

    def __init__(self, judge: Judge, size: int, finished: Finished):
        self._judge, self._size, self._finished = judge, size, finished
        self.asked = 0
        self.tokens = (0, 0)

    def answers(self, key: str, items: Sequence[Item], kind: str) -> list[np.ndarray]:
        """What the judge says of each item: a number for each question, or of strengths one for each token.

        Args:
            key: Under which they are kept.
            kind: What is asked for: "probabilities", "strengths", "gains" or "cosines".

        Raises:
            InputError: The judge gives something else.
        """
        questions = [question for item in items for question in item.questions]
        found: list[np.ndarray] = []
        for start in range(0, len(questions), self._size):
            found += self._batch(f"{key}/{start}", questions[start : start + self._size], kind)
        if kind == "strengths":
            return found
        ends = np.cumsum([len(item.questions) for item in items])
        return np.split(np.concatenate(found), ends[:-1]) if found else []

    def _batch(self, key: str, questions: Sequence[Question], kind: str) -> list[np.ndarray]:
        if not _is_kept(self._finished.get(key), len(questions)):
            before = tokens_so_far(self._judge)
            given = self._ask(questions, kind)
            after = tokens_so_far(self._judge)
            self._finished.put(
                key,
                {
                    "answers": [[None if np.isnan(x) else x for x in one.tolist()] for one in given],
                    "tokens": [after[0] - before[0], after[1] - before[1]],
                },
            )
        known = self._finished.get(key)
        self.asked += len(questions)
        self.tokens = (self.tokens[0] + known["tokens"][0], self.tokens[1] + known["tokens"][1])
        return [np.array(one, dtype=np.float64) for one in known["answers"]]

    def _ask(self, questions: Sequence[Question], kind: str) -> list[np.ndarray]:
        judge: Any = self._judge
        if kind == "strengths":
            given = [
                np.asarray(one, dtype=np.float64) for one in cast(StrengthJudge, judge).strengths(questions)
            ]
            wanted = [(len(question.example.tokens),) for question in questions]
        else:
            whole = np.asarray(_numbers(judge, questions, kind), dtype=np.float64)
            if whole.shape != (len(questions),):
                raise InputError(
                    f"The judge {judge.name!r} gave shape {whole.shape} for {len(questions)} questions; expected"
                    f" one of its {kind}, or NaN, for each."
                )
            given, wanted = [whole[i : i + 1] for i in range(len(whole))], [(1,)] * len(questions)
        low, high = _LIMITS[kind]
        slack = 0.0 if kind == PROBABILITIES else _SLACK
        for one, shape in zip(given, wanted, strict=True):
            if (
                one.shape != shape
                or (one < low - slack).any()
                or (one > high + slack).any()
                or np.isinf(one).any()
            ):
                raise InputError(
                    f"The judge {judge.name!r} gave {one} as one of its {kind}; expected shape {shape} in"
                    f" [{low:g}, {high:g}], or NaN."
                )
        return given


def _is_kept(known: Any, questions: int) -> bool:
    """Whether answers to so many questions were kept; what a file holds otherwise is asked again."""
    if not isinstance(known, dict):
        return False
    answers, tokens = known.get("answers"), known.get("tokens")
    return (
        isinstance(answers, list)
        and len(answers) == questions
        and all(isinstance(one, list) and all(x is None or is_number(x) for x in one) for one in answers)
        and isinstance(tokens, list)
        and len(tokens) == 2
        and all(map(is_integer, tokens))
    )


def _numbers(judge: Any, questions: Sequence[Question], kind: str) -> Any:
    if kind == "gains":
        return cast(GainJudge, judge).gains(questions)
    if kind == "cosines":
        return cast(CosineJudge, judge).cosines(questions)
    return cast(Judge, judge).probabilities(questions)
