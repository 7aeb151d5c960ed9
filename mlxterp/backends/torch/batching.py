"""Passes over several texts at a time, with transformers' own caches: see `host.batching`.

A model without a cache runs the whole texts again for every token, and so only texts of equal length together.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...core.continuations import Continuation
from ...core.sites import SiteEdit, Where
from ..base import Backend
from ..host.row_edits import RowEdits
from ..host.row_passes import NO_TOKEN, Batch, Group
from .arrays import BACKEND
from .generation import PassOptions, sampler
from .values import logits_of

Pass = Callable[[Any, Sequence[SiteEdit], Where, dict[str, Any]], Any]
"""(token ids (texts, columns), edits, where, keyword arguments) -> what the model returned"""


_MERGED = {
    "DynamicLayer", "DynamicSlidingWindowLayer", "LinearAttentionLayer", "LinearAttentionAndFullAttentionLayer",
    "LinearAttentionAndSlidingWindowAttentionLayer",
}  # fmt: skip
"""Layers of transformers' caches that hold what `_merged_cache` knows to put side by side."""


@dataclass(eq=False, slots=True)
class _Held:
    """What a batch has read."""

    cache: dict[str, Any]
    """As the model takes it, by the name that it takes; empty before the first pass, or where it has none."""
    ids: torch.Tensor | None
    """int64, (texts, columns): the texts, where there is no cache."""
    padding: np.ndarray
    """int64, (texts,): columns before each text's first token."""


