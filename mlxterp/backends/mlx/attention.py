"""Per-head values of attention: q, k, v, z and pattern.

Nearly all of mlx-lm computes attention through the one function
`mx.fast.scaled_dot_product_attention`; while a pass asks for per-head values, that attribute is a
function that reports to the pass. Two architectures (gemma2 and olmo) compute the softmax
themselves: theirs are read from the modules around it and from `mx.softmax`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any

import mlx.core as mx

from ...core.sites import Change, Component, Site, SiteEdit, Where, head_at_site
from ..host.patches import Patch, Patches
from .intercept import Tracer
from .swap import current_tracer

PATCHES = Patches()
"""What is replaced in `mx` while passes need it, by all of this wing."""


@contextmanager
def attention_seen(tracer: Tracer) -> Iterator[None]:
    """Within this block the attention calls of `tracer`'s pass go through it, if it asks for any."""
    with PATCHES.replaced(_SEEN if tracer.attention else ()):
        yield


def _block(tracer: Tracer) -> str | None:
    """The decoder block that this call belongs to, if the pass asks for its attention."""
    for node in reversed(tracer.stack):
        if node.path in tracer.attention:
            return node.path
    return None


def _attention(
    original: Callable[..., mx.array],
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float,
    mask: Any = None,
    sinks: mx.array | None = None,
    **options: Any,
) -> mx.array:
    tracer = current_tracer()
    block = None if tracer is None else _block(tracer)
    if tracer is None or block is None:
        return original(q, k, v, scale=scale, mask=mask, sinks=sinks, **options)
    number = tracer.next_attention_call(block)
    q = tracer.pass_through(Site(block, "q"), q, number)
    k = tracer.pass_through(Site(block, "k"), k, number)
    v = tracer.pass_through(Site(block, "v"), v, number)
    site = Site(block, "pattern")
    if site in tracer.edits:
        pattern = attention_pattern(q, k, scale, mask, sinks)
        pattern = tracer.pass_through(site, pattern, number)
        z = pattern.astype(v.dtype) @ repeat_heads(v, q.shape[1])
    else:
        if site in tracer.wanted:
            tracer.pass_through(site, attention_pattern(q, k, scale, mask, sinks), number)
        z = original(q, k, v, scale=scale, mask=mask, sinks=sinks, **options)
    return tracer.pass_through(Site(block, "z"), z, number)


def attention_pattern(
    q: mx.array, k: mx.array, scale: float, mask: Any = None, sinks: mx.array | None = None
) -> mx.array:
    """softmax(q kᵀ · scale + mask), (batch, heads, queries, keys), in the dtype of q.

    With attention sinks a row sums to less than 1: the rest went to the sink.
    """
    k = repeat_heads(k, q.shape[1])
    scores = (q.astype(mx.float32) * scale) @ k.astype(mx.float32).swapaxes(-1, -2)
    if isinstance(mask, str):  # "causal"
        n, m = scores.shape[-2:]
        mask = mx.arange(m - n, m)[:, None] >= mx.arange(m)[None]
    if mask is not None:
        scores = mx.where(mask, scores, mx.finfo(mx.float32).min) if mask.dtype == mx.bool_ else scores + mask
    softmax = PATCHES.original(mx, "softmax")
    if sinks is None:
        return softmax(scores, axis=-1, precise=True).astype(q.dtype)
    column = mx.broadcast_to(sinks.reshape(1, -1, 1, 1).astype(mx.float32), (*scores.shape[:-1], 1))
    full = softmax(mx.concatenate([column, scores], axis=-1), axis=-1, precise=True)
    return full[..., 1:].astype(q.dtype)


