"""Pictures of attention by the names that users of the existing library know, of patterns or of a finished trace."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backends.host.conversion import to_numpy
from ..core import checks
from ..core.options import names_options
from ..errors import BackendError, InputError, warn
from ..tracing.trace import Trace
from ..viz.page import write_page
from ..viz.pattern_figure import AttentionVisualizationConfig, check_backend, pattern_figure
from ..viz.pattern_page import PatternText, pattern_page
from .patterns import AttentionPatterns
from .reader import get_attention_patterns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GRID = 64
"""Heads of a grid that nobody chose, at most."""
Patterns = Mapping[int, Any]
"""Layer → (texts, heads, queries, keys) or (heads, queries, keys): `AttentionPatterns`, or arrays of any library."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InteractiveAttentionConfig:
    """How `interactive_attention` shows patterns.

    Attributes:
        title: Of the page.
        heatmap_size: Accepted for code that gives it; the page takes the room that there is.
        colorscale: Likewise: the page has colours of its own, in light and dark.
        show_layer_flow: Whether all layers and heads are shown side by side.
    """

    title: str = "Attention Patterns"
    heatmap_size: int = 350
    colorscale: str = "Blues"
    show_layer_flow: bool = True

    def __post_init__(self) -> None:
        checks.count(self.heatmap_size, "heatmap_size")
        checks.flag(self.show_layer_flow, "show_layer_flow")
        if self.colorscale != "Blues":
            warn(
                f"colorscale={self.colorscale!r} is not used: the page has colours of its own, in light and dark."
            )


@names_options
def attention_heatmap(
    attention: Any,
    tokens: Sequence[str],
    head_idx: int = 0,
    title: str | None = None,
    config: AttentionVisualizationConfig | None = None,
    backend: str = "auto",
) -> Figure:
    """One head's pattern as a heat map: a row for each token that reads, the first at the top.

    Args:
        attention: (queries, keys), (heads, queries, keys), or (1, heads, queries, keys).
        tokens: The text of each token.
        head_idx: Which head, where there are several; negative ones count from the last.
        title: None names the head.
        config: Colours and sizes.
        backend: "auto" or "matplotlib".

    Raises:
        InputError: Other shapes, no such head, or tokens of another number.
        BackendError: matplotlib is not installed.

    Examples:
        >>> from mlxterp.attention import attention_heatmap
        >>> text = "Lily lost her red ball."
        >>> patterns = model.attention_patterns(text, layers=3)
        >>> attention_heatmap(patterns[3], model.to_str_tokens(text), head_idx=2).axes[0].get_title()
        'Head 2'
    """
    check_backend(backend)
    heads = _heads(attention, "attention")
    at = checks.integer(head_idx, "head_idx", -len(heads), len(heads) - 1) % len(heads)
    words = _words(tokens, heads.shape[-1])
    name = title if title is not None else f"Head {at}" if len(heads) > 1 else "Attention pattern"
    return pattern_figure([(name, heads[at])], words, _figure_config(config))


@names_options
def attention_from_trace(
    trace: Trace,
    tokens: Sequence[str],
    layers: int | Iterable[int] | None = None,
    heads: Sequence[tuple[int, int]] | None = None,
    mode: str = "grid",
    head_notation: str = "LH",
    config: AttentionVisualizationConfig | None = None,
) -> Any:
    """Patterns of a finished trace as a picture.

    Args:
        trace: Of one text.
        tokens: The text of each token: `model.to_str_tokens(text)`.
        layers: Layer numbers; None takes all that have attention.
        heads: (layer, head) of those to show; None takes all of `layers`, in a grid 64 at most.
        mode: "grid", small heat maps side by side; "single", the first of them; "interactive", the page as HTML text.
        head_notation: "LH" names a head L3H5, "dot" 3.5.
        config: Colours and sizes of figures.

    Returns:
        A figure of matplotlib; for "interactive" the HTML document (`save_interactive_attention` writes it).

    Raises:
        InputError, ComponentError, TraceError: As `get_attention_patterns` says, or tokens of another number.
        BackendError: matplotlib is not installed.
    """
    mode = checks.choice(mode, "mode", ("grid", "single", "interactive"))
    dot = checks.choice(head_notation, "head_notation", ("LH", "dot")) == "dot"
    config = _figure_config(config)
    chosen = None if heads is None else [_pair(pair) for pair in heads]
    if chosen is not None and not chosen:
        raise InputError("heads= is empty. Name at least one (layer, head), or leave it out for all.")
    wanted = layers if chosen is None or layers is not None else sorted({layer for layer, _ in chosen})
    patterns = get_attention_patterns(trace, wanted)
    if mode == "interactive":
        return _document(patterns, tokens, InteractiveAttentionConfig(), chosen or (), head_notation)
    every = [(layer, head) for layer in patterns for head in patterns.heads[layer]]
    shown = every if chosen is None else chosen
    if mode == "grid" and chosen is None and len(every) > _GRID:
        warn(f"The grid shows the first {_GRID} of {len(every)} heads. Choose with layers= or heads=.")
        shown = every[:_GRID]
    words = _words(tokens, _single(patterns)[shown[0][0]].shape[-1])
    panels = [
        (f"{layer}.{head}" if dot else f"L{layer}H{head}", patterns.head(layer, head))
        for layer, head in (shown[:1] if mode == "single" else shown)
    ]
    return pattern_figure(panels, words, config, title="Attention patterns")


