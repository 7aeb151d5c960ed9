"""`LocalJudge`: a language model in this process as judge, by how likely answers are; nothing is parsed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from ..anatomy.session import Model, session_of
from ..core.tokens import TokenBatch
from ..errors import InputError
from ..hooks.session import ModelSession
from ..tracing.generation import prompt_ids
from ..tracing.passes import check_length
from .judges import STRONGEST, Question
from .prompts import NEUTRAL, VERSION, asked, by_token, foretold

_PAIRS = ((" 1", " 0"), ("1", "0"))
_DIGITS = ([f" {n}" for n in range(10)], [str(n) for n in range(10)])
_TOKENS = 2048
"""Of a block of texts whose losses are measured."""


class LocalJudge:
    """Asks a language model in this process: P("1") / (P("1") + P("0")) of the next token.

    It simulates a feature by the expected digit on each token, and measures how much easier a text is to foretell after
    an explanation.

    Args:
        model: An `InterpretableModel` with a tokenizer, of either wing. Steering and attached SAEs do not act on it.
        chat: Whether the question is put as a user's turn; None does so where the tokenizer has a chat template.

    Raises:
        InputError: The model has no tokenizer, or its tokenizer has no single token for "1" and "0".

    Examples:
        >>> from mlxterp import autointerp
        >>> judge = autointerp.LocalJudge(model)
        >>> drawn = autointerp.collect(index, [ball], autointerp.Plan(least=1), verbose=False)[ball]
        >>> question = autointerp.Question("detection", "toys", drawn.explaining[0].example)
        >>> judge.probabilities([question]).shape
        (1,)
    """

    def __init__(self, model: Model, chat: bool | None = None):
        self._session = session_of(model, ModelSession)
        tokenizer = self._session.require_tokenizer()
        has_template = bool(getattr(tokenizer, "chat_template", None))
        self._chat = has_template if chat is None else chat
        self._answers = self._tokens()
        self.usage = {"asked": 0, "tokens_in": 0, "tokens_out": 0}
        """Questions, and their tokens; what several begin with is read once, and counted for each."""

    @property
    def name(self) -> str:
        """With the version of the prompts' words."""
        return f"{self._session.plain.model.model_type} here, prompts {VERSION}"

    def probabilities(self, questions: Sequence[Question]) -> np.ndarray:
        if not questions:
            return np.zeros(0)
        logits = self._logits([asked(question) for question in questions], self._answers)
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(logits[:, 1] - logits[:, 0]))

    def strengths(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """The expected digit on each token, as much larger as 10 is than 9."""
        tokens = [by_token(question) for question in questions]
        several = [asked(one) for single in tokens for one in single]
        if not several:
            return [np.zeros(0) for _ in questions]
        logits = self._logits(several, self._digits)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        expected = weights @ np.arange(10) / weights.sum(axis=1) * (STRONGEST / 9)
        return np.split(expected, np.cumsum([len(single) for single in tokens])[:-1])

    def gains(self, questions: Sequence[Question]) -> np.ndarray:
        pairs = [
            _same_end(*(self._read(before, question) for before in (question.explanation, NEUTRAL)))
            for question in questions
        ]
        losses = self._losses([ids for told, neutral, _ in pairs for ids in (told, neutral)])
        found = np.full(len(pairs), np.nan)
        for i, (told, neutral, n) in enumerate(pairs):
            if n:
                found[i] = float(losses[2 * i + 1][len(neutral) - n - 1 :].mean()) - float(
                    losses[2 * i][len(told) - n - 1 :].mean()
                )
        return found

    def cannot(self, task: str) -> str:
        """Why it cannot do a task; "" where it can."""
        if task == "simulation" and not self._digits:
            return "its tokenizer has no single tokens for the digits"
        return ""

    def _logits(self, prompts: Sequence[str], tokens: Sequence[int]) -> np.ndarray:
        """float64, (prompts, tokens): of what comes next."""
        model = self._session.plain.model
        texts = [self._ids(prompt) for prompt in prompts]
        check_length(model, max(map(len, texts)), "A judge's question has")
        self._count(len(texts), sum(map(len, texts)))
        return model.last_logits(texts, tokens).astype(np.float64)

    def _losses(self, texts: Sequence[list[int]]) -> list[np.ndarray]:
        """Nats of each token after the first, of each text."""
        model = self._session.plain.model
        check_length(model, max(map(len, texts), default=0), "A judge's text has")
        self._count(len(texts), sum(map(len, texts)))
        found: list[np.ndarray] = [np.zeros(0)] * len(texts)
        for block in _blocks([len(ids) for ids in texts]):
            batch = TokenBatch.from_rows([texts[i] for i in block])
            logits = model.forward(batch)
            for row, i in enumerate(block):
                n = int(batch.lengths[row])
                found[i] = model.backend.token_losses(logits[row, : n - 1], batch.ids[row, 1:n])
        return found

    def _read(self, explanation: str, question: Question) -> tuple[list[int], int]:
        """The window after what is said of it, and how many tokens the latter has."""
        tokenize = self._session.plain.model.tokenize
        before = foretold(explanation)
        return list(tokenize(before + question.text)), len(tokenize(before))

    def _count(self, asked: int, tokens: int) -> None:
        self.usage["asked"] += asked
        self.usage["tokens_in"] += tokens

    def _ids(self, prompt: str) -> list[int]:
        return prompt_ids(self._session.plain.model, prompt, self._chat)

    def _tokens(self) -> tuple[int, int]:
        """The tokens of yes and no that follow a question.

        Raises:
            InputError: The tokenizer has none.
        """
        for pair in _PAIRS[::-1] if self._chat else _PAIRS:
            if found := self._single(pair):
                return found[0], found[1]
        raise InputError('This tokenizer has no single tokens for "1" and "0", so its model cannot judge.')

    @cached_property
    def _digits(self) -> list[int]:
        """The tokens of the ten digits that follow a question; none where some are no single tokens."""
        several = (self._single(words) for words in (_DIGITS[::-1] if self._chat else _DIGITS))
        return next((found for found in several if found), [])

    def _single(self, words: Sequence[str]) -> list[int]:
        """The single tokens that words after a question are; none where one of them is not, or two are the same."""
        tokenize = self._session.plain.model.tokenize
        opening = tokenize("Answer:")
        new = [tokenize("Answer:" + word)[len(opening) :] for word in words]
        single = [int(ids[0]) for ids in new if len(ids) == 1]
        return single if len(set(single)) == len(words) else []


def _same_end(
    told: tuple[list[int], int], neutral: tuple[list[int], int]
) -> tuple[list[int], list[int], int]:
    """Two texts' tokens, and how many at their ends are the window's, the same in both."""
    one, other = told[0], neutral[0]
    most = min(len(one) - told[1], len(other) - neutral[1])
    differ = (k for k in range(most) if one[-1 - k] != other[-1 - k])
    return one, other, max(0, next(differ, most))


def _blocks(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of texts that run together, those of like length beside each other."""
    block: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if block and lengths[i] * (len(block) + 1) > _TOKENS:
            yield block
            block = []
        block.append(i)
    if block:
        yield block
