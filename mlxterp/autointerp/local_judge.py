"""`LocalJudge`: a language model in this process as judge, by how likely "1" is against "0" (nothing is parsed), and as
writer, all prompts of a call together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..anatomy.session import Model, session_of
from ..core import checks
from ..core.controls import draw_seed
from ..errors import InputError, warn
from ..hooks.session import ModelSession
from ..tracing.continued import continued
from ..tracing.generation import Request, prompt_ids
from ..tracing.passes import check_length
from .answers import without_thinking
from .judges import Question
from .prompts import VERSION, asked
from .writers import Asked, messages_of, numbered

_Key = tuple[str, int, float, int, int]
"""A text to write: prompt, tokens at most, temperature, seed, and which draw."""
_USAGE = ("tokens_in", "tokens_out", "known_tokens_in", "known_tokens_out")
_PAIRS = ((" 1", " 0"), ("1", "0"))


class LocalJudge:
    """Asks a language model in this process: P("1") / (P("1") + P("0")) of the next token.

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
        """Tokens that `write` has read and written, and those of what it knew already."""

    @property
    def name(self) -> str:
        """With the version of the prompts' words."""
        return f"{self._session.plain.model.model_type} here, prompts {VERSION}"

    def probabilities(self, questions: Sequence[Question]) -> np.ndarray:
        if not questions:
            return np.zeros(0)
        model = self._session.plain.model
        texts = [self._ids(asked(question)) for question in questions]
        check_length(model, max(map(len, texts)), "A judge's question has")
        logits = model.last_logits(texts, self._answers).astype(np.float64)
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(logits[:, 1] - logits[:, 0]))

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

    def _ids(self, prompt: str) -> list[int]:
        return prompt_ids(self._session.plain.model, prompt, self._chat)

    def _tokens(self) -> tuple[int, int]:
        """The tokens of yes and no that follow a question.

        Raises:
            InputError: The tokenizer has none.
        """
        tokenize = self._session.plain.model.tokenize
        opening = tokenize("Answer:")
        for pair in _PAIRS[::-1] if self._chat else _PAIRS:
            new = [tokenize("Answer:" + word)[len(opening) :] for word in pair]
            if all(len(ids) == 1 for ids in new) and new[0] != new[1]:
                return int(new[0][0]), int(new[1][0])
        raise InputError('This tokenizer has no single tokens for "1" and "0", so its model cannot judge.')
