"""`LocalJudge`: a language model in this process as judge, by how likely answers are (nothing is parsed), and as
writer, all prompts of a call together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from ..anatomy.session import Model, session_of
from ..core import checks
from ..core.controls import draw_seed
from ..core.tokens import TokenBatch
from ..errors import InputError, warn
from ..hooks.session import ModelSession
from ..tracing.continued import continued
from ..tracing.generation import Request, prompt_ids
from ..tracing.passes import check_length
from .answers import without_thinking
from .judges import STRONGEST, Question
from .prompts import NEUTRAL, VERSION, asked, by_token, foretold
from .writers import Asked, messages_of, numbered

_Key = tuple[str, int, float, int, int]
"""A text to write: prompt, tokens at most, temperature, seed, and which draw."""
_USAGE = ("asked", "tokens_in", "tokens_out", "known_tokens_in", "known_tokens_out")
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
        self._written: dict[_Key, tuple[str | None, int, int]] = {}
        self.usage: dict[str, int] = dict.fromkeys(_USAGE, 0)
        """Questions and texts, and their tokens; what several begin with is read once, and counted for each. "known"
        was written before."""

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

    def write(
        self, prompts: Sequence[Asked], max_tokens: int = 256, *, temperature: float = 0.0, seed: int = 0
    ) -> list[str | None]:
        """A text for each prompt, without what the model thought aloud; None where none came, or an empty one.

        Prompts are continued together, and what was written once is not written again. Prompts that the model has no
        positions for are None, and one warning counts them.

        Args:
            prompts: Text, `Prompt` values, or messages, which become one turn.
            max_tokens: Of each text.
            temperature: 0 takes the likeliest token. Above 0 each of several equal prompts is another draw.
            seed: Of the draws.
        """
        warmth, most = checks.temperature(temperature), checks.count(max_tokens, "max_tokens")
        start = checks.seed(seed) if warmth else 0
        texts = ["\n\n".join(one["content"] for one in messages_of(prompt)) for prompt in prompts]
        keys = [(t, most, warmth, start, n) for t, n in zip(texts, numbered(texts, warmth), strict=True)]
        new = [key for key in dict.fromkeys(keys) if key not in self._written]
        if new:
            self._written |= self._continued(new)
        for key in dict.fromkeys(keys):
            for name, n in zip(("tokens_in", "tokens_out"), self._written[key][1:], strict=True):
                self.usage[name if key in new else f"known_{name}"] += n
        self.usage["asked"] += len(new)
        return [self._written[key][0] for key in keys]

    def _continued(self, keys: Sequence[_Key]) -> dict[_Key, tuple[str | None, int, int]]:
        """What the model writes, by key, with the tokens that it read and wrote."""
        anatomy = self._session.plain
        found: dict[_Key, tuple[str | None, int, int]] = dict.fromkeys(keys, (None, 0, 0))
        ids = {key: self._ids(key[0]) for key in keys}
        longest = anatomy.model.max_positions if anatomy.model.learned_positions else None
        fits = [key for key in keys if longest is None or len(ids[key]) + key[1] <= longest]
        if len(fits) < len(keys):
            warn(
                f"{len(keys) - len(fits)} of {len(keys)} prompts have more tokens, with those to write, than this model"
                f" has positions ({longest}), and no text. Show fewer or shorter windows: Plan(explaining=…, before=…)."
            )
        if not fits:
            return found
        check_length(
            anatomy.model, max(len(ids[key]) + key[1] for key in fits), "A writer's prompt and text have"
        )
        asked_for = [
            Request(most, temperature=warmth, seed=draw_seed(start, n) if warmth else None)
            for _, most, warmth, start, n in fits
        ]
        several = continued(anatomy, [ids[key] for key in fits], asked_for, verbose=False)
        for key, one in zip(fits, several, strict=True):
            text = None if one.failure is not None else without_thinking(one.text) or None
            found[key] = text, len(ids[key]), len(one.tokens)
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
