"""Passes over several texts at a time, with mlx-lm's own caches: see `host.batching`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.generate import generation_stream
from mlx_lm.models.cache import make_prompt_cache

from ...core.continuations import Continuation
from ..base import Backend
from ..host.row_edits import RowEdits
from ..host.row_passes import NO_TOKEN, Batch, Group
from .arrays import BACKEND
from .generation import Sampler, sample_rows

Pass = Callable[..., mx.array]
"""(token ids, edits, where, cache=…) -> logits"""


class MLXPasses:
    """See `Passes`."""

    backend: Backend = BACKEND
    ahead = True
    whole_prompts = False
    reads_last = False

    def __init__(self, model: nn.Module, run: Pass, rows: Sequence[Continuation]):
        self._model, self._run, self._rows = model, run, rows
        self._prompts = np.array([len(row.prompt) for row in rows], dtype=np.int64)
        self._samplers = [Sampler(row.temperature, row.top_p, row.seed) for row in rows]
        self._edits = RowEdits(rows, BACKEND)

    def fresh(self, rows: list[int]) -> Batch:
        return Batch(rows, np.zeros(len(rows), dtype=np.int64), make_prompt_cache(self._model))

    def padded(self, batch: Batch, ids: Sequence[Sequence[int]], chunk: int) -> Group | None:
        """On the right, as mlx-lm does, whose caches then move what they hold to the right."""
        lengths = [len(row) for row in ids]
        longest = max(lengths)
        merged = self.merged([batch]) if longest > 1 else None  # their rotating caches take no single column
        if merged is None:
            return None
        whole = np.zeros((len(ids), longest), dtype=np.int64)
        for row, given in zip(whole, ids, strict=True):
            row[: len(given)] = given
        with self._stream():
            for layer in merged.cache:
                layer.prepare(lengths=lengths, right_padding=[longest - length for length in lengths])
        parts = -(-longest // max(2, chunk // len(ids)))
        for part in np.array_split(whole, max(1, min(parts, longest // 2)), axis=1):
            self.read(merged, part)
        with self._stream():
            for layer in merged.cache:
                layer.finalize()
            mx.eval([layer.state for layer in merged.cache])
        return Batch(merged.rows, batch.places + np.array(lengths, dtype=np.int64), merged.cache), None

    def read(self, batch: Batch, ids: np.ndarray) -> None:
        with self._stream():
            self._passed(batch, mx.array(ids.astype(np.int32)))
            mx.eval([layer.state for layer in batch.cache])
            mx.clear_cache()

    def logits(self, batch: Batch, tokens: mx.array) -> mx.array:
        with self._stream():
            return self._passed(batch, tokens[:, None])[:, -1, :]

    def _passed(self, batch: Batch, ids: mx.array) -> mx.array:
        where = batch.where(ids.shape[1], self._prompts)
        logits = self._run(ids, self._edits.of(batch.rows), where, cache=batch.cache)
        batch.places = batch.places + ids.shape[1]
        return logits

    def kept(self, batch: Batch, index: Sequence[int]) -> Batch:
        chosen = mx.array(list(index), dtype=mx.int32)
        n = len(batch.rows)
        with self._stream():
            cache = [_kept(layer, chosen, n) for layer in batch.cache]
        return Batch([batch.rows[k] for k in index], batch.places[list(index)], cache)

    def kind(self, batch: Batch) -> Any:
        return tuple(map(_states, batch.cache))

    def merged(self, batches: Sequence[Batch]) -> Batch | None:
        if not all(_merges(layer) for layer in batches[0].cache):
            return None
        with self._stream():
            single = [
                [_kept(layer, mx.array([k]), len(batch.rows)) for layer in batch.cache]
                for batch in batches
                for k in range(len(batch.rows))
            ]
            cache = [type(layers[0]).merge(list(layers)) for layers in zip(*single, strict=True)]
            mx.eval([layer.state for layer in cache])
        rows = [i for batch in batches for i in batch.rows]
        return Batch(rows, np.concatenate([batch.places for batch in batches]), cache)

    def sampled(self, batch: Batch, logits: mx.array) -> mx.array:
        with self._stream():
            total = mx.logsumexp(logits, axis=-1, keepdims=True)
            logprobs = logits - total
            tokens = sample_rows([self._samplers[i] for i in batch.rows], logprobs).astype(mx.int32)
            tokens = mx.where(mx.isfinite(total[:, 0]), tokens, NO_TOKEN)
            mx.async_eval(tokens)
        return tokens

    def put(self, tokens: Sequence[int]) -> mx.array:
        return mx.array(list(tokens), dtype=mx.int32)

    def get(self, tokens: mx.array) -> list[int]:
        return cast("list[int]", tokens.tolist())

    def take(self, tokens: mx.array, index: Sequence[int]) -> mx.array:
        with self._stream():
            return tokens[mx.array(list(index), dtype=mx.int32)]

    def bytes_of(self, batch: Batch) -> int:
        return sum(_bytes(layer) for layer in batch.cache)

    def _stream(self) -> Any:
        return mx.stream(cast(mx.Stream, generation_stream))


def _kept(thing: Any, index: mx.array, n: int) -> Any:
    """Some texts of a cache (or of what it holds), as another one."""
    if isinstance(thing, mx.array):
        return thing[index] if thing.ndim and thing.shape[0] == n else thing
    if isinstance(thing, (list, tuple)):
        return type(thing)(_kept(one, index, n) for one in thing)
    if hasattr(thing, "__dict__"):
        if hasattr(thing, "filter") and hasattr(thing, "left_padding") and thing.left_padding is not None:
            thing.filter(index)  # a merged one: it also cuts what is padding for all
            return thing
        other = copy.copy(thing)
        for name, value in vars(thing).items():
            setattr(other, name, _kept(value, index, n))
        return other
    return thing


def cast_like(thing: Any, other: Any) -> Any:
    """A cache (or what it holds) in the dtypes of another one of the same text; its objects are changed."""
    if isinstance(thing, mx.array):
        return thing.astype(other.dtype) if isinstance(other, mx.array) else thing
    if isinstance(thing, (list, tuple)) and isinstance(other, (list, tuple)):
        return type(thing)(cast_like(one, like) for one, like in zip(thing, other, strict=True))
    if hasattr(thing, "__dict__"):
        for name, value in vars(thing).items():
            setattr(thing, name, cast_like(value, getattr(other, name, None)))
    return thing


def _merges(cache: Any) -> bool:
    """Whether mlx-lm knows how to merge it: its own classes do, without tokens that are kept for ever."""
    parts = getattr(cache, "caches", None)
    if parts is not None:
        return all(map(_merges, parts))
    own = type(cache).__module__ == "mlx_lm.models.cache" and hasattr(type(cache), "merge")
    return own and not getattr(cache, "keep", 0)


def _states(cache: Any) -> tuple[Any, ...]:
    """The shapes of a recurrence's states, None before the first token: zeros in their place would be another start,
    and mlx-lm stretches those of another shape.
    """
    parts = getattr(cache, "caches", None)
    if parts is not None:
        return tuple(map(_states, parts))
    states = getattr(cache, "cache", None)
    return tuple(None if x is None else x.shape[1:] for x in states) if isinstance(states, list) else ()


def _bytes(thing: Any) -> int:
    """What a cache holds for its tokens, without the room that it keeps for more."""
    if isinstance(thing, mx.array):
        return thing.nbytes
    if isinstance(thing, (list, tuple)):
        return sum(map(_bytes, thing))
    used = getattr(thing, "offset", None)
    whole = sum(map(_bytes, vars(thing).values())) if hasattr(thing, "__dict__") else 0
    keys = getattr(thing, "keys", None)
    if isinstance(used, int) and isinstance(keys, mx.array) and keys.shape[-2] > used:
        return whole * used // keys.shape[-2]
    return whole
