"""`TokenView`: the tokens of one text, coloured by how strongly features are active on them.

`model.visualize_feature_activations` makes one (`features.view`); reports hold several.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .escaping import escaped, one_line, token_line
from .merged_tokens import MergedTokens, TokenFeatures, share_of
from .page import Links, feature_link
from .spans import bold, peak_of, spans_html, spans_text, wants_color
from .view import View

THIS_TEXT = "this text"


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class TokenView(View):
    """One text's tokens coloured by the activation of one or more features.

    A notebook shows it by itself; `print` shows it in the terminal; `to_html` writes a file. With several features
    the text stands there once, each token coloured by its strongest feature and naming its strongest ones; below, the
    text by each feature. Full colour is the feature's own maximum. Positive activations are orange, negative ones blue;
    a feature's strongest token is underlined.

    Attributes:
        tokens: Text of each token; "" for those that only finish a character begun before.
        feature_ids: In the order in which they are shown.
        activations: float32, (features, tokens): 0 where not active, in the SAE's own scale.
        labels: Names of features, where they have one.
        maxima: Activation that gets the full colour, by feature; by default its largest in this text.
        component: Path of the component that the SAE read.
        token_features: For each token its strongest features, others than `feature_ids` among them; None takes those of
            `feature_ids` that are active on it.
        maxima_in: Where the features have those maxima, such as "an index of 234 texts".
        sae_name: What the SAE says of itself; a report links features to its cards of this SAE.
    """

    tokens: tuple[str, ...]
    feature_ids: tuple[int, ...]
    activations: np.ndarray
    labels: Mapping[int, str] | None = None
    maxima: Mapping[int, float] | None = None
    component: str = ""
    token_features: TokenFeatures | None = None
    maxima_in: str = ""
    sae_name: str = ""

    def __post_init__(self) -> None:
        shape = (len(self.feature_ids), len(self.tokens))
        if np.shape(self.activations) != shape:
            raise InputError(
                f"Activations have shape {np.shape(self.activations)}; {shape[0]} features and {shape[1]} tokens"
                f" need {shape}."
            )
        if self.token_features is not None and len(self.token_features) != shape[1]:
            raise InputError(
                f"token_features has rows for {len(self.token_features)} tokens, and the text has {shape[1]}."
            )

    # -- in a notebook and as a file ----------------------------------------------------------

    def fragment(self, level: int = 3, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet, for a page; headings start at `level`."""
        several = len(self.feature_ids) > 1
        merged = self._merged().html(level, links) if several else ""
        strips = "".join(self._strip(i, level, links, several) for i in range(len(self.feature_ids)))
        if not strips:
            strips = f"<p>No feature is active on this text.</p>{self._text(None)}"
        anchor = f' id="{element_id}"' if element_id else ""
        place = f"{escaped(self.component)} · " if self.component else ""
        return (
            f'<section class="mxt-panel"{anchor} aria-label="Tokens by feature activation">{merged}{strips}'
            f'<div class="mxt-foot">{place}{len(self.tokens):,} tokens · {self._legend()}</div></section>'
        )

    def _title(self) -> str:
        return "Feature activations on a text"

    def _body(self) -> str:
        return f'<h1 class="mxt-h1">{self._title()}</h1>{self.fragment(level=2)}'

    def _strip(self, i: int, level: int, links: Links | None, folded: bool) -> str:
        """One feature: its name and largest activation, then the text."""
        feature, label = feature_link(self.sae_name, self.feature_ids[i], links), self._label(i)
        named = f' <span class="mxt-label">{escaped(label)}</span>' if label else ""
        heading = f'<h{level} class="mxt-title">Feature {feature}{named}</h{level}>'
        head = f'{heading} <span class="mxt-muted">{escaped(self._facts(i))}</span>'
        if folded:
            return f'<details class="mxt-strip"><summary>{head}</summary>{self._text(i)}</details>'
        return f'<div class="mxt-strip">{head}{self._text(i)}</div>'

    def _text(self, i: int | None) -> str:
        values = np.zeros(len(self.tokens), np.float32) if i is None else self.activations[i]
        scale, peak = (1.0, None) if i is None else (self._scales()[self.feature_ids[i]], peak_of(values))
        spans = spans_html(self.tokens, values, scale, peak=peak)
        return f'<p class="mxt-text" dir="auto" lang="">{spans}</p>'

    def _legend(self) -> str:
        """What the colours mean."""
        orange = "".join(f'<mark class="mxt-p{step}"></mark>' for step in (1, 3, 5, 7, 8))
        blue = "".join(f'<mark class="mxt-n{step}"></mark>' for step in (8, 7, 5, 3, 1))
        scale = (
            f"negative {blue}{orange} positive" if (self.activations < 0).any() else f"weak {orange} strong"
        )
        hint = (
            ""
            if self.maxima and self.maxima_in != THIS_TEXT
            else " (index=… takes its maximum over an index)"
        )
        return (
            f"{scale} · full colour: the feature’s own maximum{escaped(self._maxima_said())}{hint}"
            " · its strongest token is underlined · point at a token for values"
        )

    # -- in the terminal ----------------------------------------------------------------------

    def to_str(self, color: bool | None = None) -> str:
        """For the terminal: a line of facts and the text, for each feature.

        Args:
            color: None colours where the output is a terminal and NO_COLOR is not set. Without colour,
                active tokens stand in brackets, the strongest with its activation.
        """
        color = wants_color(color)
        if not self.feature_ids:
            return f"No feature is active on this text.\n{one_line(''.join(self.tokens))}"
        return "\n\n".join(self._lines(i, color) for i in range(len(self.feature_ids)))

    def __repr__(self) -> str:
        names = ", ".join(map(str, self.feature_ids[:6])) + (", …" if len(self.feature_ids) > 6 else "")
        return f"TokenView({len(self.tokens)} tokens, features [{names}])"

    def _lines(self, i: int, color: bool) -> str:
        label = one_line(self._label(i))
        head = bold(f"Feature {self.feature_ids[i]}{f' {label}' if label else ''}", color)
        values, scale = self.activations[i], self._scales()[self.feature_ids[i]]
        text = spans_text(self.tokens, values, scale, peak_of(values), color=color, breaks=True)
        return f"{head} · {self._facts(i)}\n{text}"

    # -- features -----------------------------------------------------------------------------

    def _merged(self) -> MergedTokens:
        """The text by the strongest features of each token."""
        return MergedTokens(self.tokens, self._by_token(), self._scales(), self.labels or {}, self.sae_name)

    def _by_token(self) -> TokenFeatures:
        """The strongest features of each token."""
        if self.token_features is not None:
            return self.token_features
        order = np.argsort(-np.abs(self.activations), axis=0, kind="stable").T.tolist()
        columns = self.activations.T.tolist()
        return [
            [(self.feature_ids[i], values[i]) for i in ranked if values[i]]
            for ranked, values in zip(order, columns, strict=True)
        ]

    def _label(self, i: int) -> str:
        return (self.labels or {}).get(self.feature_ids[i], "")

    def _scales(self) -> dict[int, float]:
        """The activation that gets the full colour, of every feature."""
        found: dict[int, float] = {}
        listed = [one for row in self.token_features or () for one in row]
        for feature, value in (*zip(self.feature_ids, self._largest(), strict=True), *listed):
            found[feature] = max(found.get(feature, 0.0), abs(value))
        return found | {feature: abs(float(value)) for feature, value in (self.maxima or {}).items()}

    def _largest(self) -> list[float]:
        return np.abs(self.activations).max(axis=1, initial=0.0).tolist()

    def _maxima_said(self) -> str:
        """Where the features have the maxima that get the full colour."""
        if self.maxima and not self.maxima_in:
            return ", as given"
        return f" in {self.maxima_in or THIS_TEXT}"

    def _facts(self, i: int) -> str:
        values, known = self.activations[i], (self.maxima or {}).get(self.feature_ids[i])
        peak = peak_of(values)
        if peak is None:
            return "not active on this text"
        token = next((self.tokens[j] for j in range(peak, -1, -1) if self.tokens[j]), "")
        share = ""
        if known and self.maxima_in != THIS_TEXT:
            share = f", {share_of(values[peak], known)} of its maximum {known:.4g}{self._maxima_said()}"
        active = int(np.count_nonzero(values))
        return (
            f"strongest {values[peak]:.4g} on “{token_line(token.strip(' ') or token)}” (position {peak}){share},"
            f" active on {active:,} of {len(values):,} tokens"
        )