@names_options
def interactive_attention(
    attention_patterns: Patterns, tokens: Sequence[str], config: InteractiveAttentionConfig | None = None
) -> str:
    """An HTML document to explore patterns, offline: tokens to point at and hold, heads, layers, and what reads what.

    Its one script is its own; tokens are text nodes, whatever they hold.

    Args:
        attention_patterns: Layer → (1, heads, queries, keys) or (heads, queries, keys).
        tokens: The text of each token.

    Raises:
        InputError: Other shapes, several texts, tokens of another number, or a page above 64 MiB.

    Examples:
        >>> from mlxterp.attention import interactive_attention
        >>> text = "Lily lost her red ball."
        >>> page = interactive_attention(model.attention_patterns(text), model.to_str_tokens(text))
        >>> page[:15], len(page) < 150_000
        ('<!doctype html>', True)
    """
    if config is None:
        config = InteractiveAttentionConfig()
    return _document(
        attention_patterns, tokens, checks.instance(config, "config", InteractiveAttentionConfig)
    )


@names_options
def save_interactive_attention(
    attention_patterns: Patterns,
    tokens: Sequence[str],
    filepath: str | os.PathLike,
    config: InteractiveAttentionConfig | None = None,
) -> Path:
    """Writes the page of `interactive_attention`, whole or not at all; returns its path.

    Raises:
        InputError: As `interactive_attention` says, or there is no such folder.
        WriteError: It cannot be written.
    """
    return write_page(filepath, interactive_attention(attention_patterns, tokens, config))


@names_options
def display_interactive_attention(
    attention_patterns: Patterns, tokens: Sequence[str], config: InteractiveAttentionConfig | None = None
) -> None:
    """Shows the page of `interactive_attention` in a notebook, in a frame of its own.

    Raises:
        BackendError: IPython is not installed.
        InputError: As `interactive_attention` says.
    """
    document = interactive_attention(attention_patterns, tokens, config)
    try:
        from IPython.display import HTML, display
    except ImportError as error:
        raise BackendError(
            "display_interactive_attention needs a notebook (pip install ipython). save_interactive_attention writes"
            " the same page to a file."
        ) from error
    look = 'sandbox="allow-scripts" style="width:100%;height:820px;border:0"'
    display(HTML(f'<div><iframe {look} srcdoc="{escape(document)}"></iframe></div>'))


@names_options
def interactive_attention_from_trace(
    trace: Trace,
    tokens: Sequence[str],
    layers: int | Iterable[int] | None = None,
    config: InteractiveAttentionConfig | None = None,
) -> str:
    """The page of `interactive_attention` for a finished trace.

    Raises:
        InputError, ComponentError, TraceError: As `get_attention_patterns` says.
    """
    return interactive_attention(get_attention_patterns(trace, layers), tokens, config)


def _document(
    given: Patterns, tokens: Sequence[str], config: InteractiveAttentionConfig,
    chosen: Sequence[tuple[int, int]] = (), notation: str = "LH",
) -> str:  # fmt: skip
    arrays = _single(given)
    n = next(iter(arrays.values())).shape[-1]
    if any(x.shape[1:] != (n, n) for x in arrays.values()):
        raise InputError("Patterns of all layers are (heads, tokens, tokens) of the same tokens.")
    heads = (
        given.heads if isinstance(given, AttentionPatterns) else {k: range(len(x)) for k, x in arrays.items()}
    )
    text = PatternText(_words(tokens, n), arrays)
    return pattern_page(
        str(config.title),
        (),
        [text],
        heads,
        notation=notation,
        overview=config.show_layer_flow,
        chosen=chosen,
    )


def _single(given: Patterns) -> dict[int, np.ndarray]:
    """Layer → float32 (heads, queries, keys) of one text."""
    if not isinstance(given, Mapping) or not given:
        raise InputError(
            f"Expected patterns by layer, as get_attention_patterns(trace) gives them, got {type(given).__name__}."
        )
    return {
        checks.integer(layer, "a layer"): _heads(x, f"the pattern of layer {layer}")
        for layer, x in given.items()
    }


def _heads(given: Any, name: str) -> np.ndarray:
    """float32, (heads, queries, keys) of one text."""
    array = to_numpy(given, name)
    if array.ndim == 4 and len(array) > 1:
        raise InputError(
            f"{name} is of {len(array)} texts; a picture shows one: patterns.of(0), or pattern[0:1]."
        )
    array = array[0] if array.ndim == 4 and len(array) else array
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or 0 in array.shape:
        raise InputError(
            f"{name} is (queries, keys), (heads, queries, keys) or (1, heads, queries, keys), got shape {array.shape}."
        )
    return array.astype(np.float32)


def _figure_config(given: AttentionVisualizationConfig | None) -> AttentionVisualizationConfig:
    if given is None:
        return AttentionVisualizationConfig()
    return checks.instance(given, "config", AttentionVisualizationConfig)


def _words(tokens: Sequence[str], n: int) -> list[str]:
    if not isinstance(tokens, Iterable) or getattr(tokens, "shape", None) == ():
        raise InputError(
            f"tokens is {type(tokens).__name__}; expected the text of each token: model.to_str_tokens(text)."
        )
    words = [tokens] if isinstance(tokens, str) else [str(token) for token in tokens]
    if len(words) != n:
        raise InputError(
            f"There are {len(words)} tokens for a pattern of {n}. Give the text of each: model.to_str_tokens(text)."
        )
    return words


def _pair(given: Any) -> tuple[int, int]:
    try:
        layer, head = given
    except (TypeError, ValueError):
        raise InputError(f"heads= holds pairs (layer, head), got {given!r}.") from None
    return checks.integer(layer, "a layer of heads=", 0), checks.integer(head, "a head of heads=", 0)
