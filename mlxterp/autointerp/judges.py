"""Who judges: questions about windows of text in, probabilities out. None of these asks a language model.

A judge is anything with a `name` and `probabilities`. What it cannot answer is NaN, and counted as failed. Some can do
more: a `StrengthJudge` says how strongly a feature fires on each token, a `GainJudge` how much easier a text is to
foretell after the explanation, a `CosineJudge` how near their embeddings are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..errors import InputError
from ..features.embeddings import check_embed, unit_embeddings
from ..index.examples import FeatureExample

PROBABILITIES = "probabilities"
"""What every judge can be asked for."""
STRONGEST = 10.0
"""The largest strength on a token in a simulation."""
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_WORD = re.compile(r"\w+|[^\w\s]", re.UNICODE)


@dataclass(frozen=True, eq=False, slots=True)
class Question:
    """One thing that a judge is asked: whether a window fits.

    Attributes:
        task: "detection": does the feature fire in this window? "fuzzing": are the marked tokens those that it fires
            on? "intruder": is this window the one that does not belong with the others? "simulation": how strongly does
            it fire on each token? "surprisal" and "embedding": how much does the explanation say of this window?
        explanation: What the feature is said to mean; "" for an intruder.
        example: The window. A judge sees its tokens; the activations are there for who marks and for tests.
        marked: bool, (tokens,): the tokens marked; None where none are.
        others: The windows that this one stands among, for an intruder.
    """

    task: str
    explanation: str
    example: FeatureExample
    marked: np.ndarray | None = None
    others: tuple[FeatureExample, ...] = ()

    @property
    def text(self) -> str:
        """The window's text."""
        return "".join(self.example.tokens)

    @property
    def runs(self) -> list[tuple[str, bool]]:
        """The text in runs of tokens that are marked, or not."""
        marks = [False] * len(self.example.tokens) if self.marked is None else self.marked.tolist()
        pairs = zip(self.example.tokens, marks, strict=True)
        return [
            ("".join(token for token, _ in run), marked)
            for marked, run in groupby(pairs, lambda pair: pair[1])
        ]


