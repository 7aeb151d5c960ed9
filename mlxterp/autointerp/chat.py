"""`chat`: several messages to the server of an `OpenAIJudge`, with its retries, its model and its kept answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import JudgeError
from .answers import without_thinking
from .openai_judge import OpenAIJudge

_THOUGHT = 1024
"""Tokens more, for a model that thinks aloud."""


def chat(
    judge: OpenAIJudge,
    messages: Sequence[Mapping[str, str]],
    max_tokens: int,
    n: int = 1,
    temperature: float = 0.0,
) -> list[str]:
    """What the server's model replies, without what it thinks aloud.

    Args:
        messages: Dicts of "role" and "content".
        max_tokens: Of a reply.
        n: Replies, each asked for by itself: some servers take no notice of an n.
        temperature: Of sampling.

    Raises:
        JudgeError: The server cannot be used, or gives no reply that can be read.
    """
    able = judge.capabilities
    body = {
        "model": able["model"], "messages": [dict(one) for one in messages], "temperature": temperature,
        "max_tokens": max_tokens + _THOUGHT * bool(able["thinks"]), **able["settings"],
    }  # fmt: skip
    return [_reply(judge, body, number) for number in range(n)]


def _reply(judge: OpenAIJudge, body: dict[str, Any], number: int) -> str:
    reply = judge._answer(judge._digest_of(body, chat=number), body)
    if reply is None:
        judge.usage["failed"] += 1
        raise JudgeError(f"{judge.base_url} gave no reply that can be read.")
    return without_thinking(reply["text"])
