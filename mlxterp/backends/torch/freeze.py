"""What is held constant in a frozen pass of torch: a mode that sees every function, in this thread only.

The first pass records the value of each function that multiplies activations by activations (attention, denominators
of norms, gates), in the order of the calls; the others take it from there, so the pass is affine. MLPs whose outputs
are replaced are not run again. Where weights have fewer bits than the stream, products are computed in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from ...core.frozen import FrozenPlaces
from ...core.sites import Run, Site, SiteEdit
from .intercept import Tracer
from .recording import Call
from .tree import ModuleTree

_T = torch.Tensor
_TANH = {torch.tanh, _T.tanh, F.tanh, _T.tanh_}
_SOFTMAX = {torch.softmax, _T.softmax, F.softmax}
_NORMS = {
    torch.rsqrt, _T.rsqrt, torch.sqrt, _T.sqrt, torch.norm, _T.norm, torch.linalg.norm,
    torch.linalg.vector_norm,
}  # fmt: skip
_POWERS = {torch.pow, _T.pow, _T.__pow__}
"""Held where the exponent is no whole number: some norms take their roots so."""
_VALUES = {
    torch.sigmoid, _T.sigmoid, F.sigmoid, torch.exp, _T.exp, torch.erf, _T.erf, torch.log, _T.log, torch.log1p,
    _T.log1p, torch.expm1, _T.expm1, torch.logaddexp, _T.logaddexp, F.softplus, F.log_softmax,
    torch.log_softmax, _T.log_softmax,
}  # fmt: skip
"""Functions whose value is held."""
_GATED = {
    F.silu, F.gelu, F.relu, torch.relu, _T.relu, F.relu6, F.mish, F.hardswish, F.leaky_relu,
}  # fmt: skip
"""Functions f with f(0) = 0, which become their argument times the held f(x) / x."""
_PRODUCTS = {
    F.linear, torch.matmul, _T.matmul, _T.__matmul__, torch.addmm, _T.addmm, torch.bmm, _T.bmm, torch.einsum,
    torch.baddbmm, F.conv1d,
}  # fmt: skip
"""Functions that take tensors of one dtype only."""


class Constants:
    """What was held, in the order of the calls, and what modules that are not run again returned."""

    def __init__(self) -> None:
        self.items: list[torch.Tensor] = []
        self.outputs: dict[Call, Any] = {}


class FrozenTracer(Tracer):
    """Knows where in the model the pass is, and does not run again what only makes a replaced output.

    Args:
        recording: Whether this is the first pass.
        skipped: Paths of modules that are not run again.
        capped: Whether a final soft cap is computed.
        factors: Path of a block, and its call → (rows, heads): what its patterns are multiplied by.

    Attributes:
        heads: Path of a block, and its call → heads of its attention.
        outside: Whether attention is called outside all blocks.
    """

    def __init__(
        self, tree: ModuleTree, layers: Sequence[str], wanted: Sequence[Site], edits: Sequence[SiteEdit],
        run: Run, places: FrozenPlaces, constants: Constants, *, recording: bool, rows: int,
        skipped: frozenset[str], factors: Mapping[Call, torch.Tensor], capped: bool = False,
    ):  # fmt: skip
        super().__init__(tree, wanted, edits, run=run)
        self._constants, self._recording, self._rows, self._skipped = constants, recording, rows, skipped
        self._factors, self.capped = factors, capped
        self.heads: dict[Call, int] = {}
        self.outside = False
        self._blocks, self._dead = frozenset(layers), places.dead | skipped
        self._last = id(tree.by_path[layers[-1]].module)
        self._passed = False
        seen = [tree.by_path[path].module for path in (*layers, *places.dead, *skipped)]
        self.modules = list({id(module): module for module in (*self.modules, *seen)}.values())

    def call(self, module: nn.Module, original: Callable, args: tuple, kwargs: dict) -> Any:
        """See `Tracer`; notices the last block."""
        self._passed = self._passed or id(module) == self._last
        return super().call(module, original, args, kwargs)

    def _returned(self, call: Call, module: nn.Module, original: Callable, args: tuple, kwargs: dict) -> Any:
        if call[0] not in self._skipped:
            return super()._returned(call, module, original, args, kwargs)
        if self._recording:
            self._constants.outputs[call] = super()._returned(call, module, original, args, kwargs)
            return self._constants.outputs[call]
        return _for_rows(self._constants.outputs[call], self._rows)

    def by_head(self, pattern: torch.Tensor) -> torch.Tensor:
        """A pattern (batch, heads, …, queries, keys) times the factors of its block's heads."""
        block = next((node.path for node in reversed(self.stack) if node.path in self._blocks), None)
        if block is None:
            self.outside = True
            return pattern
        call = block, self.counts[block] - 1
        self.heads[call] = math.prod(pattern.shape[1:-2])
        factor = self._factors.get(call)
        return pattern if factor is None else pattern * factor.reshape(*pattern.shape[:-2], 1, 1)

    @property
    def in_dead(self) -> bool:
        """Whether the pass is where nothing matters."""
        return any(node.path in self._dead for node in self.stack)

    @property
    def after_blocks(self) -> bool:
        """Whether the blocks are done."""
        return self._passed and not any(node.path in self._blocks for node in self.stack)


