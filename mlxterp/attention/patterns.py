"""`AttentionPatterns`: which tokens each head reads, as arrays, as a page to explore, and as pictures.

`attention_patterns` and `get_attention_patterns` make it. Arrays come in, nothing here knows a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import checks
from ..core.by_layer import layer_key
from ..core.integers import as_integer
from ..errors import InputError
from ..viz.lines import Table
from ..viz.page import Links
from ..viz.pattern_figure import pattern_figure
from ..viz.pattern_page import PatternText, pattern_page
from ..viz.pattern_picture import HeadPattern, pattern_panel
from ..viz.plotting import Plotted
from ..viz.spans import bold, wants_color
from ..viz.view import View
from .scores import (
    current_token_score,
    first_token_score,
    mean_distance,
    pattern_entropy,
    previous_token_score,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS = 24
"""Heads that `print` lists one by one."""
_LEFT = 0.01
"""What a row leaves to a sink is told from here on."""


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class AttentionPatterns(View, Plotted, Mapping[int, np.ndarray]):
    """What each token reads, by layer and head; made by `attention_patterns`.

    `patterns[layer]` is float32 (texts, heads, queries, keys); as a mapping it gives the layers in their order. A
    notebook shows it, `to_html` writes a page to explore it, offline; `plot` draws small heat maps of one text.

    Attributes:
        patterns: Layer → float32 (texts, heads, queries, keys), 0 where a text has ended.
        heads: Layer → numbers of the heads on the second axis.
        tokens: For each text, the text of its tokens.
        value_norms: Layer → float32 (texts, heads, keys): lengths of the value vectors; None where they were not read.
        without: Layers that were left out, since they have no attention.
    """

    patterns: Mapping[int, np.ndarray]
    heads: Mapping[int, tuple[int, ...]]
    tokens: tuple[tuple[str, ...], ...]
    value_norms: Mapping[int, np.ndarray] | None = None
    without: tuple[int, ...] = ()

    # -- as a mapping ---------------------------------------------------------------------------

    def __getitem__(self, layer: int) -> np.ndarray:
        return self.patterns[layer_key(layer, self.layers)]

    def __iter__(self) -> Iterator[int]:
        return iter(self.patterns)

    def __len__(self) -> int:
        return len(self.patterns)

    # -- parts ------------------------------------------------------------------------------------

    @property
    def layers(self) -> tuple[int, ...]:
        """Numbers of the layers, in the order given."""
        return tuple(self.patterns)

    def of(self, text: int) -> AttentionPatterns:
        """The patterns of one text, as long as it is.

        Args:
            text: Its number; negative ones count from the last.

        Raises:
            InputError: There is no such text.
        """
        at = checks.integer(text, "text", -len(self.tokens), len(self.tokens) - 1) % len(self.tokens)
        n = len(self.tokens[at])
        norms = self.value_norms
        return replace(
            self,
            patterns={layer: x[at : at + 1, :, :n, :n] for layer, x in self.patterns.items()},
            tokens=(self.tokens[at],),
            value_norms=None
            if norms is None
            else {layer: x[at : at + 1, :, :n] for layer, x in norms.items()},
        )

    def head(self, layer: int, head: int, text: int = 0) -> np.ndarray:
        """float32, (queries, keys): the pattern of one head for one text, as long as it is.

        Raises:
            InputError: There is no such layer, head or text.
        """
        n, h = as_integer(layer), as_integer(head)
        if n is None or n not in self.patterns:
            raise InputError(
                f"There is no layer {layer!r:.60} here; there are {', '.join(map(str, self.layers))}."
            )
        if h is None or h not in self.heads[n]:
            raise InputError(
                f"There is no head {head!r:.60} of layer {n} here; there are {list(self.heads[n])}."
            )
        return self.of(text).patterns[n][0, self.heads[n].index(h)]

    def to_sink(self) -> dict[int, np.ndarray]:
        """Layer → float32 (texts, heads, queries): what rows leave to a learned sink; else 0, but for rounding."""
        return {layer: _ended(1 - x.sum(axis=-1), self.tokens) for layer, x in self.patterns.items()}

    def weighted(self) -> AttentionPatterns:
        """The same, each weight times the length of the key's value vector, a share of the head's longest in the text.

        Attention to a token whose value is short moves little: this is what is often true of the first one. Rows no
        longer sum to 1.

        Raises:
            InputError: They were made without `values=True`.
        """
        if self.value_norms is None:
            raise InputError("These patterns were read without value vectors. Ask for them: values=True.")
        return replace(
            self, patterns={n: x * _shares(self.value_norms[n])[:, :, None] for n, x in self.patterns.items()}
        )

    def to_pandas(self) -> Any:
        """A data frame with a row for each head of each text: mean attention to the first token, the one before and the
        token itself, entropy of a row in nats, mean distance in tokens.

        Raises:
            BackendError: pandas is not installed.
        """
        from ..core.frames import data_frame

        rows = [(text, *row) for text in range(len(self.tokens)) for row in self.of(text)._rows()]
        names = ("text", "layer", "head", "first", "previous", "itself", "entropy", "distance")
        return data_frame({name: [row[i] for row in rows] for i, name in enumerate(names)})

    # -- to look at -----------------------------------------------------------------------------

    def fragment(self, level: int = 3, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet and scripts: small pictures of the first heads of the first text."""
        one = self.of(0)
        heads = [
            HeadPattern(f"L{layer}H{head}", one.patterns[layer][0, i])
            for layer in self.layers
            for i, head in enumerate(self.heads[layer])
        ]
        return pattern_panel(self._title(), self._facts(), one.tokens[0], heads, level, element_id)

    def to_str(self, color: bool | None = None) -> str:
        """For the terminal: how much heads attend to the first token, the one before and the token itself.

        Args:
            color: None sets the title in bold where the output is a terminal and NO_COLOR is not set.
        """
        rows = self.of(0)._rows()
        table = Table(
            ("layer", "head", "first", "previous", "itself", "entropy", "distance"),
            [(str(r[0]), str(r[1]), *(f"{x:.2f}" for x in r[2:])) for r in rows[:_ROWS]],
        )
        more = [f"… and {len(rows) - _ROWS} more heads: .to_pandas() has all"] if len(rows) > _ROWS else []
        return "\n".join([bold(self._title(), wants_color(color)), *self._facts(), *table.lines(), *more])

    def __repr__(self) -> str:
        heads = sum(map(len, self.heads.values()))
        return f"AttentionPatterns({len(self.tokens)} texts, {len(self.patterns)} layers, {heads} heads)"

    def _rows(self) -> list[tuple[Any, ...]]:
        """Layer, head and five numbers for each head of the one text."""
        rows = []
        for layer, x in self.patterns.items():
            scores = [
                np.asarray(f(x[0]))
                for f in (
                    first_token_score,
                    previous_token_score,
                    current_token_score,
                    pattern_entropy,
                    mean_distance,
                )
            ]
            rows += [
                (layer, head, *(float(s[i]) for s in scores)) for i, head in enumerate(self.heads[layer])
            ]
        return rows

    def _title(self) -> str:
        return "Attention patterns"

    def _facts(self) -> list[str]:
        lengths = [len(tokens) for tokens in self.tokens]
        shown = f"{lengths[0]} tokens" if len(lengths) == 1 else f"{len(lengths)} texts, shown is the first"
        heads = sum(map(len, self.heads.values()))
        return [f"{len(self.layers)} layers, {heads} heads, {shown}", *self._notes()]

    def _notes(self) -> list[str]:
        """What a reader has to know of these patterns."""
        notes = []
        if self.without:
            notes.append(f"Layers without attention, left out: {', '.join(map(str, self.without))}.")
        left = max((float(x.max()) for x in self.to_sink().values()), default=0.0)
        if left > _LEFT:
            notes.append(
                f"Some rows sum to less than 1 (to {1 - left:.2f}): the rest went to a sink, or was weighted away."
            )
        return notes

    def _drawn(self, show: bool) -> Figure:
        one = self.of(0)
        panels = [
            (f"L{layer}H{head}", one.patterns[layer][0, i])
            for layer in self.layers
            for i, head in enumerate(self.heads[layer])
        ]
        return pattern_figure(panels, one.tokens[0], title=self._title(), show=show)

    def _page(self) -> str:
        texts = []
        for text in range(len(self.tokens)):
            one = self.of(text)
            norms = one.value_norms
            texts.append(
                PatternText(
                    one.tokens[0], {layer: x[0] for layer, x in one.patterns.items()},
                    None if norms is None else {layer: _shares(x)[0] for layer, x in norms.items()},
                )
            )  # fmt: skip
        return pattern_page(self._title(), self._notes(), texts, self.heads)


def _shares(norms: np.ndarray) -> np.ndarray:
    """(texts, heads, keys) as shares of each head's longest in the text."""
    longest = norms.max(axis=-1, keepdims=True)
    return norms / np.where(longest > 0, longest, 1)


def _ended(values: np.ndarray, tokens: tuple[tuple[str, ...], ...]) -> np.ndarray:
    """The same array (texts, heads, queries), 0 where a text has ended."""
    for row, own in zip(values, tokens, strict=True):
        row[:, len(own) :] = 0
    return values
