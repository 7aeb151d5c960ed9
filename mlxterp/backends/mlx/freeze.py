"""What is held constant in a frozen pass of MLX: functions of `mx` that are replaced, and two small tables.

The first pass records the value of each such function in the order of the calls, which is the same in every pass; the
others take it from there. So the pass is affine, not only near the prompt: it can be run at other sources, and its
backward pass needs neither attention scores nor the forward values.

Products of two activations are operators, which cannot be replaced. Attention and norms have none; recurrences and
gated convolutions do, and stand in the tables below. The law that every graph is measured by finds those that do not.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ...core.frozen import FrozenPlaces, Hold
from ...core.sites import Run, Site, SiteEdit
from ..host.patches import Patch
from .attention import PATCHES, attention_pattern, own_softmax, repeat_heads
from .intercept import Tracer
from .swap import current_tracer, own_class
from .tree import ModuleTree

_VALUES = ("sigmoid", "exp", "erf", "log", "log1p", "expm1", "logaddexp", "argpartition")
"""Functions of `mx` whose value is held: gates, of which `nn.silu` and `nn.gelu` consist, and choices of the
largest."""
_NORMS = ("rsqrt", "sqrt")

SHARED: dict[tuple[str, str], tuple[str, ...]] = {
    ("mlx_lm.models.ssm", "ssm_update"): ("B", "C", "dt"),
    ("mlx_lm.models.gated_delta", "gated_delta_update"): ("q", "k", "a", "b"),
    ("mlx_lm.models.activations", "swiglu"): ("gate",),
    ("mlx_lm.models.activations", "precise_swiglu"): ("gate",),
    ("mlx_lm.models.bailing_moe_linear", "recurrent_gla"): ("q", "k"),
    ("mlx_lm.models.bailing_hybrid", "recurrent_gla"): ("q", "k"),
}
"""Functions that architectures share → the arguments that are held; the others stay live."""
ROUNDED = (
    ("mlx_lm.models.afm7", "fake_8bit_quant"), ("mlx_lm.models.deepseek_v41", "_fake_quant_fp8"),
    ("mlx_lm.models.deepseek_v41", "_fake_quant_fp4"),
)  # fmt: skip
"""Functions that round their first argument, which stays live: what rounding adds to it is held."""
_EXPERTS = "mlx_lm.models.switch_layers"
"""Where many tokens are sorted by their experts: those of a batch would come in another order than one text's."""
PARTS: dict[tuple[str, str], tuple[float, float]] = {
    ("MambaBlock", "x_proj"): (0.0, 1.0),
    ("JambaMambaMixer", "x_proj"): (0.0, 1.0),
    ("ShortConv", "in_proj"): (0.0, 2 / 3),
    ("RecurrentBlock", "linear_y"): (0.0, 1.0),
    ("Rwkv7TimeMixing", "k_proj"): (0.0, 1.0),
    ("Rwkv7TimeMixing", "r_proj"): (0.0, 1.0),
    ("Rwkv7TimeMixing", "g_lora"): (0.0, 1.0),
}
"""Class of a sublayer and its module → from where to where the last axis of its output is held."""


class Constants:
    """What was held, in the order of the calls."""

    def __init__(self) -> None:
        self.items: list[mx.array] = []


@dataclass(frozen=True, eq=False, slots=True)
class Wrapped:
    """The model that a frozen pass runs."""

    module: nn.Module
    tree: ModuleTree
    layers: tuple[str, ...]
    model_type: str


