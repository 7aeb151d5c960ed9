"""Generation, one forward pass at a time: the prompt in chunks, then each token with a cache.

A model without a cache runs the whole text again for every token.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..host.finite import not_finite
from ..host.text_stream import TextStream, with_text
from .values import logits_of

_CACHES = ("cache", "past_key_values", "cache_params", "state")
"""What transformers' models call the cache that they return and take; newer ones "cache" (or "state")."""

Step = Callable[[Sequence[int], np.ndarray, dict[str, Any]], Any]
"""(token ids, their absolute positions, keyword arguments) -> what the model returned"""


class PassOptions:
    """The keyword arguments of a model's passes in generation.

    Args:
        parameters: Names of the keyword arguments that the model takes.
        last_only: Whether logits of a chunk's other positions may be left out.
    """

    def __init__(self, model: nn.Module, parameters: Sequence[str], last_only: bool):
        self.whole_prompt = bool(getattr(model, "_is_stateful", False))
        """Whether it is a recurrence that reads a prompt in one pass."""
        self.given: dict[str, Any] = {"use_cache": True} if "use_cache" in parameters else {}
        """On every pass."""
        if last_only and "logits_to_keep" in parameters:
            self.given["logits_to_keep"] = 1
        self._names = [name for name in _CACHES if name in parameters] or list(_CACHES)
        self._positions = "position_ids" in parameters

    @property
    def cached(self) -> bool:
        """Whether the model may keep a cache."""
        return bool(self.given.get("use_cache"))

    def cache_of(self, out: Any) -> dict[str, Any]:
        """The cache that a model returned, under the name that it takes."""
        return _cache_of(out, self._names)

    def placed(self, padding: np.ndarray, places: np.ndarray) -> dict[str, Any]:
        """What tells padded texts' tokens from padding.

        Args:
            padding: int64, (texts,): columns before each text's first token.
            places: int64, (texts, columns): positions of the tokens that are read; negative ones are padding.
        """
        if not padding.any():
            return {}
        columns = int(places[0, -1] + 1 + padding[0])
        mask = torch.as_tensor((np.arange(columns) >= padding[:, None]).astype(np.int64))
        positions = {"position_ids": torch.as_tensor(np.maximum(places, 0))} if self._positions else {}
        return {"attention_mask": mask, **positions}


class CachedPasses:
    """A model's forward passes over a growing text."""

    def __init__(self, step: Step, options: PassOptions):
        self._step, self._options = step, options
        self._cache: dict[str, Any] = {}
        self._text: list[int] = []

    def read(self, prompt: Sequence[int], chunk: int) -> Iterator[torch.Tensor | None]:
        """Runs `prompt`, `chunk` tokens at a time: None between the parts, then the logits (vocabulary,) after it."""
        if not self._options.cached or self._options.whole_prompt:
            chunk = len(prompt)
        logits, rest = self.advance(prompt[:chunk]), prompt[chunk:]
        size = chunk if self._cache else max(len(rest), 1)  # without a cache it takes no part of a text alone
        for start in range(0, len(rest), size):
            yield None
            logits = self.advance(rest[start : start + size])
        yield logits

    def advance(self, tokens: Sequence[int]) -> torch.Tensor:
        """The logits (vocabulary,) after `tokens` that follow the text so far."""
        start = len(self._text) if self._cache else 0
        self._text.extend(tokens)
        ids = self._text[start:]
        positions = np.arange(start, len(self._text))
        out = self._step(ids, positions, {**self._options.given, **self._cache})
        self._cache = self._options.cache_of(out)
        return logits_of(out)[0, -1]


def _cache_of(out: Any, names: Sequence[str]) -> dict[str, Any]:
    """The cache that a model returned, under the name that it takes.

    An output that calls it "cache" is not asked for an older name: transformers warns of those.
    """
    given = getattr(out, "cache", None)
    for name in names:
        cache = given if given is not None and name != "state" else getattr(out, name, None)
        if cache is not None:
            return {name: cache}
    return {}


def stream_tokens(
    passes: CachedPasses,
    tokenizer: Any,
    ends: set[int],
    prompt: Sequence[int],
    max_tokens: int,
    *,
    temperature: float,
    top_p: float,
    seed: int | None,
    prefill_step_size: int,
    edited: bool,
) -> Generator[tuple[int | None, str], None, None]:
    """Tokens and text, ended by an end-of-text token or `max_tokens` (see `LanguageModel.stream`)."""
    sample = sampler(temperature, top_p, seed)

    def tokens() -> Iterator[int | None]:
        logits: torch.Tensor | None = None
        for logits in passes.read(prompt, prefill_step_size):
            if logits is None:
                yield None
        for number in range(max_tokens):
            assert logits is not None
            if not torch.isfinite(logits.detach().float().logsumexp(-1)):
                where = f"for token {number} of the continuation (position {len(prompt) + number})"
                raise not_finite("The logits", where, edited)
            token = sample(logits)
            yield token
            if number < max_tokens - 1:
                logits = passes.advance([token])

    yield from with_text(tokens(), TextStream(tokenizer), ends)


def end_tokens(*holders: Any) -> set[int]:
    """Ids that end a text, according to tokenizers and generation settings (None among them is skipped)."""
    ends: set[int] = set()
    for holder in holders:
        for name in ("eos_token_ids", "eos_token_id"):
            ids = getattr(holder, name, None)
            ids = ids if isinstance(ids, (list, tuple, set)) else [ids]
            ends.update(int(i) for i in ids if i is not None)
    return ends


def sampler(temperature: float, top_p: float, seed: int | None) -> Callable[[torch.Tensor], int]:
    """Samples from logits (vocabulary,), on the CPU, with a random state of its own."""
    if temperature == 0:
        return lambda logits: int(logits.argmax())
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)

    def sample(logits: torch.Tensor) -> int:
        logprobs = logits.detach().float().cpu().log_softmax(-1)
        if top_p < 1:
            logprobs = _most_probable(logprobs, top_p)
        weights = (logprobs / temperature).softmax(-1)
        return int(torch.multinomial(weights, 1, generator=generator))

    return sample


def _most_probable(logprobs: torch.Tensor, top_p: float) -> torch.Tensor:
    """Only the smallest set of tokens that has probability `top_p`, as mlx-lm keeps it."""
    ascending, order = logprobs.sort()
    kept = ascending.exp().cumsum(-1) > 1 - top_p
    kept[-1] = True
    return torch.full_like(logprobs, float("-inf")).scatter(
        -1, order, ascending.masked_fill(~kept, float("-inf"))
    )
