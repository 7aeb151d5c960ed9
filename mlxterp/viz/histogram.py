"""A histogram of activations as inline SVG, or as a line of blocks in the terminal."""

from __future__ import annotations

import numpy as np

from .escaping import attribute, escaped

_WIDTH, _HEIGHT, _BASE = 320, 92, 72
_MOST_BARS = 32


def histogram_svg(counts: np.ndarray, edges: np.ndarray, what: str = "Activations") -> str:
    """Bars of equal width, one for each bin, from the first that is not empty to the last.

    Args:
        counts: (bins,).
        edges: (bins + 1,), ascending.
    """
    counts, edges = _trimmed(counts, edges)
    if not len(counts):
        return ""
    width, largest = _WIDTH / len(counts), float(counts.max())
    bars = []
    for i, count in enumerate(counts.tolist()):
        if count:
            tall = max(1.5, (_BASE - 6) * count / largest)
            tip = f"{edges[i]:.3g} to {edges[i + 1]:.3g}: {count:,}"
            bars.append(
                f'<rect x="{i * width:.1f}" y="{_BASE - tall:.1f}" width="{max(width - 1, 0.5):.1f}"'
                f' height="{tall:.1f}"><title>{escaped(tip)}</title></rect>'
            )
    said = (
        f"{int(counts.sum()):,} values from {edges[0]:.3g} to {edges[-1]:.3g}; the most, {int(largest):,}, lie"
        f" between {edges[int(counts.argmax())]:.3g} and {edges[int(counts.argmax()) + 1]:.3g}."
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{attribute(f"{what}: {said}")}">'
        f"<title>{escaped(what)}</title><desc>{escaped(said)}</desc>{''.join(bars)}"
        f'<line x1="0" y1="{_BASE}" x2="{_WIDTH}" y2="{_BASE}"/>{_labels(edges, width)}</svg>'
    )


def histogram_line(counts: np.ndarray, edges: np.ndarray) -> str:
    """The same in one line of text; empty without values."""
    counts, edges = _trimmed(counts, edges)
    if not len(counts):
        return ""
    blocks = "▁▂▃▄▅▆▇█"
    tall = np.ceil(counts / counts.max() * len(blocks)).astype(int)
    bars = "".join(blocks[t - 1] if t else " " for t in tall.tolist())
    return f"{edges[0]:.3g} {bars} {edges[-1]:.3g}"


def _trimmed(counts: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without empty bins at both ends; neighbours joined until there are at most 32."""
    counts, edges = np.asarray(counts), np.asarray(edges, dtype=np.float64)
    used = np.flatnonzero(counts)
    if not used.size:
        return counts[:0], edges[:0]
    counts, edges = counts[used[0] : used[-1] + 1], edges[used[0] : used[-1] + 2]
    joined = -(-len(counts) // _MOST_BARS)
    starts = np.arange(0, len(counts), joined)
    return np.add.reduceat(counts, starts), np.append(edges[starts], edges[-1])


def _labels(edges: np.ndarray, width: float) -> str:
    """The edges' values under the axis: the ends, and some between where there is room."""
    last = len(edges) - 1
    shown = [0, *_between(edges), last]
    anchors = {0: "start", last: "end"}
    return "".join(
        f'<text x="{i * width:.1f}" y="{_HEIGHT - 5}" text-anchor="{anchors.get(i, "middle")}">{edges[i]:.3g}</text>'
        for i in shown
    )


def _between(edges: np.ndarray) -> list[int]:
    """Edges to name between the ends: round numbers if there are some, else evenly spread ones."""
    last = len(edges) - 1
    apart = max(2, -(-last // 5))  # so far from each other that their names do not touch
    inner = range(apart, last - apart + 1)
    round_ones = [i for i in inner if float(f"{edges[i]:.3g}") == edges[i]]
    found: list[int] = []
    for i in round_ones or [i for i in inner if last >= 8 and i % apart == 0]:
        if not found or i - found[-1] >= apart:
            found.append(i)
    return found
