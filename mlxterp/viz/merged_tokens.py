"""`MergedTokens`: a text that stands there once, each token by its strongest features. A part of a `TokenView`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .escaping import escaped, own_token, token_html
from .page import Links, feature_link
from .spans import spans_html

TokenFeatures = Sequence[Sequence[tuple[int, float]]]
"""(feature id, activation) of the strongest features of each token, strongest first."""
_ROWS = 200
"""Tokens that the table lists."""


@dataclass(frozen=True, eq=False, slots=True)
class MergedTokens:
    """A text by the strongest features of each token.

    Attributes:
        tokens: Text of each token.
        features: Of each token.
        scales: Each feature's own maximum, which gets the full colour.
        labels: Names of features, where they have one.
        sae_name: What the SAE says of itself, for links.
    """

    tokens: Sequence[str]
    features: TokenFeatures
    scales: Mapping[int, float]
    labels: Mapping[int, str]
    sae_name: str

    def html(self, level: int, links: Links | None) -> str:
        """The text, coloured by the share that a token's strongest feature has of its maximum, and a table, folded."""
        shares = np.array([self._share(*row[0]) if row else 0.0 for row in self.features], dtype=np.float32)
        text = spans_html(self.tokens, shares, 1.0, tip=self._tip)
        return (
            f'<div class="mxt-strip"><h{level} class="mxt-title">Strongest features of each token</h{level}>'
            f'<p class="mxt-text" dir="auto" lang="">{text}</p></div>'
            f'<details class="mxt-strip"><summary>Token by token</summary>{self._table(links)}</details>'
        )

    def _tip(self, token: int) -> str:
        said = "; ".join(f"{f}{self._said(f, a)}" for f, a in self.features[token])
        return f"{said} at position {token}"

    def _table(self, links: Links | None) -> str:
        rows = "".join(
            f"<tr><td>{i}</td><td>{_token(token)}</td><td>{self._linked(row, links)}</td></tr>"
            for i, (token, row) in enumerate(zip(self.tokens[:_ROWS], self.features, strict=False))
        )
        rest = len(self.tokens) - _ROWS
        more = (
            f'<p class="mxt-muted">… and {rest:,} more tokens: point at them in the text.</p>'
            if rest > 0
            else ""
        )
        return (
            '<table class="mxt-t"><thead><tr><th scope="col">position</th><th scope="col">token</th>'
            '<th scope="col">feature, activation (share of its maximum)</th></tr></thead>'
            f"<tbody>{rows}</tbody></table>{more}"
        )

    def _linked(self, row: Sequence[tuple[int, float]], links: Links | None) -> str:
        return " · ".join(
            f"<b>{feature_link(self.sae_name, feature, links)}</b>{escaped(self._said(feature, activation))}"
            for feature, activation in row
        )

    def _share(self, feature: int, activation: float) -> float:
        scale = self.scales.get(feature, 0.0)
        return activation / scale if scale else float(np.sign(activation))

    def _said(self, feature: int, activation: float) -> str:
        """What follows a feature's number."""
        label = self.labels.get(feature)
        share = share_of(activation, self.scales.get(feature, 0.0))
        return f"{f' {label}' if label else ''}: {activation:.4g} ({share})"


def share_of(activation: float, maximum: float) -> str:
    """An activation as a share of a maximum, in per cent."""
    return f"{100 * abs(activation / maximum):.0f} %" if maximum else "100 %"


def _token(token: str) -> str:
    return f'<code dir="auto" lang="">{token_html(token) if token else own_token(token)}</code>'
