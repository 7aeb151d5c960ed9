"""A histogram with its axes as inline SVG, or as a line of blocks in the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from .escaping import attribute, escaped

_WIDTH, _HEIGHT = 300, 130
_LEFT, _RIGHT, _TOP, _BASE = 44, 290, 20, 92
"""Where the bars stand."""
_MOST_BARS = 40


def histogram_svg(
    counts: np.ndarray, edges: np.ndarray, what: str = "Activations", across: str = "", up: str = "tokens"
) -> str:
    """Bars of equal width, one for each bin, from the first that is not empty to the last; "" without values.

    Args:
        counts: (bins,).
        edges: (bins + 1,), ascending.
        what: What it shows, for who cannot see it.
        across: Names the axis of values.
        up: Names the axis of counts.
    """
    counts, edges = _trimmed(counts, edges)
    if not len(counts):
        return ""
    width, largest = (_RIGHT - _LEFT) / len(counts), int(counts.max())
    bars = []
    for i, count in enumerate(counts.tolist()):
        if count:
            tall = max(1.5, (_BASE - _TOP) * count / largest)
            tip = f"{edges[i]:.3g} to {edges[i + 1]:.3g}: {count:,}"
            bars.append(
                f'<rect x="{_LEFT + i * width:.1f}" y="{_BASE - tall:.1f}" width="{max(width - 1, 0.5):.1f}"'
                f' height="{tall:.1f}"><title>{escaped(tip)}</title></rect>'
            )
    fullest = int(counts.argmax())
    said = (
        f"{int(counts.sum()):,} values from {edges[0]:.3g} to {edges[-1]:.3g}; the most, {largest:,}, lie"
        f" between {edges[fullest]:.3g} and {edges[fullest + 1]:.3g}."
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{attribute(f"{what}: {said}")}">'
        f"<title>{escaped(what)}</title><desc>{escaped(said)}</desc>{''.join(bars)}"
        f"{_counts_axis(largest, up)}{_values_axis(edges, across)}</svg>"
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
    """Without empty bins at both ends; neighbours joined until there are at most 40."""
    counts, edges = np.asarray(counts), np.asarray(edges, dtype=np.float64)
    used = np.flatnonzero(counts)
    if not used.size:
        return counts[:0], edges[:0]
    counts, edges = counts[used[0] : used[-1] + 1], edges[used[0] : used[-1] + 2]
    joined = -(-len(counts) // _MOST_BARS)
    starts = np.arange(0, len(counts), joined)
    return np.add.reduceat(counts, starts), np.append(edges[starts], edges[-1])


# -- axes -------------------------------------------------------------------------------------


def _counts_axis(largest: int, name: str) -> str:
    """The axis on the left: 0, the largest count, and half of it where that is a count."""
    half = [largest // 2] if largest % 2 == 0 or largest > 20 else []
    drawn = [_line(_LEFT, _TOP, _LEFT, _BASE)]
    for count in [0, *half, largest]:
        y = _BASE - (_BASE - _TOP) * count / largest
        drawn += [_line(_LEFT - 3, y, _LEFT, y), _text(_LEFT - 5, y + 4, f"{count:,}", "end")]
    return "".join([*drawn, _text(0, 10, name, "start") if name else ""])


def _values_axis(edges: np.ndarray, name: str) -> str:
    """The axis below."""
    drawn, last = [_line(_LEFT, _BASE, _RIGHT, _BASE)], len(edges) - 1
    for at, value in _ticks(edges):
        x = _LEFT + (_RIGHT - _LEFT) * at / last
        anchor = "start" if at == 0 else "end" if at == last else "middle"
        drawn += [_line(x, _BASE, x, _BASE + 4), _text(x, _BASE + 16, f"{value:.3g}", anchor)]
    return "".join([*drawn, _text((_LEFT + _RIGHT) / 2, _HEIGHT - 5, name, "middle") if name else ""])


def _ticks(edges: np.ndarray) -> Iterator[tuple[float, float]]:
    """(place in bins, value): round values where all bins are as wide, else the ends and some edges between."""
    widths = np.diff(edges)
    if len(widths) > 1 and np.allclose(widths, widths[0], rtol=1e-6):
        step = _round_step(float(edges[-1] - edges[0]) / 5)
        for k in range(math.ceil(edges[0] / step), math.floor(edges[-1] / step) + 1):
            yield float((k * step - edges[0]) / widths[0]), k * step
        return
    for i in [0, *_between(edges), len(widths)]:
        yield float(i), float(edges[i])


def _round_step(about: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not below a length."""
    power = 10.0 ** math.floor(math.log10(about))
    return next(part * power for part in (1, 2, 5, 10) if part * power >= about * (1 - 1e-9))


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


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escaped(text)}</text>'
