"""Prompts that ask about a placeholder: the package's own questions, texts, chat messages, token ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..backends.base import LanguageModel
from ..core.texts import shown_ids
from ..data.text import decode
from ..errors import InputError
from ..tracing.generation import chat_ids, has_template, prompt_ids
from .placeholders import CANDIDATES, found_placeholder, named_placeholder, positions_of, unknown_token

SLOT = "{x}"
"""Where a question has its placeholder."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a user asks, and how the answer begins; `{x}` is the placeholder.

    Attributes:
        user: The user's turn.
        answer: The beginning of the answer, which the model goes on from.
    """

    user: str
    answer: str


PROMPTS: dict[str, Question] = {
    "meaning": Question(
        'Explain in a few words what "{x}" means.', 'Sure! In a few words, the meaning of "{x}" is: "'
    ),
    "about": Question('What is "{x}" about?', 'Sure! The text "{x}" is about "'),
    "repeat": Question('Say "{x}" three times.', 'Sure! "{x}", "{x}", "'),
}
"""The package's own questions, by name. Each answer ends within quotes."""
_NO_QUESTION = (
    "The package's own questions need a tokenizer. Give prompt= as token ids, placeholder= as one of them."
)


@dataclass(frozen=True, eq=False, slots=True)
class Prompt:
    """A prompt, and where its placeholder stands."""

    text: str
    """As it is run; "#5 #7" without a tokenizer."""
    ids: list[int]
    positions: tuple[int, ...]


def prompts_of(
    model: LanguageModel, given: Any, placeholder: Any, chat: bool | None
) -> tuple[list[Prompt], str | int]:
    """Prompts as users give them, and their placeholder.

    Args:
        given: None or a name of `PROMPTS`; a text; messages of a chat, whose last may be the beginning of the answer;
            token ids; or a list of several of these (rows of token ids among them as lists).
        placeholder: A text, a token id, or None.
        chat: Whether texts are a user's turn; None: only the package's own questions, where there is a template.

    Raises:
        InputError: One of them is no prompt, has no placeholder, or one that is not a single token.
    """
    named = named_placeholder(placeholder)
    several = _several(given)
    if named is None:
        named = _chosen(model, several, chat)
    found = []
    for number, one in enumerate(several):
        try:
            ids = _ids(model, one, named, chat)
            place = positions_of(model.tokenizer, ids, named)
        except InputError as error:
            raise InputError(f"Prompt {number}: {error}" if len(several) > 1 else str(error)) from error
        text = shown_ids(ids) if model.tokenizer is None else decode(model.tokenizer, ids)
        found.append(Prompt(text, ids, place))
    return found, named


def _several(given: Any) -> list[Any]:
    if given is None:
        return ["meaning"]
    if _is_column(given):
        given = list(given)
    if isinstance(given, (str, Question)) or not isinstance(given, (list, tuple)):
        return [given]
    if not given:
        raise InputError(
            "prompt= is empty. Give a text with a placeholder, or None for the package's own question."
        )
    nested = all(isinstance(one, (str, Question, list, tuple)) for one in given)
    return list(given) if nested else [given]


def _is_column(given: Any) -> bool:
    """Whether it is a column, a generator or an array of texts: neither a list nor a row of token ids."""
    if isinstance(given, (str, bytes, list, tuple, Mapping, Question)):
        return False
    kind = getattr(getattr(given, "dtype", None), "kind", None)
    return kind in ("O", "U", "T") if kind is not None else isinstance(given, Iterator)


def _question(given: Any) -> Question | None:
    if isinstance(given, Question):
        return given
    return PROMPTS.get(given) if isinstance(given, str) else None


def _chosen(model: LanguageModel, several: Sequence[Any], chat: bool | None) -> str:
    """The placeholder, where none was named.

    Raises:
        InputError: None is one token in all questions, or a prompt of the user's own has none.
    """
    questions = [one for one in several if _question(one) is not None]
    own = [one for one in several if _question(one) is None]
    if own:
        return found_placeholder(model.tokenizer, _ids(model, own[0], "", chat))
    if model.tokenizer is None:
        raise InputError(_NO_QUESTION)
    tried = [one for one in (unknown_token(model.tokenizer), *CANDIDATES) if one is not None]
    for candidate in tried:
        try:
            for question in questions:
                positions_of(model.tokenizer, _ids(model, question, candidate, chat), candidate)
        except InputError:
            continue
        return candidate
    raise InputError(
        f"None of {', '.join(map(repr, tried))} is a token of its own in the package's questions, by this tokenizer."
        " Give a prompt of your own, with placeholder= one of its tokens."
    )


def _ids(model: LanguageModel, given: Any, placeholder: str | int, chat: bool | None) -> list[int]:
    """Token ids of one prompt."""
    question = _question(given)
    if question is not None:
        return _of_question(model, question, placeholder, chat)
    if isinstance(given, str):
        return prompt_ids(model, given, bool(chat))
    if isinstance(given, (list, tuple)) and given and all(isinstance(one, Mapping) for one in given):
        return _of_messages(model, given)
    return prompt_ids(model, given, False)


def _of_question(
    model: LanguageModel, question: Question, placeholder: str | int, chat: bool | None
) -> list[int]:
    if model.tokenizer is None:
        raise InputError(_NO_QUESTION)
    word = decode(model.tokenizer, [placeholder]) if isinstance(placeholder, int) else placeholder
    user, answer = (text.replace(SLOT, word) for text in (question.user, question.answer))
    if chat or (chat is None and has_template(model.tokenizer)):
        return _of_messages(
            model, [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
        )
    return prompt_ids(model, f"{user}\n{answer}", False)


def _of_messages(model: LanguageModel, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Token ids of a chat; a last message of the assistant is the beginning of the answer.

    Raises:
        InputError: A message is none, or there is no template.
    """
    for message in messages:
        if not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise InputError(f"A message is {{'role': 'user', 'content': text}}, got {message!r:.80}.")
    last = messages[-1]
    if last["role"] != "assistant":
        return chat_ids(model, messages)
    if len(messages) == 1:
        raise InputError("A chat begins with the user's turn; there is only the assistant's.")
    opening, ids = [int(i) for i in model.tokenize("")], [int(i) for i in model.tokenize(last["content"])]
    return [
        *chat_ids(model, messages[:-1]),
        *(ids[len(opening) :] if ids[: len(opening)] == opening else ids),
    ]
