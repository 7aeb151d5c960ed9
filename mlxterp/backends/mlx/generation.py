"""Generation through mlx-lm's own loop, one hooked forward pass at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.generate import generate_step, generation_stream, wired_limit
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import apply_top_p
from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..host.finite import not_finite
from ..host.row_passes import NO_TOKEN
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
    read_before: int = 0,
) -> Generator[tuple[int | None, str], None, None]:
    """Tokens and text, ended by an end-of-text token or `max_tokens` (see `LanguageModel.stream`).

    Args:
        read_before: Tokens before `prompt` that the first step reads too.
    """
    ends, sample = end_tokens(tokenizer), Sampler(temperature, top_p, seed)
    steps = cast(nn.Module, _Steps(model, step))

    def tokens() -> Iterator[int | None]:
        cache = make_prompt_cache(steps)
        yield from _read(steps, prompt, cache, prefill_step_size)
        found: Iterator[tuple[Any, Any]] = generate_step(
            mx.array(list(prompt[-1:])), steps, max_tokens=max_tokens, prompt_cache=cache,
            sampler=lambda logprobs: or_none(sample(logprobs), logprobs),
        )  # fmt: skip
        yield from _checked((int(token) for token, _ in found), read_before + len(prompt), edited)

    with wired_limit(model, [cast(mx.Stream, generation_stream)]):
        yield from with_text(tokens(), new_text(tokenizer), ends)


def _read(steps: nn.Module, prompt: Sequence[int], cache: list[Any], chunk: int) -> Iterator[None]:
    """Reads a prompt but for its last token, in the passes of `generate_step`; pauses between them."""
    last = len(prompt) - 1
    for start in range(0, last, chunk):
        if start:
            yield None
        with mx.stream(cast(mx.Stream, generation_stream)):
            steps(mx.array(list(prompt[start : min(start + chunk, last)]))[None], cache=cache)
            mx.eval([layer.state for layer in cache])
        mx.clear_cache()


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


class Sampler:
    """Samples the tokens of one text with a random state of its own; temperature 0 takes the likeliest."""

    def __init__(self, temperature: float, top_p: float, seed: int | None):
        self.temperature, self.top_p = temperature, top_p
        self._key = mx.random.key(_entropy() if seed is None else seed)
        if seed is None:
            self._key = mx.random.split(self._key)[0]

    def __call__(self, logprobs: mx.array) -> mx.array:
        """Tokens (1,) from log probabilities (1, vocabulary)."""
        return sample_rows([self], logprobs)

    def noise(self, size: int) -> mx.array:
        """Gumbel's numbers (size,) for the next token; zeros where the likeliest is taken."""
        if self.temperature == 0:
            return mx.zeros((size,))
        self._key, key = mx.random.split(self._key)
        return mx.random.gumbel((size,), key=key)

    def kept(self, logprobs: mx.array) -> mx.array:
        """Log probabilities (1, vocabulary), -inf where `top_p` leaves a token out."""
        return apply_top_p(logprobs, self.top_p) if self.temperature > 0 and self.top_p < 1 else logprobs


def sample_rows(samplers: Sequence[Sampler], logprobs: mx.array) -> mx.array:
    """Tokens (texts,), each as its own sampler gives it from its row of log probabilities (texts, vocabulary).

    Takes the largest sum of a log probability and Gumbel's noise. `mx.random.categorical` looks one row up in its
    cumulated probabilities, where a rounding of one logit moves the border of every token after it.
    """
    if all(one.temperature == 0 for one in samplers):
        return mx.argmax(logprobs, axis=-1)
    if any(one.top_p < 1 for one in samplers):
        logprobs = mx.concatenate([one.kept(logprobs[k : k + 1]) for k, one in enumerate(samplers)])
    temperatures = mx.array([[one.temperature or 1.0] for one in samplers], dtype=mx.float32)
    noise = mx.stack([one.noise(logprobs.shape[-1]) for one in samplers])
    return mx.argmax(logprobs.astype(mx.float32) / temperatures + noise, axis=-1)


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
