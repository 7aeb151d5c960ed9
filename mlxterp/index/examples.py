"""Examples of a feature: a text, the token where the feature is strongest, and the tokens around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.ranking import Firings
from ..data.corpus import scatter
from ..viz.escaping import one_line

_SAME = 5
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


WindowOf = Callable[[int, int, int, int], Window]
"""(text, position, tokens before, tokens after) → the window."""


def distinct(firings: Firings, window_of: WindowOf, n: int) -> Iterator[int]:
    """Rows of the first n firings that differ from each other.

    Two are the same where the text up to the token is (a causal model computes the same there), or the
    token and the five on both sides of it.
    """
    seen: set[bytes | int] = set()
    found = 0
    for row in range(len(firings)):
        if found == n:
            return
        prefix, position = int(firings.prefixes[row]), int(firings.positions[row])
        if prefix in seen:
            continue
        window = window_of(int(firings.text_ids[row]), position, _SAME, _SAME)
        key = (position - window.start).to_bytes(1, "little") + window.ids.tobytes()
        if key not in seen:
            found += 1
            yield row
        seen |= {prefix, key}


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


def example(
    feature_id: int, text: str, firings: Firings, row: int, window: Window, pieces: Sequence[str]
) -> FeatureExample:
    """The example of one firing."""
    return FeatureExample(
        feature_id, text, int(firings.text_ids[row]), int(firings.positions[row]), float(firings.values[row]),
        tuple(pieces), window.activations, window.start,
    )  # fmt: skip