def _for_rows(out: Any, rows: int) -> Any:
    """What a module returned for one text, for a batch of the same text."""
    if isinstance(out, torch.Tensor):
        return out.detach().repeat(rows, *(1 for _ in out.shape[1:])) if out.ndim else out
    if isinstance(out, (tuple, list)):
        return type(out)(_for_rows(x, rows) for x in out)
    return out


class Held(TorchFunctionMode):
    """Holds what multiplies, while a pass of `tracer` runs.

    Args:
        recording: Whether this is the first pass.
    """

    def __init__(self, tracer: FrozenTracer, places: FrozenPlaces, constants: Constants, *, recording: bool):
        super().__init__()
        self._tracer, self._constants, self._recording, self._next = tracer, constants, recording, 0
        self._handlers = _handlers(places)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        handler = self._handlers.get(func) if func.__hash__ is not None else None
        if handler is None or (handler is not _widened and self._tracer.in_dead):
            return func(*args, **options)
        return handler(self, func, args, options)

    def hold(self, compute: Callable[[], torch.Tensor], shape: Sequence[int] | None = None) -> torch.Tensor:
        """The value as the first pass computed it; in the first pass, computed now."""
        if self._recording:
            with torch.no_grad():
                found = compute().detach()
            self._constants.items.append(found)
            return found
        found = self._constants.items[self._next]
        self._next += 1
        if shape is None or tuple(found.shape) == tuple(shape):
            return found
        fitting = _repeated(found, tuple(shape))
        if fitting is None:
            with torch.no_grad():
                return compute().detach()
        return fitting

    def by_head(self, pattern: torch.Tensor) -> torch.Tensor:
        """See `FrozenTracer`."""
        return self._tracer.by_head(pattern)

    def finish(self) -> None:
        """Raises RuntimeError where a pass did not make the same calls as the first."""
        if not self._recording and self._next != len(self._constants.items):
            raise RuntimeError(
                f"a replayed pass made {self._next} of {len(self._constants.items)} recorded calls"
            )


