"""Which tokens each head reads, of texts or of a finished trace: `attention_patterns` and `get_attention_patterns`.

A pattern is softmax(q kᵀ · scale + mask), one row for each token that reads (query), one column for each that is read
(key). Both wings give it, with grouped heads, sliding windows and learned sinks; the room knows components only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..anatomy.session import Model, session_of
from ..core import checks
from ..core.integers import as_integer
from ..core.options import names_options
from ..core.sites import Array, Component, unique_sites
from ..core.tokens import TokenBatch, held
from ..data.text import pieces_of
from ..errors import ComponentError, InputError
from ..hooks.session import ModelSession
from ..tracing.trace import Trace
from .patterns import AttentionPatterns

GIB = 1 << 30
LIMIT_GB = 1.0
"""What patterns may take without being asked for, in GiB."""
Read = Callable[[Sequence[Component]], list[Any]]
"""Native values of components, each (texts, heads, positions, …), from one pass."""


@names_options
def attention_patterns(
    model: Model,
    texts: Any,
    layers: int | Iterable[int] | None = None,
    heads: int | Iterable[int] | None = None,
    *,
    values: bool = False,
    limit_gb: float = LIMIT_GB,
) -> AttentionPatterns:
    """Attention patterns of any layers and heads, for one text or several.

    `patterns[layer]` is float32 (texts, heads, queries, keys), 0 where a shorter text has ended, and each text's rows
    are those that it has alone. Rows sum to 1; in models with learned sinks (gpt-oss) to what the sink leaves.

    Args:
        model: An `InterpretableModel`, with what acts on it.
        texts: A text or several, or token ids.
        layers: Layer numbers, negative ones from the end; None takes all that have attention, and says which have none.
        heads: Numbers of heads of each of these layers, negative ones from the end; None takes all.
        values: Whether the lengths of value vectors are read too, for value-weighted patterns.
        limit_gb: What the patterns may take in memory, in GiB, before the model runs.

    Raises:
        ComponentError: There is no such layer, it has no attention, or it has several for each pass.
        InputError: There is no such head, or the patterns would be larger than the limit.

    Examples:
        >>> patterns = model.attention_patterns("Lily lost her red ball.", layers=[0, 3])
        >>> patterns[3].shape  # texts, heads, queries, keys
        (1, 6, 7, 7)
        >>> bool(abs(patterns[3].sum(axis=-1) - 1).max() < 1e-5)
        True
    """
    session = session_of(model, ModelSession)
    batch = session.batch(held(texts))
    anatomy = session.anatomy

    def read(components: Sequence[Component]) -> list[Any]:
        sites = unique_sites(components)
        run = anatomy.model.run(batch, sites, stop_after=sites)
        return [component.read(run) for component in components]

    return _Reader(anatomy, batch, read).patterns(layers, heads, values, limit_gb)


@names_options
def get_attention_patterns(
    trace: Trace,
    layers: int | Iterable[int] | None = None,
    heads: int | Iterable[int] | None = None,
    *,
    values: bool = False,
    limit_gb: float = LIMIT_GB,
) -> AttentionPatterns:
    """The patterns of a finished trace, with its texts and edits; see `attention_patterns`.

    Args:
        trace: As `model.trace(…)` made it; its block has ended.
        layers, heads, values, limit_gb: As in `attention_patterns`.

    Raises:
        TraceError: The trace's block is still open, or keeps other components only.
        ComponentError, InputError: As `attention_patterns` says.

    Examples:
        >>> from mlxterp.attention import get_attention_patterns
        >>> with model.trace("Lily lost her red ball.") as trace:
        ...     pass
        >>> patterns = get_attention_patterns(trace, layers=[0, 3])
        >>> sorted(patterns), patterns[0].shape
        ([0, 3], (1, 6, 7, 7))
    """
    if not isinstance(trace, Trace):
        raise InputError(
            f"Expected a trace, as model.trace(text) makes it, got {type(trace).__name__}. For a text:"
            " model.attention_patterns(text)."
        )
    activations = trace.activations
    batch = TokenBatch(trace.tokens, trace.lengths)

    def read(components: Sequence[Component]) -> list[Any]:
        return activations.several([component.name for component in components])

    return _Reader(trace.anatomy, batch, read).patterns(layers, heads, values, limit_gb)


@dataclass(frozen=True, eq=False, slots=True)
class _Reader:
    """Patterns of one batch."""

    anatomy: Anatomy
    batch: TokenBatch
    read: Read

    def patterns(self, layers: Any, heads: Any, values: Any, limit_gb: Any) -> AttentionPatterns:
        """See `attention_patterns`."""
        limit = checks.finite(limit_gb, "limit_gb", above=0.0) * GIB
        values = checks.flag(values, "values")
        chosen, without = layers_with_attention(self.anatomy, layers)
        counts = head_counts(self.anatomy, chosen)
        heads = _several_heads(heads)
        own = {layer: _chosen_heads(heads, layer, counts[layer]) for layer in chosen}
        self._check_size(own, counts, limit)
        found: dict[int, np.ndarray] = {}
        norms: dict[int, np.ndarray] = {}
        for group in self._groups(chosen, counts, limit):
            self._read_group(group, own, counts, values, found, norms)
        tokenizer = self.anatomy.model.tokenizer
        tokens = tuple(
            pieces_of(tokenizer, row[:n].tolist())
            for row, n in zip(self.batch.ids, self.batch.lengths, strict=True)
        )
        return AttentionPatterns(found, own, tokens, norms if values else None, without)

    def _read_group(
        self, group: Sequence[int], own: dict[int, tuple[int, ...]], counts: dict[int, int], values: bool,
        found: dict[int, np.ndarray], norms: dict[int, np.ndarray],
    ) -> None:  # fmt: skip
        ports = ("pattern", "v") if values else ("pattern",)
        components = [self.anatomy.component(f"layers.{n}.attn.{port}") for port in ports for n in group]
        arrays = [single(*pair) for pair in zip(components, self.read(components), strict=True)]
        for layer, pattern in zip(group, arrays, strict=False):
            kept = self._get(pattern)[:, list(own[layer])]
            found[layer] = _without_padding(kept, self.batch.lengths)
        for layer, value in zip(group, arrays[len(group) :], strict=False):
            lengths = np.linalg.norm(self._get(value), axis=-1)
            repeated = np.repeat(lengths, counts[layer] // lengths.shape[1], axis=1)[:, list(own[layer])]
            for text, n in zip(repeated, self.batch.lengths, strict=True):
                text[:, n:] = 0
            norms[layer] = repeated

    def _get(self, x: Array) -> np.ndarray:
        """float32, in memory of its own."""
        return np.array(self.anatomy.model.backend.get(x), dtype=np.float32)

    def _groups(self, layers: Sequence[int], counts: dict[int, int], limit: float) -> list[list[int]]:
        """Layers that are read in one pass: what it holds stays below the limit, where one layer does."""
        groups: list[list[int]] = []
        used = 0.0
        for layer in layers:
            size = self._bytes(counts[layer])
            if not groups or used + size > limit:
                groups.append([])
                used = 0.0
            groups[-1].append(layer)
            used += size
        return groups

    def _bytes(self, heads: int) -> int:
        texts, longest = self.batch.ids.shape
        return 4 * texts * heads * longest**2

    def _check_size(self, own: dict[int, tuple[int, ...]], counts: dict[int, int], limit: float) -> None:
        """Names the size of what would not fit, before the model runs."""
        texts, longest = self.batch.ids.shape
        kept = sum(self._bytes(len(heads)) for heads in own.values())
        held_ = max(self._bytes(counts[layer]) for layer in own)
        if max(kept, held_) <= limit:
            return
        heads = sum(map(len, own.values()))
        raise InputError(
            f"The patterns of {heads:,} heads in {len(own)} layers for {texts} texts of up to {longest:,} tokens take"
            f" {_gib(kept)} GiB (4 bytes × {texts} × {heads:,} × {longest:,}²), a pass over one layer"
            f" {_gib(held_)} GiB; limit_gb is {limit / GIB:g}. Name fewer layers= or heads=, give shorter texts, or"
            f" allow more: limit_gb={_gib(max(kept, held_) * 1.05)}."
        )


def _gib(size: float) -> str:
    """Bytes in GiB, with as many digits as it takes not to be 0."""
    return f"{size / GIB:.2f}" if size >= GIB / 100 else f"{size / GIB:.2g}"


def layers_with_attention(anatomy: Anatomy, layers: Any = None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers of the layers whose pattern can be read, and of those left out, which have none.

    Args:
        layers: As users give them; None means all that have one.

    Raises:
        ComponentError: A layer that was named has none, or no layer has.
    """
    chosen = anatomy.chosen_layers(layers)
    having = tuple(n for n in chosen if anatomy.has(f"layers.{n}.attn.pattern"))
    without = tuple(n for n in chosen if n not in having)
    if having and (layers is None or not without):
        return having, without
    every = range(len(anatomy.model.layers)) if layers is not None else having
    known = [n for n in every if anatomy.has(f"layers.{n}.attn.pattern")]
    raise ComponentError(
        f"Layer {without[0]} of this {anatomy.model.model_type} model has no attention pattern:"
        f" {_why(anatomy, without[0])}"
        + (f" Layers with one: {', '.join(map(str, known))}." if known else " None of its layers has one.")
    )


