"""Who writes the replies: a server of OpenAI's protocol, or a client object like that of the `openai` package."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

from ...autointerp.answers import without_thinking
from ...autointerp.chat import chat
from ...autointerp.openai_judge import OpenAIJudge
from ...errors import JudgeError
from .prompts import Messages

OPENAI = "api.openai.com"
MODEL = "gpt-4o-mini"
"""What the section asks at OpenAI; other servers are asked for what they have."""


class Talk(Protocol):
    """Messages in, replies out."""

    @property
    def name(self) -> str:
        """Model and server."""
        ...

    def replies(self, messages: Messages, max_tokens: int, n: int) -> list[str]:
        """n replies.

        Raises:
            JudgeError: There is none that can be read.
        """
        ...


class ServerTalk:
    """The server of an `OpenAIJudge`. One reply is asked for at temperature 0, several at 1."""

    def __init__(self, judge: OpenAIJudge):
        self._judge = judge

    @property
    def name(self) -> str:
        return f"{self._judge.capabilities['model']} at {self._judge.base_url}"

    def replies(self, messages: Messages, max_tokens: int, n: int) -> list[str]:
        return chat(self._judge, messages, max_tokens, n, 0.0 if n == 1 else 1.0)  # type: ignore[arg-type]


class ClientTalk:
    """A client with `chat.completions.create`, as the section calls it."""

    def __init__(self, client: Any):
        self._client = client
        self._model = MODEL if OPENAI in str(getattr(client, "base_url", OPENAI)) else self._listed()

    @property
    def name(self) -> str:
        return f"{self._model} at {getattr(self._client, 'base_url', 'a client')}"

    def replies(self, messages: Messages, max_tokens: int, n: int) -> list[str]:
        try:
            found = self._client.chat.completions.create(
                model=self._model, messages=messages, n=n, max_tokens=max_tokens, stream=False
            )
            said = [choice.message.content for choice in found.choices]
        except Exception as error:  # whatever the client raises: it is told, and the other latents go on
            raise JudgeError(f"The client failed: {type(error).__name__}: {error}") from error
        if not said or not all(isinstance(one, str) for one in said):
            raise JudgeError(f"The client gave no text: {said!r:.100}")
        return [without_thinking(one) for one in said]

    def _listed(self) -> str:
        """The first model that a server lists; "default_model", which mlx_lm.server knows, where it lists none."""
        try:
            return str(next(iter(self._client.models.list())).id)
        except Exception:  # servers fail in many ways here
            return "default_model"


def server_talk(api_key: str | None, concurrency: int) -> ServerTalk | None:
    """A server by OPENAI_BASE_URL, else OpenAI's; None where neither that nor a key is given."""
    url = os.environ.get("OPENAI_BASE_URL")
    if not (url or api_key or os.environ.get("OPENAI_API_KEY")):
        return None
    model = MODEL if not url or OPENAI in url else None
    return ServerTalk(OpenAIJudge(url, model, api_key, concurrency=concurrency, verbose=False, timeout=120.0))


def said_in(messages: Sequence[Any], replies: Sequence[str]) -> Messages:
    """The messages and the first reply, to look at."""
    return [*messages, {"role": "assistant", "content": replies[0]}]
