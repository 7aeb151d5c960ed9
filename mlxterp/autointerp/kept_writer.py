"""`KeptWriter`: a writer whose texts are kept in a file as they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from ..core.digests import digest_of
from ..core.integers import is_integer
from .finished import Finished
from .judges import tokens_so_far
from .writers import Asked, Prompt, Writer

_BATCH = 32
"""Prompts that are asked and kept together."""


class KeptWriter:
    """Asks a writer, some prompts at a time.

    Args:
        writer: Who is asked.
        finished: Where texts are kept. What was written in a call that this one goes on with is not asked for again.

    Attributes:
        asked: Prompts that were answered, now or before.
        tokens: What the writer has read and written for them.
        shown: The first prompt of each task, as it was asked.
    """

    def __init__(self, writer: Writer, finished: Finished):
        self._writer, self._finished = writer, finished
        self.asked = 0
        self.tokens = (0, 0)
        self.shown: dict[str, str] = {}

    @property
    def name(self) -> str:
        return self._writer.name

    def write(
        self, prompts: Sequence[Asked], max_tokens: int = 256, *, temperature: float = 0.0, seed: int = 0
    ) -> list[str | None]:
        """See `Writer.write`."""
        found: list[str | None] = []
        for start in range(0, len(prompts), _BATCH):
            found += self._batch(prompts[start : start + _BATCH], max_tokens, temperature, seed)
        return found

    def _batch(
        self, prompts: Sequence[Asked], max_tokens: int, temperature: float, seed: int
    ) -> list[str | None]:
        for one in prompts:
            if isinstance(one, Prompt):
                self.shown.setdefault(one.task, one.text)
        about = {"writer": self.name, "max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        key = "written/" + digest_of({**about, "prompts": [_described(one) for one in prompts]})
        if not _is_kept(self._finished.get(key), len(prompts)):
            before = tokens_so_far(self._writer)
            texts = self._writer.write(prompts, max_tokens, temperature=temperature, seed=seed)
            after = tokens_so_far(self._writer)
            tokens = [after[0] - before[0], after[1] - before[1]]
            self._finished.put(key, {"texts": list(texts), "tokens": tokens})
        known = self._finished.get(key)
        self.asked += len(prompts)
        self.tokens = (self.tokens[0] + known["tokens"][0], self.tokens[1] + known["tokens"][1])
        return list(known["texts"])


def _described(asked: Asked) -> Any:
    """All that a writer can go by."""
    if not isinstance(asked, Prompt):
        return asked if isinstance(asked, str) else [dict(one) for one in asked]
    said = {field.name: getattr(asked, field.name) for field in fields(Prompt)}
    return said | {"examples": [one.text for one in asked.examples], "known": list(asked.known)}


def _is_kept(known: Any, prompts: int) -> bool:
    """Whether texts for so many prompts were kept; what a file holds otherwise is asked for again."""
    if not isinstance(known, dict):
        return False
    texts, tokens = known.get("texts"), known.get("tokens")
    return (
        isinstance(texts, list)
        and len(texts) == prompts
        and all(one is None or isinstance(one, str) for one in texts)
        and isinstance(tokens, list)
        and len(tokens) == 2
        and all(map(is_integer, tokens))
    )