def _why(anatomy: Anatomy, layer: int) -> str:
    """What a pass says of a layer without a pattern."""
    try:
        component = anatomy.component(f"layers.{layer}.attn.pattern")
        anatomy.origin.model.run(TokenBatch.from_rows([[0]]), component.sites, stop_after=component.sites)
    except ComponentError as error:
        return str(error)
    return "its attention is called for some texts only."


def head_counts(anatomy: Anatomy, layers: Sequence[int]) -> dict[int, int]:
    """Heads of each of these layers, from a pass over one token."""
    components = [anatomy.component(f"layers.{n}.attn.pattern") for n in layers]
    sites = unique_sites(components)
    run = anatomy.origin.model.run(TokenBatch.from_rows([[0]]), sites, stop_after=sites)
    found = [single(component, component.read(run)) for component in components]
    return {layer: int(pattern.shape[1]) for layer, pattern in zip(layers, found, strict=True)}


def single(component: Component, value: Any) -> Array:
    """The value of a component that a pass reaches once.

    Raises:
        ComponentError: It is reached several times.
    """
    if isinstance(value, list):
        raise ComponentError(
            f"{component.name} is computed {len(value)} times in one pass, so it has no single pattern. Each is in"
            f" model.trace(text).activations[{component.name!r}], a list."
        )
    return value


