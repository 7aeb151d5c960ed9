"""Generation through mlx-lm's own loop, one hooked forward pass at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.generate import generate_step, generation_stream, wired_limit
from mlx_lm.sample_utils import apply_top_p
from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..host.batching import NO_TOKEN
from ..host.finite import not_finite
from ..host.text_stream import Detokenizer, TextStream, with_text


class _Steps:
    """The model as `generate_step` wants it, with each call going through `step`."""

    def __init__(self, model: nn.Module, step: Callable[..., mx.array]):
        self._model = model
        self._step = step

    def __getattr__(self, name: str) -> Any:  # layers, make_cache
        return getattr(self._model, name)

    def __call__(self, ids: mx.array, **options: Any) -> mx.array:
        return self._step(ids, **options)


def stream_tokens(
    model: nn.Module,
    step: Callable[..., mx.array],
    tokenizer: Any,
    prompt: Sequence[int],
    max_tokens: int,
    *,
    temperature: float,
    top_p: float,
    seed: int | None,
    prefill_step_size: int,
    edited: bool,
) -> Iterator[tuple[int | None, str]]:
    """Tokens and text, ended by an end-of-text token or `max_tokens` (see `LanguageModel.stream`)."""
    ends, sample = end_tokens(tokenizer), sampler(temperature, top_p, seed)
    steps: Iterator[tuple[Any, Any]] = generate_step(
        mx.array(list(prompt)),
        cast(nn.Module, _Steps(model, step)),
        max_tokens=max_tokens,
        sampler=lambda logprobs: or_none(sample(logprobs), logprobs),
        prefill_step_size=prefill_step_size,
    )
    with wired_limit(model, [cast(mx.Stream, generation_stream)]):
        yield from with_text(
            _checked((int(token) for token, _ in steps), len(prompt), edited), new_text(tokenizer), ends
        )


def _checked(tokens: Iterator[int], prompt: int, edited: bool) -> Iterator[int]:
    """The tokens; a sampler's `NO_TOKEN` raises, where the one before it has been used."""
    for number, token in enumerate(tokens):
        if token == NO_TOKEN:
            where = f"for token {number} of the continuation (position {prompt + number})"
            raise not_finite("The logits", where, edited)
        yield token


def new_text(tokenizer: Any) -> Detokenizer:
    """What makes the text of one continuation."""
    return _MlxLmText(tokenizer) if isinstance(tokenizer, TokenizerWrapper) else TextStream(tokenizer)


def end_tokens(tokenizer: Any) -> set[int]:
    """Ids that end a text; empty without a tokenizer or where it has none."""
    ids = getattr(tokenizer, "eos_token_ids", None)
    if ids is None:
        ids = [getattr(tokenizer, "eos_token_id", None)]
    return {int(i) for i in ids if i is not None}


def sampler(temperature: float, top_p: float, seed: int | None) -> Callable[[mx.array], mx.array]:
    """Samples tokens (rows,) from log probabilities (rows, vocabulary) with a random state of its own."""
    if temperature == 0:
        return lambda logprobs: mx.argmax(logprobs, axis=-1)
    state = [mx.random.key(seed) if seed is not None else mx.random.split(mx.random.key(_entropy()))[0]]

    def sample(logprobs: mx.array) -> mx.array:
        state[0], key = mx.random.split(state[0])
        kept = apply_top_p(logprobs, top_p) if top_p < 1 else logprobs
        return mx.random.categorical(kept.astype(mx.float32) / temperature, key=key)

    return sample


def or_none(tokens: mx.array, logprobs: mx.array) -> mx.array:
    """The tokens, or `NO_TOKEN` where probabilities are no numbers: seen with the token, without waiting twice."""
    finite = mx.isfinite(mx.logsumexp(logprobs.astype(mx.float32), axis=-1))
    return mx.where(finite, tokens.astype(mx.int32), NO_TOKEN)


def _entropy() -> int:
    import secrets

    return secrets.randbits(63)


class _MlxLmText:
    """`TextStream` by mlx-lm's own detokenizer, so that the text is the one `mlx_lm.generate` gives."""

    def __init__(self, tokenizer: TokenizerWrapper):
        self._detokenizer = tokenizer.detokenizer
        self._detokenizer.reset()

    def add(self, token: int) -> str:
        self._detokenizer.add_token(token)
        return self._detokenizer.last_segment

    def finish(self) -> str:
        self._detokenizer.finalize()
        return self._detokenizer.last_segment