class TorchPasses:
    """See `Passes`."""

    backend: Backend = BACKEND
    ahead = False
    reads_last = True

    def __init__(self, run: Pass, options: PassOptions, rows: Sequence[Continuation]):
        self._run, self._options, self._rows = run, options, rows
        self.whole_prompts = options.whole_prompt or not options.cached  # as alone
        self._prompts = np.array([len(row.prompt) for row in rows], dtype=np.int64)
        self._samplers = [sampler(row.temperature, row.top_p, row.seed) for row in rows]
        self._greedy = all(row.temperature == 0 for row in rows)
        self._edits = RowEdits(rows, BACKEND)

    def fresh(self, rows: list[int]) -> Batch:
        nothing = np.zeros(len(rows), dtype=np.int64)
        return Batch(rows, nothing, _Held({}, None, nothing))

    def read(self, batch: Batch, ids: np.ndarray) -> torch.Tensor:
        return self._passed(batch, torch.as_tensor(ids))

    def padded(self, batch: Batch, ids: Sequence[Sequence[int]], chunk: int) -> Group | None:
        """On the left, as transformers does; nothing may be read before."""
        if batch.places.any():
            return None
        longest = max(map(len, ids))
        padding = np.array([longest - len(row) for row in ids], dtype=np.int64)
        whole = np.zeros((len(ids), longest), dtype=np.int64)
        for row, given, begin in zip(whole, ids, padding, strict=True):
            row[begin:] = given
        batch, step = Batch(batch.rows, -padding, _Held({}, None, padding)), max(1, chunk // len(ids))
        logits: torch.Tensor | None = None
        for start in range(0, longest, step):
            logits = self.read(batch, whole[:, start : start + step])
        return batch, logits

    def logits(self, batch: Batch, tokens: torch.Tensor) -> torch.Tensor:
        return self._passed(batch, tokens[:, None])

    def _passed(self, batch: Batch, ids: torch.Tensor) -> torch.Tensor:
        held: _Held = batch.cache
        new = ids.shape[1]
        where = batch.where(new, self._prompts)
        if held.ids is not None:  # no cache: from the first token on
            ids = torch.cat([held.ids, ids], dim=1)
            where = Where(np.arange(ids.shape[1]), None, prompts=where.prompts)
        options = {**self._options.given, **held.cache}
        if held.padding.any():
            places = np.broadcast_to(where.positions, tuple(ids.shape))
            options |= self._options.placed(held.padding, places)
        out = self._run(ids, self._edits.of(batch.rows), where, options)
        held.cache = self._options.cache_of(out)
        held.ids = None if held.cache else ids
        batch.places = batch.places + new
        logits = logits_of(out)[:, -1]
        return logits

    def kept(self, batch: Batch, index: Sequence[int]) -> Batch:
        chosen, n, held = list(index), len(batch.rows), batch.cache
        cache = _kept(held.cache, torch.tensor(chosen, dtype=torch.int64), n)
        new = _Held(cache, None if held.ids is None else held.ids[chosen], held.padding[chosen])
        return Batch([batch.rows[k] for k in chosen], batch.places[chosen], new)

    def kind(self, batch: Batch) -> Any:
        return type(next(iter(batch.cache.cache.values()), None))

    def merged(self, batches: Sequence[Batch]) -> Batch | None:
        longest = max(int(batch.places[0]) for batch in batches)
        sizes = [len(batch.rows) for batch in batches]
        name, caches = "", []
        for batch in batches:
            held: _Held = batch.cache
            if held.ids is not None:
                return None
            name = next(iter(held.cache), name)
            caches.append(held.cache.get(name))
        whole = _merged_cache(caches, sizes)
        if whole is None:
            return None
        places = np.concatenate([batch.places for batch in batches])
        rows = [i for batch in batches for i in batch.rows]
        keyed = any(getattr(layer, "keys", None) is not None for layer in whole.layers)
        padding = longest - places if keyed else np.zeros_like(places)  # a recurrence holds no columns
        return Batch(rows, places, _Held({name: whole}, None, padding))

    @torch.inference_mode()
    def sampled(self, batch: Batch, logits: torch.Tensor) -> torch.Tensor:
        best = logits.argmax(-1, keepdim=True)
        finite = torch.isfinite(logits.gather(-1, best))[:, 0].tolist()  # NaN is the largest, where one is
        tokens = best[:, 0].cpu()
        if self._greedy and all(finite):
            return tokens
        for k, i in enumerate(batch.rows):
            if not finite[k]:
                tokens[k] = NO_TOKEN
            elif self._rows[i].temperature > 0:
                tokens[k] = self._samplers[i](logits[k])
        return tokens

    def put(self, tokens: Sequence[int]) -> torch.Tensor:
        return torch.tensor(list(tokens), dtype=torch.int64)

    def get(self, tokens: torch.Tensor) -> list[int]:
        return tokens.tolist()

    def take(self, tokens: torch.Tensor, index: Sequence[int]) -> torch.Tensor:
        return tokens[list(index)]

    def bytes_of(self, batch: Batch) -> int:
        return _bytes(batch.cache.cache) + 8 * batch.places.size


def scales_by_longest(model: Any) -> bool:
    """Whether its rotary positions are scaled by the longest text of a pass: the others would change with it."""
    config = getattr(model, "config", None)
    held = [getattr(config, name, None) for name in ("rope_parameters", "rope_scaling")]
    settings = [one for given in held if isinstance(given, dict) for one in (given, *given.values())]
    kinds = {one.get("rope_type", one.get("type")) for one in settings if isinstance(one, dict)}
    return bool(kinds & {"dynamic", "longrope"})


def _kept(thing: Any, index: torch.Tensor, n: int) -> Any:
    """Some texts of a cache (or of what it holds), as another one."""
    if isinstance(thing, torch.Tensor):
        return thing[index.to(thing.device)] if thing.ndim and thing.shape[0] == n else thing
    if isinstance(thing, dict):
        return {name: _kept(one, index, n) for name, one in thing.items()}
    if isinstance(thing, (list, tuple)):
        return type(thing)(_kept(one, index, n) for one in thing)
    if _is_cache(thing):
        other = copy.copy(thing)
        for name, value in vars(thing).items():
            setattr(other, name, _kept(value, index, n))
        return other
    return thing


def cast_like(thing: Any, other: Any) -> Any:
    """A cache, or an output that holds one, in the dtypes of another one of the same text; its objects are changed."""
    if isinstance(thing, torch.Tensor):
        return (
            thing.to(other.dtype) if isinstance(other, torch.Tensor) and thing.is_floating_point() else thing
        )
    if isinstance(thing, (list, tuple)) and isinstance(other, (list, tuple)):
        return type(thing)(cast_like(one, like) for one, like in zip(thing, other, strict=True))
    if isinstance(thing, dict) and isinstance(other, dict):
        for name, value in thing.items():
            thing[name] = cast_like(value, other.get(name))
    elif _is_cache(thing):
        for name, value in vars(thing).items():
            setattr(thing, name, cast_like(value, getattr(other, name, None)))
    return thing


def _is_cache(thing: Any) -> bool:
    """A cache or a layer of one, of transformers or of a model's own code; not a class, nor a configuration."""
    return hasattr(thing, "__dict__") and type(thing).__name__.endswith(("Cache", "Layer", "Params", "State"))


def _merged_cache(caches: Sequence[Any], sizes: Sequence[int]) -> Any:
    """Caches of texts of different lengths as one, the keys padded on the left; None where that is not known how.

    Args:
        caches: None for texts of which nothing was read.
        sizes: How many texts each holds.
    """
    first = next((cache for cache in caches if cache is not None), None)
    layers = getattr(first, "layers", None)
    if (
        first is None
        or not isinstance(layers, list)
        or not all(type(layer).__name__ in _MERGED for layer in layers)
    ):
        return None
    whole = copy.copy(first)
    whole.layers = []
    for number, layer in enumerate(layers):
        other = copy.copy(layer)
        for name in vars(layer):
            values = [None if cache is None else getattr(cache.layers[number], name) for cache in caches]
            setattr(other, name, _merged(name, values, sizes))
        whole.layers.append(other)
    return whole


def _merged(name: str, values: Sequence[Any], sizes: Sequence[int]) -> Any:
    """One attribute of a cache's layer, for all texts."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    if isinstance(known[0], dict):
        names = known[0].keys()
        return {
            key: _merged(name, [None if value is None else value[key] for value in values], sizes)
            for key in names
        }
    if name == "cumulative_length":
        return max(known)
    if not isinstance(known[0], torch.Tensor) or not known[0].ndim:
        return known[0]
    shape = list(known[0].shape[1:])
    if name in ("keys", "values"):
        shape[-2] = max(int(value.shape[-2]) for value in known)
    parts = []
    for value, size in zip(values, sizes, strict=True):
        part = known[0].new_zeros((size, *shape))
        if value is not None and name in ("keys", "values"):
            part[..., shape[-2] - value.shape[-2] :, :] = value
        elif value is not None:
            part[...] = value
        parts.append(part)
    return torch.cat(parts)


def _bytes(thing: Any) -> int:
    if isinstance(thing, torch.Tensor):
        return thing.numel() * thing.element_size()
    if isinstance(thing, dict):
        return sum(map(_bytes, thing.values()))
    if isinstance(thing, (list, tuple)):
        return sum(map(_bytes, thing))
    return _bytes(vars(thing)) if _is_cache(thing) else 0