class Judge(Protocol):
    """Answers questions. Each answer depends on its own question alone, unless a judge's name says otherwise."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def probabilities(self, questions: Sequence[Question]) -> np.ndarray:
        """float64, (questions,): that the answer is yes, in [0, 1]; NaN where there is no answer."""
        ...


@runtime_checkable
class StrengthJudge(Judge, Protocol):
    """A judge that can simulate a feature."""

    def strengths(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """For each window how strongly the feature fires on each token, (tokens,), in [0, 10]; NaN for no answer."""
        ...


@runtime_checkable
class GainJudge(Judge, Protocol):
    """A judge that foretells texts."""

    def gains(self, questions: Sequence[Question]) -> np.ndarray:
        """float64, (questions,): nats a token that the window is easier to foretell after its explanation than after
        a neutral one; NaN for no answer."""
        ...


@runtime_checkable
class CosineJudge(Judge, Protocol):
    """A judge that compares embeddings."""

    def cosines(self, questions: Sequence[Question]) -> np.ndarray:
        """float64, (questions,): cosine of explanation and window, in [-1, 1]; NaN for no answer."""
        ...


@runtime_checkable
class SelectiveJudge(Judge, Protocol):
    """A judge that finds out what it cannot do."""

    def cannot(self, task: str) -> str:
        """Why it cannot do a task; "" where it can."""
        ...


@runtime_checkable
class PromptingJudge(Judge, Protocol):
    """A judge that says what it asks, for who wants to see it."""

    def prompts(self, questions: Sequence[Question]) -> list[str]:
        """What a language model is asked for these questions, prompt by prompt."""
        ...


@runtime_checkable
class Counting(Protocol):
    """Who counts what is read and written."""

    @property
    def usage(self) -> dict[str, int]:
        """So far, "tokens_in" and "tokens_out" among other counts, and "known_…" of what was known already."""
        ...


_NEEDED: dict[str, tuple[type, str]] = {
    "strengths": (
        StrengthJudge,
        "TokenListJudge, LocalJudge, or OpenAIJudge on a server that gives logprobs",
    ),
    "gains": (GainJudge, "LocalJudge"),
    "cosines": (CosineJudge, "EmbeddingJudge"),
}
"""The kind of judge for what can be asked, and those of this package."""


def check_does(given: Any, what: str, method: str, who: str) -> None:
    """Sees to it that an object has a name and does what it is for.

    Args:
        what: The argument, for the message.
        method: What it is called for: "probabilities", "explain", "write".
        who: Such objects of this package.

    Raises:
        InputError: It has not.
    """
    if not isinstance(getattr(given, "name", None), str) or not callable(getattr(given, method, None)):
        raise InputError(f"{what} is {given!r:.60}; expected an object with a name and {method}(…): {who}.")


def check_able(judge: Judge, task: str, answers: str) -> None:
    """Sees to it, before anything is asked, that a judge can do a task.

    Args:
        answers: What the task asks for: "probabilities", "strengths", "gains" or "cosines".

    Raises:
        InputError: It cannot.
    """
    kind, who = _NEEDED.get(answers, (object, "any other judge"))
    reason = f"it has no {answers}(questions)" if not isinstance(judge, kind) else ""
    if not reason and isinstance(judge, SelectiveJudge):
        reason = judge.cannot(task)
    if reason:
        raise InputError(f"The judge {judge.name!r} cannot do {task!r}: {reason}. What can: {who}.")


def tokens_so_far(asked: object) -> tuple[int, int]:
    """Tokens that a judge or writer has read and written, or knew already; 0 for one that does not count."""
    used = asked.usage if isinstance(asked, Counting) else {}
    sums = [
        int(used.get(name, 0)) + int(used.get(f"known_{name}", 0)) for name in ("tokens_in", "tokens_out")
    ]
    return sums[0], sums[1]


class TokenListJudge:
    """Takes an explanation as a list of words: yes, where one of them stands in the window (or is marked).

    Words in double quotes are taken as they are; without any, what commas separate. Case and spaces around do not
    count. An intruder is the window that shares the fewest words with the others.

    Examples:
        >>> from mlxterp.autointerp import TokenListJudge
        >>> TokenListJudge().words('fires on "ball", "toys"')
        (('ball',), ('toys',))
    """

    name = "token list"

    def words(self, explanation: str) -> tuple[tuple[str, ...], ...]:
        """The words (each as its parts) that an explanation lists."""
        quoted = [one.replace('\\"', '"') for one in _QUOTED.findall(explanation)]
        listed = quoted or explanation.split(",")
        return tuple(dict.fromkeys(parts for one in listed if (parts := parts_of(one))))

    def probabilities(self, questions: Sequence[Question]) -> np.ndarray:
        return np.array([self._answer(question) for question in questions], dtype=np.float64)

    def strengths(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """10 on the tokens of a listed word, 0 on all others."""
        return [self._strengths(question) for question in questions]

    def _strengths(self, question: Question) -> np.ndarray:
        words, tokens = self.words(question.explanation), question.example.tokens
        if not words:
            return np.full(len(tokens), np.nan)
        found = [(part.start(), part.end(), part.group().lower()) for part in _WORD.finditer(question.text)]
        ends = np.cumsum([len(token) for token in tokens])
        strengths = np.zeros(len(tokens))
        for word in words:
            for i in range(len(found) - len(word) + 1):
                if tuple(part for _, _, part in found[i : i + len(word)]) == word:
                    first, last = found[i][0], found[i + len(word) - 1][1]
                    strengths[(ends > first) & (ends - [len(t) for t in tokens] < last)] = STRONGEST
        return strengths

    def _answer(self, question: Question) -> float:
        if question.task == "intruder":
            mine = set(parts_of(question.text))
            shared = [len(mine & set(parts_of("".join(one.tokens)))) for one in question.others]
            return 1 / (1 + float(np.mean(shared)))
        words = self.words(question.explanation)
        if not words:
            return float("nan")
        return float(any(holds(parts_of(text), word) for text in _seen(question) for word in words))


class EmbeddingJudge:
    """Compares sentence embeddings: the cosine of an explanation and a window, as (1 + cosine) / 2.

    An intruder is the window whose mean cosine with the others is smallest.

    Args:
        embed: Texts → vectors (texts, width), such as a sentence model's `encode`.
        name: What reports call it.
    """

    def __init__(self, embed: Callable[[list[str]], Any], name: str = "embedding"):
        check_embed(embed)
        self._embed, self.name = embed, name

    def probabilities(self, questions: Sequence[Question]) -> np.ndarray:
        sign = np.array([-1.0 if question.task == "intruder" else 1.0 for question in questions])
        return np.clip((1 + sign * self.cosines(questions)) / 2, 0, 1)

    def cosines(self, questions: Sequence[Question]) -> np.ndarray:
        """Of explanation and window; for an intruder, of the window and the others, on average."""
        pairs = [_compared(question) for question in questions]
        texts = list(dict.fromkeys(text for text, others in pairs for text in (text, *others)))
        unit = dict(zip(texts, unit_embeddings(self._embed, texts), strict=True))
        return np.array(
            [np.mean([unit[text] @ unit[other] for other in others]) for text, others in pairs]
        ).clip(-1, 1)


def _compared(question: Question) -> tuple[str, list[str]]:
    """The text that is compared, and with which."""
    if question.task == "intruder":
        return question.text, ["".join(one.tokens) for one in question.others]
    return " ".join(_seen(question)), [question.explanation]


def _seen(question: Question) -> list[str]:
    """The window, or the runs of tokens that are marked."""
    if question.marked is None:
        return [question.text]
    return [text for text, marked in question.runs if marked]


def parts_of(text: str) -> tuple[str, ...]:
    """Words and marks of a text, in lower case."""
    return tuple(_WORD.findall(text.lower()))


def holds(parts: tuple[str, ...], word: tuple[str, ...]) -> bool:
    """Whether a word, as its parts, stands in a text, as its."""
    size = len(word)
    return any(parts[i : i + size] == word for i in range(len(parts) - size + 1))