def _repeated(found: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor | None:
    """A constant of one text for a batch of it; None where it does not fit."""
    if found.ndim == len(shape) and found.shape[0] != 1 and tuple(found.shape[1:]) == shape[1:]:
        times, rest = divmod(shape[0], found.shape[0])
        if rest == 0:
            return found.repeat(times, *(1 for _ in shape[1:]))
    try:
        return found.expand(shape).contiguous()  # some models take views of it
    except RuntimeError:
        return None


Handler = Callable[[Held, Callable[..., Any], tuple, dict[str, Any]], Any]


def _handlers(places: FrozenPlaces) -> Mapping[Any, Handler]:
    """What is done instead, by function."""
    products: dict[Any, Handler] = dict.fromkeys(_PRODUCTS, _widened)
    if places.hold == "nothing":
        return products
    attention: dict[Any, Handler] = {
        **products,
        F.scaled_dot_product_attention: _attention,
        **dict.fromkeys(_TANH, _tanh),
        **dict.fromkeys(_SOFTMAX, _own_softmax),
    }
    if places.hold == "attention":
        return attention
    norms: dict[Any, Handler] = {
        **attention, F.layer_norm: _layer_norm, torch.layer_norm: _layer_norm, F.rms_norm: _rms_norm,
        F.normalize: _gated, **dict.fromkeys(_NORMS, _value), **dict.fromkeys(_POWERS, _power),
    }  # fmt: skip
    if places.hold == "attention+norms":
        return norms
    return {
        **norms, **dict.fromkeys(_SOFTMAX, _softmax), **dict.fromkeys(_VALUES, _value),
        **dict.fromkeys(_GATED, _gated),
    }  # fmt: skip


def _value(held: Held, func: Callable[..., Any], args: tuple, options: dict[str, Any]) -> Any:
    if not isinstance(args[0] if args else None, torch.Tensor) or not args[0].is_floating_point():
        return func(*args, **options)
    found = func(*args, **options)
    return held.hold(lambda: found, found.shape)


def _power(held: Held, func: Callable[..., Any], args: tuple, options: dict[str, Any]) -> Any:
    exponent = args[1] if len(args) > 1 else options.get("exponent")
    whole = not isinstance(exponent, float) or exponent.is_integer()
    return func(*args, **options) if whole else _value(held, func, args, options)


def _own_softmax(held: Held, func: Callable[..., Any], args: tuple, options: dict[str, Any]) -> Any:
    """The softmax of an attention that computes it itself."""
    return _softmax(held, func, args, options) if _is_by_head(args, options) else func(*args, **options)


def _softmax(held: Held, func: Callable[..., Any], args: tuple, options: dict[str, Any]) -> Any:
    found = _value(held, func, args, options)
    return held.by_head(found) if _is_by_head(args, options) else found


def _is_by_head(args: tuple, options: dict[str, Any]) -> bool:
    first = args[0] if args else options.get("input")
    return isinstance(first, torch.Tensor) and first.ndim >= 4


def _tanh(held: Held, func: Callable[..., Any], args: tuple, options: dict[str, Any]) -> Any:
    if not held._tracer.after_blocks:
        return _value(held, func, args, options)
    # A final soft cap, before which logits are read.
    return func(*args, **options) if held._tracer.capped else args[0]


def _gated(held: Held, func: Callable[..., Any], args: tuple, options: dict[str, Any]) -> Any:
    x, *rest = args if args else (options.pop("input"),)

    def share() -> torch.Tensor:
        out = func(x, *rest, **{**options, **({"inplace": False} if options.get("inplace") else {})})
        return torch.where(x == 0, torch.zeros_like(out), out / torch.where(x == 0, torch.ones_like(x), x))

    return x * held.hold(share, x.shape)


def _layer_norm(held: Held, _func: Callable[..., Any], args: tuple, options: dict[str, Any]) -> Any:
    given = {
        **dict(zip(("input", "normalized_shape", "weight", "bias", "eps"), args, strict=False)),
        **options,
    }
    x, weight, bias = given["input"], given.get("weight"), given.get("bias")
    axes, wide = _axes(given["normalized_shape"]), x.float()
    centred = wide - wide.mean(axes, keepdim=True)
    scale = held.hold(
        lambda: (centred.square().mean(axes, keepdim=True) + given.get("eps", 1e-5)).rsqrt(),
        (*x.shape[: len(x.shape) - len(axes)], *(1 for _ in axes)),
    )
    out = (centred * scale).to(x.dtype)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def _rms_norm(held: Held, _func: Callable[..., Any], args: tuple, options: dict[str, Any]) -> Any:
    given = {**dict(zip(("input", "normalized_shape", "weight", "eps"), args, strict=False)), **options}
    x, weight, eps = given["input"], given.get("weight"), given.get("eps")
    axes, wide = _axes(given["normalized_shape"]), x.float()
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    scale = held.hold(
        lambda: (wide.square().mean(axes, keepdim=True) + eps).rsqrt(),
        (*x.shape[: len(x.shape) - len(axes)], *(1 for _ in axes)),
    )
    out = (wide * scale).to(x.dtype)
    return out if weight is None else out * weight


def _axes(shape: Any) -> tuple[int, ...]:
    return tuple(range(-len(shape), 0))


def _attention(held: Held, _func: Callable[..., Any], args: tuple, options: dict[str, Any]) -> Any:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    given = {**dict(zip(names, args, strict=False)), **options}
    q, k, v = given["query"], given["key"], given["value"]
    pattern = held.hold(
        lambda: _pattern(q, k, given.get("attn_mask"), bool(given.get("is_causal")), given.get("scale")),
        (*q.shape[:-1], k.shape[-2]),
    )
    times = q.shape[-3] // v.shape[-3]
    v = v if times == 1 else v.repeat_interleave(times, dim=-3)
    return held.by_head(pattern).to(v.dtype) @ v


def _pattern(
    q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor | None, is_causal: bool, scale: float | None
) -> torch.Tensor:
    """softmax(q kᵀ · scale + mask), (batch, heads, queries, keys), float32."""
    times = q.shape[-3] // k.shape[-3]
    k = k if times == 1 else k.repeat_interleave(times, dim=-3)
    scores = (q.float() @ k.float().transpose(-1, -2)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~allowed, float("-inf"))
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


def _widened(_held: Held, func: Callable[..., Any], args: tuple, options: dict[str, Any]) -> Any:
    """The product in float32, where one factor is and another is not."""
    given = [x for x in (*args, *options.values()) if isinstance(x, torch.Tensor) and x.is_floating_point()]
    if len({x.dtype for x in given}) < 2:
        return func(*args, **options)
    return func(*map(_wide, args), **{name: _wide(value) for name, value in options.items()})


def _wide(x: Any) -> Any:
    return x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