def repeat_heads(x: mx.array, heads: int) -> mx.array:
    """Keys or values (batch, n_kv_heads, …), each as often as query heads share it: (batch, heads, …)."""
    return x if x.shape[1] == heads else mx.repeat(x, heads // x.shape[1], axis=1)


# -- architectures that compute the softmax themselves ----------------------------------------


@dataclass(frozen=True, slots=True)
class _OwnSoftmax:
    """Where such an attention keeps its values, by path below the decoder block."""

    rope: str
    """Called with the queries, then with the keys."""
    v: str
    """Its output holds the values, the last `v_parts`-th of its width."""
    v_parts: int
    z: str
    """Its input is z, heads side by side."""
    scale: str
    """The attribute that queries are multiplied by."""


_OWN_SOFTMAX = {
    "gemma2": _OwnSoftmax("self_attn.rope", "self_attn.v_proj", 1, "self_attn.o_proj", "self_attn.scale"),
    "olmo": _OwnSoftmax("rope", "att_proj", 3, "attn_out", "scale"),
}


def own_softmax(model_type: str) -> bool:
    """Whether this architecture's attention does not go through the common function."""
    return model_type in _OWN_SOFTMAX


def own_scale(model_type: str, block: Any) -> float | None:
    """What a block of such an architecture multiplies q kᵀ by; None for others."""
    places = _OWN_SOFTMAX.get(model_type)
    return None if places is None else float(attrgetter(places.scale)(block))


def head_component(model_type: str, block: str, port: str, name: str, head_dim: int) -> Component:
    """A per-head value as a component."""
    places = _OWN_SOFTMAX.get(model_type)
    if places is None or port == "pattern":
        return head_at_site(name, Site(block, port))
    if port in ("q", "k"):
        return _as_heads(name, Site(f"{block}.{places.rope}"), "qk".index(port))
    if port == "z":
        return _side_by_side(name, Site(f"{block}.{places.z}", "input"), 1, head_dim)
    return _side_by_side(name, Site(f"{block}.{places.v}"), places.v_parts, head_dim)


def _heads_first(where: Where) -> Where:
    return replace(where, heads_first=True)


def _as_heads(name: str, site: Site, call: int) -> Component:
    """A module's output that is already laid out by heads, at one of its calls."""

    def edits(change: Change, _number: int | None) -> list[SiteEdit]:
        return [SiteEdit(site, lambda x, run, _: change(x, _heads_first(run.where), run), call)]

    return Component(name, (site,), lambda values: values[0], edits, call=call)


def _side_by_side(name: str, site: Site, parts: int, head_dim: int) -> Component:
    """Heads that stand side by side in the last of `parts` parts of a value's width."""

    def split(x: mx.array) -> mx.array:
        part = x[..., -(x.shape[-1] // parts) :]
        return part.reshape(*part.shape[:-1], -1, head_dim).swapaxes(-2, -3)

    def join(x: mx.array, heads: mx.array) -> mx.array:
        part = heads.swapaxes(-2, -3).reshape(*x.shape[:-1], -1)
        rest = x[..., : x.shape[-1] - part.shape[-1]]
        return mx.concatenate([rest, part], axis=-1) if parts > 1 else part

    def edits(change: Change, number: int | None) -> list[SiteEdit]:
        return [
            SiteEdit(site, lambda x, run, _: join(x, change(split(x), _heads_first(run.where), run)), number)
        ]

    return Component(name, (site,), lambda values: split(values[0]), edits)


def _softmax(original: Callable[..., mx.array], x: mx.array, *args: Any, **options: Any) -> mx.array:
    out = original(x, *args, **options)
    tracer = current_tracer()
    if tracer is None or x.ndim < 4 or not own_softmax(tracer.model_type):
        return out
    block = _block(tracer)
    if block is None:
        return out
    heads = out.reshape(out.shape[0], -1, *out.shape[-2:])
    number = tracer.next_attention_call(block)
    return tracer.pass_through(Site(block, "pattern"), heads, number).reshape(out.shape)


_SEEN = (
    Patch(mx.fast, "scaled_dot_product_attention", lambda original: partial(_attention, original)),
    Patch(mx, "softmax", lambda original: partial(_softmax, original)),
)
