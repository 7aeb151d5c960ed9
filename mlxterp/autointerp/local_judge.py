"""`LocalJudge`: a language model in this process as judge, by how likely "1" is against "0"; nothing is parsed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..anatomy.session import Model, session_of
from ..errors import InputError
from ..hooks.session import ModelSession
from ..tracing.generation import prompt_ids
from ..tracing.passes import check_length
from .judges import Question
from .prompts import VERSION, asked

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