class FrozenTracer(Tracer):
    """Records what is held, or puts in its place what was recorded.

    Args:
        recording: Whether this is the first pass.
        capped: Whether a final soft cap is computed.
        factors: Path of a block, and its call → (rows, heads): what its patterns are multiplied by.

    Attributes:
        heads: Path of a block, and its call → heads of its attention.
        outside: Whether attention is called outside all blocks.
        scales: Path of a block → what q kᵀ is multiplied by, where it is read.
    """

    def __init__(
        self, model: Wrapped, sites: Sequence[Site], edits: Sequence[SiteEdit], run: Run,
        places: FrozenPlaces, constants: Constants, *, recording: bool, factors: Mapping[tuple[str, int], mx.array],
        capped: bool = False,
    ):  # fmt: skip
        super().__init__(model.tree, sites, edits, run=run, model_type=model.model_type)
        self._constants, self._recording, self._next = constants, recording, 0
        self._factors, self.capped = factors, capped
        self.heads: dict[tuple[str, int], int] = {}
        self.outside = False
        self.scales: dict[str, float] = {}
        self._blocks, self._dead = frozenset(model.layers), places.dead
        self._began: dict[str, int] = {}
        self._last = id(model.tree.by_path[model.layers[-1]].module)
        self._passed = self._paused = False
        seen = [model.tree.by_path[path].module for path in (*model.layers, *places.dead)]
        unique = {id(module): module for module in (*self.modules, *seen) if callable(module)}
        self.modules = list(unique.values())

    def call(self, module: nn.Module, original: Callable, args: tuple, kwargs: dict) -> Any:
        """See `Tracer`; notices the last block, and counts the calls of each."""
        self._passed = self._passed or id(module) == self._last
        if nodes := self.tree.nodes.get(id(module)):
            path = self._which(nodes).path
            self._began[path] = self._began.get(path, 0) + 1
        return super().call(module, original, args, kwargs)

    @property
    def holds(self) -> bool:
        """Whether what is computed now is held: not while a constant is made, and not where it does not matter."""
        return not self._paused and not any(node.path in self._dead for node in self.stack)

    @property
    def after_blocks(self) -> bool:
        """Whether the blocks are done."""
        return self._passed and not any(node.path in self._blocks for node in self.stack)

    @property
    def _block(self) -> str | None:
        return next((node.path for node in reversed(self.stack) if node.path in self._blocks), None)

    def see(self, q: mx.array, k: mx.array, scale: float) -> None:
        """Notes what a pattern is made of, where it is asked for."""
        if (block := self._block) is not None and block in self.attention:
            number, self.scales[block] = self.next_attention_call(block), float(scale)
            self.pass_through(Site(block, "q"), q, number)
            self.pass_through(Site(block, "k"), k, number)

    def by_head(self, pattern: mx.array) -> mx.array:
        """A pattern (batch, heads, …, queries, keys) times the factors of its block's heads."""
        if (block := self._block) is None:
            self.outside = True
            return pattern
        call = block, self._began[block] - 1
        self.heads[call] = math.prod(pattern.shape[1:-2])
        factor = self._factors.get(call)
        return pattern if factor is None else pattern * factor.reshape(*pattern.shape[:-2], 1, 1)

    def hold(self, compute: Callable[[], mx.array], shape: Sequence[int] | None = None) -> mx.array:
        """The value as the first pass computed it; in the first pass, computed now.

        Args:
            shape: Of the value in this pass, whose batch may be larger.
        """
        if self._recording:
            found = self._computed(compute)
            self._constants.items.append(found)
            return found
        found = self._constants.items[self._next]
        self._next += 1
        if shape is None or tuple(found.shape) == tuple(shape):
            return found
        fitting = _repeated(found, tuple(shape))
        return self._computed(compute) if fitting is None else fitting

    def _computed(self, compute: Callable[[], mx.array]) -> mx.array:
        self._paused = True
        try:
            return mx.stop_gradient(compute())
        finally:
            self._paused = False

    def finish(self) -> None:
        """Raises RuntimeError where a pass did not make the same calls as the first."""
        if not self._recording and self._next != len(self._constants.items):
            raise RuntimeError(
                f"a replayed pass made {self._next} of {len(self._constants.items)} recorded calls"
            )


def _repeated(found: mx.array, shape: tuple[int, ...]) -> mx.array | None:
    """A constant of one text for a batch of it; None where it does not fit."""
    if found.ndim == len(shape) and found.shape[0] != 1 and found.shape[1:] == shape[1:]:
        times, rest = divmod(shape[0], found.shape[0])
        if rest == 0:  # the tokens of the batch are flattened into one axis
            return mx.concatenate([found] * times)
    try:
        return mx.broadcast_to(found, shape)
    except ValueError:
        return None


# -- replaced functions ---------------------------------------------------------------------------


def _tracer() -> FrozenTracer | None:
    """The frozen pass that runs in this context, where it holds what is computed now."""
    tracer = current_tracer()
    return tracer if isinstance(tracer, FrozenTracer) and tracer.holds else None


