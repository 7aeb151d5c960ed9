"""Examples of a feature: a text, the token where the feature is strongest, and the tokens around it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ..core.ranking import Firings
from ..data.corpus import scatter
from ..viz.escaping import one_line

SAME = 5
"""Two examples are the same where this many tokens on both sides of the strongest one are."""


@dataclass(frozen=True, eq=False, slots=True)
class FeatureExample:
    """A place where a feature is active, with the tokens around it.

    Attributes:
        feature_id: The feature.
        text: The whole text.
        text_id: Number of the text in the index.
        position: Position in the text of the token where the feature is strongest.
        activation: How strongly the feature fires at `position`.
        tokens: The tokens around that one, as text; itself included.
        activations: float32, (len(tokens),): how strongly the feature fires on each; 0 where it is not active.
        start: Position in the text of the first of `tokens`.
    """

    feature_id: int
    text: str
    text_id: int
    position: int
    activation: float
    tokens: tuple[str, ...]
    activations: np.ndarray
    start: int

    def to_str(self, mark_toks: bool = True) -> str:
        """The tokens as one line; with `mark_toks`, <<those>> where the feature is active."""
        parts, marked = [], False
        for token, active in zip(self.tokens, self.activations != 0, strict=True):
            if mark_toks and active != marked:
                parts.append("<<" if active else ">>")
            marked = bool(active)
            parts.append(token)
        line = "".join(parts) + (">>" if mark_toks and marked else "")
        return line.replace("\n", "↵").replace("�", "")

    def __str__(self) -> str:
        return f"[{self.activation:.3g}] {one_line(self.to_str())}"


@dataclass(frozen=True, eq=False, slots=True)
class Window:
    """Tokens around a position of a text."""

    ids: np.ndarray
    """int32, (n,)."""
    activations: np.ndarray
    """float32, (n,): of one feature."""
    start: int
    """Position in the text of the first."""


Look = tuple[int, int, bytes]
"""What a place is known by: a hash of the text up to it; how many tokens before it, five at most, are there; and those
five, its own and the five after it."""


def distinct(places: Iterable[Look], n: int) -> Iterator[int]:
    """Numbers of the first n places that differ from each other.

    Two are the same where the text up to the token is (a causal model computes the same there), or the
    token and the five on both sides of it.
    """
    texts: set[int] = set()
    windows: set[tuple[int, bytes]] = set()
    for row, (prefix, before, tokens) in enumerate(places):
        if prefix in texts:
            continue
        window = before, tokens
        if window not in windows:
            yield row
            n -= 1
            if not n:
                return
        texts.add(prefix)
        windows.add(window)


def of_quantile(strongest: Firings, quantile: int) -> Firings:
    """The texts in a tenth of the ranks (0 the weakest, 9 the strongest), in an order that a hash decides.

    Args:
        strongest: One token of each text, the strongest first.
    """
    n = len(strongest)
    rank = np.arange(n)[::-1]  # 0 is the weakest
    chosen = np.flatnonzero(rank * 10 // max(n, 1) == quantile)
    part = strongest.take(chosen)
    return part.take(np.argsort(scatter(part.prefixes), kind="stable"))
