"""Tokens with their activations as one run of text: HTML marks, or a terminal's colours or brackets.

Used for a whole text (`TokenView`) and for an example's window (`FeatureCard`). Only active tokens get an
element of their own, so that what is sparse stays small.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .escaping import attribute, in_line, visible_pieces, with_breaks, with_marks
from .palette import ansi, class_of, steps_of
from .protocols import Example


def peak_of(activations: np.ndarray) -> int | None:
    """Index of the activation of largest magnitude, the earliest of equals; None where none is active."""
    return int(np.abs(activations).argmax()) if np.any(activations) else None


def spans_html(
    tokens: Sequence[str],
    activations: np.ndarray,
    scale: float,
    start: int = 0,
    peak: int | None = None,
    tip: Callable[[int], str] | None = None,
) -> str:
    """The text; active tokens are marks with their exact value as tooltip, the peak is bold and underlined.

    Args:
        activations: (tokens,); 0 is not active.
        scale: The activation that gets the full colour.
        start: Position of the first token.
        peak: Index in `tokens` of the one to underline.
        tip: Gives another tooltip, by index in `tokens`: the strongest of those that are shown as one.
    """
    parts, seen = [], visible_pieces(tokens)
    for first, best, text, step, value, strongest in _groups(seen, activations, scale, peak):
        if step == 0:
            parts.append(with_breaks(text))
            continue
        shown = f"<b>{with_marks(text)}</b>" if strongest and text else with_marks(text)
        said = f"{value:.6g} at position {start + first}" if tip is None else tip(best)
        parts.append(f'<mark class={class_of(step)} title="{attribute(said)}">{shown}</mark>')
    return "".join(parts)


def spans_text(
    tokens: Sequence[str],
    activations: np.ndarray,
    scale: float,
    peak: int | None = None,
    *,
    color: bool,
    breaks: bool = False,
) -> str:
    """The same for a terminal: coloured, or with active tokens in brackets and the peak's value.

    Args:
        breaks: Keep the text's line breaks (behind ↵).
    """
    parts, seen = [], visible_pieces(tokens)
    for _, _, text, step, value, strongest in _groups(seen, activations, scale, peak):
        shown, end = in_line(text), ""
        if breaks and step == 0:
            shown = "↵\n".join(map(in_line, text.split("\n")))
        elif breaks and "\n" in text:
            end = "\n"  # behind the colour, which would fill the line
        if step == 0:
            parts.append(shown)
        elif color:
            strong = "\x1b[1;4m" if strongest else ""
            parts.append(f"{ansi(step)}{strong}{shown or '▯'}\x1b[0m{end}")
        else:
            bare = shown.lstrip(" ") or "·" * len(shown) or "▯"
            mark = f"[{bare}{f'={value:.4g}' if strongest else ''}]"
            parts.append(" " * (len(shown) - len(shown.lstrip(" ")) if shown.strip(" ") else 0) + mark + end)
    return "".join(parts)


def wants_color(color: bool | None) -> bool:
    """What was asked for; else whether the output is a terminal and NO_COLOR is not set."""
    if color is not None:
        return color
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return not plain and sys.stdout is not None and sys.stdout.isatty()


def bold(text: str, color: bool) -> str:
    """The text, in bold where colours are shown."""
    return f"\x1b[1m{text}\x1b[0m" if color else text


def ends(example: Example) -> tuple[str, str]:
    """What stands before and after an example's window: … where the text goes on."""
    tail = "".join(example.tokens[-8:])
    return "…" if example.start else "", "" if example.text.endswith(tail) else " …"


def _groups(
    tokens: Sequence[str], activations: np.ndarray, scale: float, peak: int | None
) -> Iterator[tuple[int, int, str, int, float, bool]]:
    """(first index, index of the strongest, text, step, activation, whether it is the peak) of what is shown as one.

    An active token is one; tokens without text of their own belong to the one before; what lies between
    active ones is one.
    """
    activations = np.asarray(activations, dtype=np.float32)
    whole = np.array([bool(token) for token in tokens], dtype=bool)
    if whole.size:
        whole[0] = True
    firsts = np.flatnonzero(whole)
    if not firsts.size:
        return
    # The strongest of each group stands for it.
    sizes = np.diff(np.append(firsts, len(tokens)))
    order = np.lexsort(
        (np.arange(len(tokens)), -np.abs(activations), np.repeat(np.arange(len(firsts)), sizes))
    )
    values = activations[order[firsts]]
    steps = steps_of(values, scale)
    peak_group = (
        -1 if peak is None or not 0 <= peak < len(tokens) else int(np.searchsorted(firsts, peak, "right")) - 1
    )
    shown = 0
    for group in np.flatnonzero(steps).tolist():
        first = int(firsts[group])
        if first > shown:
            yield shown, shown, "".join(tokens[shown:first]), 0, 0.0, False
        best = int(order[first])
        yield first, best, tokens[first], int(steps[group]), float(values[group]), group == peak_group
        shown = first + int(sizes[group])
    if shown < len(tokens):
        yield shown, shown, "".join(tokens[shown:]), 0, 0.0, False
