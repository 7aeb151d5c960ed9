"""Per-head values of attention: q, k, v, z and pattern.

Most of transformers computes attention through functions that it looks up with
`AttentionInterface.get_interface`; while a pass asks for per-head values, the function found there
reports to the pass. Models that compute their own attention (bloom, falcon, gptj, …) never look it
up, so their per-head values cannot be read.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from ...core.sites import Site
from ...errors import ComponentError
from .intercept import Tracer
from .swap import current_tracer

_lock = threading.RLock()
_users = 0
_original: Callable | None = None

_READABLE = ("eager", "sdpa")
"""Implementations whose masks are plain tensors, so that the pattern can be computed beside them."""


@contextmanager
def attention_seen(tracer: Tracer) -> Iterator[None]:
    """Within this block the attention calls of `tracer`'s pass go through it, if it asks for any."""
    global _users, _original
    interface = _interface() if tracer.attention else None
    if interface is None:
        yield
        return
    with _lock:
        if _users == 0:
            _original = interface.get_interface
            interface.get_interface = _get_interface
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                interface.get_interface = _original


def _interface() -> Any:
    """transformers' class; None where this process has not loaded it, so no model can use it."""
    module = sys.modules.get("transformers.modeling_utils")
    interface = getattr(module, "AttentionInterface", None)
    return interface if hasattr(interface, "get_interface") else None


def _get_interface(self: Any, implementation: str, default: Callable) -> Callable:
    assert _original is not None
    function = _original(self, implementation, default)
    return function if current_tracer() is None else partial(_attention, function, implementation or "eager")


def _block(tracer: Tracer) -> str | None:
    """The decoder block that this call belongs to, if the pass asks for its attention."""
    for node in reversed(tracer.stack):
        if node.path in tracer.attention:
            return node.path
    return None


def _attention(
    function: Callable,
    implementation: str,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any = None,
    **options: Any,
) -> Any:
    """`function` on values that the pass has seen and edited; its output is (batch, positions, heads, …)."""
    tracer = current_tracer()
    block = None if tracer is None else _block(tracer)
    if tracer is None or block is None:
        return function(module, query, key, value, attention_mask, **options)
    number, scale = tracer.next_attention_call(block), options.get("scaling")
    tracer.scales[block] = float(query.shape[-1] ** -0.5 if scale is None else scale)
    q = tracer.pass_through(Site(block, "q"), query, number)
    k = tracer.pass_through(Site(block, "k"), key, number)
    v = tracer.pass_through(Site(block, "v"), value, number)
    out, *rest = function(module, q, k, v, attention_mask, **options)
    z = heads = out.transpose(1, 2)
    site = Site(block, "pattern")
    if site in tracer.wanted or site in tracer.edits:
        if implementation not in _READABLE:
            raise ComponentError(
                f"The pattern of {block} cannot be read with attn_implementation={implementation!r}. Load the"
                f" model with one of: {', '.join(_READABLE)}."
            )
        pattern = attention_pattern(module, q, k, attention_mask, implementation, **options)
        _check(pattern, v, z, block, module)
        edited = tracer.pass_through(site, pattern, number)
        if edited is not pattern:
            z = edited.to(v.dtype) @ _repeat_heads(v, q.shape[1])
    z = tracer.pass_through(Site(block, "z"), z, number)
    if z is not heads:
        out = z.transpose(1, 2).contiguous()
    return (out, *rest)


def attention_pattern(
    module: nn.Module,
    q: torch.Tensor,
    k: torch.Tensor,
    mask: torch.Tensor | None,
    implementation: str,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    position_bias: torch.Tensor | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor:
    """softmax(q kᵀ · scaling, capped, biased and masked), (batch, heads, queries, keys), in q's dtype.

    With attention sinks a row sums to less than 1: the rest went to the sink.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    k = _repeat_heads(k, q.shape[1])
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (q.to(dtype) @ k.to(dtype).transpose(-1, -2)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if position_bias is not None:
        scores = scores + position_bias
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    if mask is None and implementation == "sdpa" and is_causal:  # one query alone sees everything
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        mask = mask | (q.shape[2] == 1)
    if mask is not None:
        mask = mask[..., : scores.shape[-1]]
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    sinks = getattr(module, "sinks", None) if s_aux is None else s_aux
    if isinstance(sinks, torch.Tensor):
        column = sinks.to(dtype).reshape(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        return torch.cat([scores, column], dim=-1).softmax(-1)[..., :-1].to(q.dtype)
    return scores.softmax(-1).to(q.dtype)


def _check(pattern: torch.Tensor, v: torch.Tensor, z: torch.Tensor, block: str, module: nn.Module) -> None:
    """Compares pattern @ v with what the model computed: an attention of another kind must not pass."""
    with torch.no_grad():
        close = pattern.shape[-1] == v.shape[2] and bool(
            (pattern.to(v.dtype) @ _repeat_heads(v, pattern.shape[1]) - z).abs().max()
            <= (1e-4 if v.element_size() >= 4 else 2e-2) * v.abs().max().clamp(min=1e-6)
        )
    if not close:
        raise ComponentError(
            f"The attention of {block} ({type(module).__name__}) is more than softmax(q kᵀ) v, so its pattern"
            " cannot be read or edited. q, k, v and z can."
        )


def _repeat_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)