def _several_heads(heads: Any) -> list[int] | None:
    """Numbers of heads as they were given, read once; None for all."""
    if heads is None:
        return None
    single = (
        isinstance(heads, (str, bytes)) or as_integer(heads) is not None or not isinstance(heads, Iterable)
    )
    given = [heads] if single else list(heads)
    if not given:
        raise InputError("heads= is empty. Name at least one head, or leave it out for all.")
    numbers = [as_integer(one) for one in given]
    if None in numbers:
        raise InputError(
            f"heads={heads!r:.60}: expected numbers of heads, one or several, or None for all of each layer."
        )
    return [number for number in numbers if number is not None]


def _chosen_heads(heads: list[int] | None, layer: int, count: int) -> tuple[int, ...]:
    if heads is None:
        return tuple(range(count))
    wanted = np.array(heads)
    if ((wanted < -count) | (wanted >= count)).any():
        bad = wanted[(wanted < -count) | (wanted >= count)][0]
        raise InputError(f"heads= names {bad}; layer {layer} has {count} heads, numbered 0 to {count - 1}.")
    return tuple(dict.fromkeys((wanted % count).tolist()))


def _without_padding(patterns: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The same array (texts, heads, queries, keys), 0 where a text has ended."""
    for text, n in zip(patterns, lengths, strict=True):
        text[:, n:] = 0
        text[:, :, n:] = 0
    return patterns
