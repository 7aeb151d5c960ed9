"""`TokenView`: the tokens of one text, coloured by how strongly features are active on them.

`model.visualize_feature_activations` makes one (`features.view`); reports hold several.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .escaping import escaped, one_line, token_line
from .page import Links
from .spans import bold, peak_of, spans_html, spans_text, wants_color
from .view import View


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class TokenView(View):
    """One text's tokens coloured by the activation of one or more features.

    A notebook shows it by itself; `print` shows it in the terminal; `to_html` writes a file. Positive
    activations are orange, negative ones blue; the strongest token is underlined.

    Attributes:
        tokens: Text of each token; "" for those that only finish a character begun before.
        feature_ids: In the order in which they are shown.
        activations: float32, (features, tokens): 0 where not active, in the SAE's own scale.
        labels: Names of features, where they have one.
        maxima: Activation that gets the full colour, by feature; by default its largest in this text.
        component: Path of the component that the SAE read.
    """

    tokens: tuple[str, ...]
    feature_ids: tuple[int, ...]
    activations: np.ndarray
    labels: Mapping[int, str] | None = None
    maxima: Mapping[int, float] | None = None
    component: str = ""

    def __post_init__(self) -> None:
        shape = (len(self.feature_ids), len(self.tokens))
        if np.shape(self.activations) != shape:
            raise InputError(
                f"Activations have shape {np.shape(self.activations)}; {shape[0]} features and {shape[1]} tokens"
                f" need {shape}."
            )

    # -- in a notebook and as a file ----------------------------------------------------------

    def fragment(self, level: int = 3, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet, for a page; headings start at `level`."""
        strips = "".join(self._strip(i, level) for i in range(len(self.feature_ids)))
        if not strips:
            strips = f"<p>No feature is active on this text.</p>{self._text(None)}"
        anchor = f' id="{element_id}"' if element_id else ""
        place = f"{escaped(self.component)} · " if self.component else ""
        return (
            f'<section class="mxt-panel"{anchor} aria-label="Tokens by feature activation">{strips}'
            f'<div class="mxt-foot">{place}{len(self.tokens):,} tokens · {_legend(bool((self.activations < 0).any()))}'
            "</div></section>"
        )

    def _title(self) -> str:
        return "Feature activations on a text"

    def _body(self) -> str:
        return f'<h1 class="mxt-h1">{self._title()}</h1>{self.fragment(level=2)}'

    def _strip(self, i: int, level: int) -> str:
        """One feature: its name and largest activation, then the text."""
        feature, label = self.feature_ids[i], self._label(i)
        named = f' <span class="mxt-label">{escaped(label)}</span>' if label else ""
        heading = f'<h{level} class="mxt-title">Feature {feature}{named}</h{level}>'
        head = f'{heading} <span class="mxt-muted">{escaped(self._facts(i))}</span>'
        if len(self.feature_ids) == 1:
            return f'<div class="mxt-strip">{head}{self._text(i)}</div>'
        return f'<details open class="mxt-strip"><summary>{head}</summary>{self._text(i)}</details>'

    def _text(self, i: int | None) -> str:
        values = np.zeros(len(self.tokens), np.float32) if i is None else self.activations[i]
        scale, peak = (1.0, None) if i is None else (self._scale(i), peak_of(values))
        spans = spans_html(self.tokens, values, scale, peak=peak)
        return f'<p class="mxt-text" dir="auto" lang="">{spans}</p>'

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
        values = self.activations[i]
        text = spans_text(self.tokens, values, self._scale(i), peak_of(values), color=color, breaks=True)
        return f"{head} · {self._facts(i)}\n{text}"

    # -- one feature --------------------------------------------------------------------------

    def _label(self, i: int) -> str:
        return (self.labels or {}).get(self.feature_ids[i], "")

    def _scale(self, i: int) -> float:
        given = (self.maxima or {}).get(self.feature_ids[i])
        return float(np.abs(self.activations[i]).max(initial=0.0)) if given is None else abs(float(given))

    def _facts(self, i: int) -> str:
        values = self.activations[i]
        peak = peak_of(values)
        if peak is None:
            return "not active on this text"
        token = next((self.tokens[j] for j in range(peak, -1, -1) if self.tokens[j]), "")
        active = int(np.count_nonzero(values))
        return (
            f"strongest {values[peak]:.4g} on “{token_line(token.strip(' ') or token)}” (position {peak}),"
            f" active on {active:,} of {len(values):,} tokens"
        )


def _legend(signed: bool) -> str:
    """What the colours mean."""
    orange = "".join(f'<mark class="mxt-p{step}"></mark>' for step in (1, 3, 5, 7, 8))
    blue = "".join(f'<mark class="mxt-n{step}"></mark>' for step in (8, 7, 5, 3, 1))
    scale = f"negative {blue}{orange} positive" if signed else f"weak {orange} strong"
    return f"{scale} · the strongest token is underlined · point at a token for its value"