def _value(original: Callable[..., mx.array], x: Any, *rest: Any, **options: Any) -> mx.array:
    tracer = _tracer()
    if tracer is None or not isinstance(x, mx.array):
        return original(x, *rest, **options)
    shape = x.shape
    if rest and isinstance(rest[0], mx.array):
        shape = _broadcast(shape, rest[0].shape)
    return tracer.hold(lambda: original(x, *rest, **options), shape)


def _broadcast(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
    return tuple(mx.broadcast_shapes(tuple(a), tuple(b)))


def _tanh(original: Callable[..., mx.array], x: mx.array, **options: Any) -> mx.array:
    tracer = _tracer()
    if tracer is not None and tracer.after_blocks:
        return original(x, **options) if tracer.capped else x  # a final soft cap: logits are read before it
    return _value(original, x, **options)


def _norm(original: Callable[..., mx.array], x: mx.array, *rest: Any, **options: Any) -> mx.array:
    tracer = _tracer()
    found = original(x, *rest, **options)  # builds a graph: what is not used is not computed
    return found if tracer is None else tracer.hold(lambda: found, found.shape)


def _powers(original: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """`x ** 0.5` as an operator of arrays, so a function that binds; other exponents pass."""

    def power(x: mx.array, exponent: Any, *rest: Any) -> mx.array:
        whole = not isinstance(exponent, float) or exponent.is_integer()
        return original(x, exponent, *rest) if whole else _norm(original, x, exponent, *rest)

    return power


def _rms_norm(
    original: Callable[..., mx.array], x: mx.array, weight: mx.array | None, eps: float, **options: Any
) -> mx.array:
    tracer = _tracer()
    if tracer is None:
        return original(x, weight, eps, **options)
    wide = x.astype(mx.float32)
    scale = tracer.hold(lambda: _inverse(wide, eps), (*x.shape[:-1], 1))
    out = (wide * scale).astype(x.dtype)
    return out if weight is None else out * weight


def _layer_norm(
    original: Callable[..., mx.array], x: mx.array, weight: mx.array | None, bias: mx.array | None,
    eps: float, **options: Any,
) -> mx.array:  # fmt: skip
    tracer = _tracer()
    if tracer is None:
        return original(x, weight, bias, eps, **options)
    wide = x.astype(mx.float32)
    centred = wide - mx.mean(wide, axis=-1, keepdims=True)
    scale = tracer.hold(lambda: _inverse(centred, eps), (*x.shape[:-1], 1))
    out = (centred * scale).astype(x.dtype)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def _inverse(x: mx.array, eps: float) -> mx.array:
    return PATCHES.original(mx, "rsqrt")(mx.mean(x.square(), axis=-1, keepdims=True) + eps)


def _attention(
    original: Callable[..., mx.array], q: mx.array, k: mx.array, v: mx.array, *, scale: float,
    mask: Any = None, sinks: mx.array | None = None, **options: Any,
) -> mx.array:  # fmt: skip
    tracer = _tracer()
    if tracer is None:
        return original(q, k, v, scale=scale, mask=mask, sinks=sinks, **options)
    tracer.see(q, k, scale)
    pattern = tracer.hold(lambda: attention_pattern(q, k, scale, mask, sinks), (*q.shape[:3], k.shape[2]))
    return tracer.by_head(pattern).astype(v.dtype) @ repeat_heads(v, q.shape[1])


def _own_softmax(original: Callable[..., mx.array], x: mx.array, *rest: Any, **options: Any) -> mx.array:
    """The softmax of an attention that computes it itself."""
    return _softmax(original, x, *rest, **options) if x.ndim >= 4 else original(x, *rest, **options)


def _softmax(original: Callable[..., mx.array], x: mx.array, *rest: Any, **options: Any) -> mx.array:
    found, tracer = _value(original, x, *rest, **options), _tracer()
    own = tracer is not None and x.ndim >= 4 and own_softmax(tracer.model_type)
    return tracer.by_head(found) if own and tracer is not None else found


def _shared(held: tuple[str, ...], original: Callable[..., Any], *given: Any, **named: Any) -> Any:
    tracer = _tracer()
    if tracer is None:
        return original(*given, **named)
    parameters = list(_parameters(original))
    values = {**dict(zip(parameters, given, strict=False)), **named}
    for name in held:
        value = values.get(name)
        if isinstance(value, mx.array):
            values[name] = tracer.hold(lambda value=value: value, value.shape)
    if "use_kernel" in parameters:
        values["use_kernel"] = False  # Metal kernels have no gradient
    return original(**values)


def _rounded(original: Callable[..., mx.array], x: mx.array, *rest: Any, **options: Any) -> mx.array:
    tracer = _tracer()
    if tracer is None:
        return original(x, *rest, **options)
    return x + tracer.hold(lambda: original(x, *rest, **options) - x, x.shape)


def _gather_sort(original: Callable[..., Any], x: mx.array, indices: mx.array) -> Any:
    return original(x, indices) if _tracer() is None else (x, indices, None)


def _scatter_unsort(original: Callable[..., Any], x: mx.array, order: mx.array | None, *rest: Any) -> Any:
    return x if order is None else original(x, order, *rest)


def _gather(original: Callable[..., Any], *given: Any, sorted_indices: bool = False, **options: Any) -> Any:
    return original(*given, sorted_indices=sorted_indices and _tracer() is None, **options)


@cache
def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _by(function: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return lambda original: partial(function, original)


_BY_ATTENTION = (
    Patch(mx.fast, "scaled_dot_product_attention", _by(_attention)),
    Patch(mx, "softmax", _by(_own_softmax)),
    Patch(mx, "tanh", _by(_tanh)),
)
_BY_NORMS = (
    Patch(mx.fast, "rms_norm", _by(_rms_norm)),
    Patch(mx.fast, "layer_norm", _by(_layer_norm)),
    Patch(mx.linalg, "norm", _by(_norm)),
    Patch(mx.array, "__pow__", _powers),
    *(Patch(mx, name, _by(_value)) for name in _NORMS),
)
_BY_ALL = (
    _BY_ATTENTION[0],
    Patch(mx, "softmax", _by(_softmax)),
    _BY_ATTENTION[2],
    *_BY_NORMS,
    *(Patch(mx, name, _by(_value)) for name in _VALUES),
    *(Patch(mx, name, _by(_gather)) for name in ("gather_mm", "gather_qmm")),
)
_MAKES = {held: _by(partial(_shared, held)) for held in set(SHARED.values())}
_ROUNDS = _by(_rounded)
_SORTS = {"_gather_sort": _by(_gather_sort), "_scatter_unsort": _by(_scatter_unsort)}


def patches_for(hold: Hold) -> list[Patch]:
    """What is replaced while a pass runs."""
    if hold == "nothing":
        return []
    if hold == "attention":
        return list(_BY_ATTENTION)
    if hold == "attention+norms":
        return [*_BY_ATTENTION, *_BY_NORMS]
    return [*_BY_ALL, *_shared_patches()]


def _shared_patches() -> list[Patch]:
    """The functions of `SHARED`, in every architecture that was loaded and imported them."""
    models = [
        m for name, m in list(sys.modules.items()) if name.startswith("mlx_lm.models") and m is not None
    ]
    found = [
        Patch(sys.modules[home], name, _ROUNDS)
        for home, name in ROUNDED
        if hasattr(sys.modules.get(home), name)
    ]
    if (experts := sys.modules.get(_EXPERTS)) is not None:
        found += [Patch(experts, name, make) for name, make in _SORTS.items() if hasattr(experts, name)]
    for (home, name), held in SHARED.items():
        source = sys.modules.get(home)
        if source is None or not hasattr(source, name):
            continue
        function = PATCHES.original(source, name)
        for module in models:
            if hasattr(module, name) and PATCHES.original(module, name) is function:
                found.append(Patch(module, name, _MAKES[held]))
    return found


def constant_parts(tree: ModuleTree) -> list[SiteEdit]:
    """Edits that hold what `PARTS` names."""
    found = []
    for path, node in tree.by_path.items():
        if node.parent is None:
            continue
        part = PARTS.get((own_class(node.parent.module).__name__, path.rpartition(".")[2]))
        if part is not None:
            found.append(SiteEdit(Site(path), partial(_hold_part, part)))
    return found


def _hold_part(part: tuple[float, float], x: mx.array, _run: Run, _number: int) -> mx.array:
    tracer = _tracer()
    if tracer is None:
        return x
    width = x.shape[-1]
    start, end = round(part[0] * width), round(part[1] * width)
    held = tracer.hold(lambda: x[..., start:end], (*x.shape[:-1], end - start))
    return mx.concatenate([x[..., :start], held, x[..., end:]], axis=-1)
