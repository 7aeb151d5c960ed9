"""`FeatureCard`: everything known of one feature on one page.

`index.feature(feature_id)` makes one. The card knows values only; where they come from, it does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .card_text import card_text
from .escaping import attribute, escaped, one_line, token_html
from .histogram import histogram_svg
from .page import Links, feature_link
from .protocols import Example, Logits, Stats
from .spans import ends, spans_html, wants_color
from .view import View


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class FeatureCard(View):
    """What is known of one feature: how often it is active, on what, what it promotes, what resembles it.

    A notebook shows it by itself; `print` shows it in the terminal; `to_html` writes a file.

    Attributes:
        feature_id: The feature.
        label: A person's or model's name for it.
        stats: How often and how strongly it fires.
        examples: Groups in the order shown: title, examples.
        logits: Tokens that it promotes and suppresses; None leaves them out.
        similar: (feature_id, cosine of the decoder directions, label), most similar first.
        coactive: (feature_id, Jaccard index: tokens where both are active / tokens where at least one is), largest
            first.
        neighbours: Name and tokens, the most telling first, of features that `similar` and `coactive` list, to show
            them with.
        sae_name: What the SAE says of itself.
        component: Path of the component that the SAE reads.
        facts: Where the figures come from (data set, tokens, model), shown at the foot.
    """

    feature_id: int
    label: str | None
    stats: Stats
    examples: Mapping[str, Sequence[Example]] | Sequence[tuple[str, Sequence[Example]]] = ()
    logits: Logits | None = None
    similar: Sequence[tuple[int, float, str | None]] = ()
    coactive: Sequence[tuple[int, float]] = ()
    sae_name: str = ""
    component: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    neighbours: Mapping[int, tuple[str | None, Sequence[str]]] = field(default_factory=dict)

    # -- in a notebook and as a file ----------------------------------------------------------

    def fragment(self, level: int = 3, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet, for a page; headings start at `level`."""
        anchor = f' id="{element_id}"' if element_id else ""
        named = f' <span class="mxt-label">{escaped(self.label)}</span>' if self.label else ""
        place = " · ".join(escaped(part) for part in (self.sae_name, self.component) if part)
        place = f'<p class="mxt-muted">{place}</p>' if place else ""
        return (
            f'<article class="mxt-panel"{anchor} aria-label="{attribute(self._title())}">'
            f'<h{level} class="mxt-title">Feature {self.feature_id}{named}</h{level}>'
            f"{place}{self._stats()}"
            f'<div class="mxt-cols">{self._histogram(level + 1)}{self._spread(level + 1)}{self._top_tokens(level + 1)}'
            f'</div><div class="mxt-cols">{self._logits()}</div>{self._examples(level + 1)}'
            f'<div class="mxt-cols">{self._similar(links or {})}{self._coactive(links or {})}</div>'
            f"{self._foot()}</article>"
        )

    # -- in the terminal ----------------------------------------------------------------------

    def to_str(self, color: bool | None = None) -> str:
        """For the terminal.

        Args:
            color: None colours where the output is a terminal and NO_COLOR is not set. Without colour,
                active tokens stand in brackets, the strongest with its activation.
        """
        return card_text(self, wants_color(color))

    def __repr__(self) -> str:
        density, n_tokens = _share(self.stats.density), self.stats.n_tokens
        return f"FeatureCard({one_line(self._title())}: active on {density} of {n_tokens:,} tokens)"

    # -- its parts ----------------------------------------------------------------------------

    def groups(self) -> list[tuple[str, Sequence[Example]]]:
        """The groups of examples as (title, examples)."""
        pairs = self.examples.items() if isinstance(self.examples, Mapping) else self.examples
        return [(title, examples) for title, examples in pairs if len(examples)]

    def scale(self) -> float:
        """Activation that gets the full colour: the feature's largest, in all of the data."""
        shown = [np.abs(e.activations).max(initial=0.0) for _, group in self.groups() for e in group]
        return float(max([abs(self.stats.maximum), *shown]))

    def _title(self) -> str:
        return f"Feature {self.feature_id}" + (f": {self.label}" if self.label else "")

    def _stats(self) -> str:
        s = self.stats
        if not s.count:
            return f"<p>Never active in {s.n_tokens:,} tokens.</p>"
        cells = {
            "Active on": f'{_share(s.density)} <span class="mxt-muted">{s.count:,} of {s.n_tokens:,} tokens</span>',
            "Mean where active": f"{s.mean:.4g}",
            "Largest activation": f"{s.maximum:.4g}",
        }
        shown = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in cells.items())
        return f'<dl class="mxt-stats">{shown}</dl>'

    def _histogram(self, level: int) -> str:
        svg = histogram_svg(*self.stats.histogram, "Activations where active", "activation, log scale")
        return _figure("Activations", svg, level)

    def _spread(self, level: int) -> str:
        """How the logits of all tokens are spread."""
        if self.logits is None or self.logits.histogram is None:
            return ""
        counts, edges = map(np.asarray, self.logits.histogram)
        svg = histogram_svg(counts, edges, "Logits of the vocabulary", "logit")
        return _figure("Logits of all tokens", svg, level)

    def _logits(self) -> str:
        if self.logits is None:
            return ""
        sides = {"Promotes": self.logits.promoted, "Suppresses": self.logits.suppressed}
        return "".join(
            _table(name, ("next token", "logit"), [(_token(t), f"{v:+.3f}") for t, v in rows])
            for name, rows in sides.items()
            if len(rows)
        )

    def _top_tokens(self, level: int) -> str:
        if not len(self.stats.top_tokens):
            return ""
        chips = "".join(
            f'<li>{_token(token)} <span class="mxt-muted">× {count:,}</span></li>'
            for token, count in self.stats.top_tokens
        )
        title = f'<h{level} class="mxt-sub">Tokens it is active on</h{level}>'
        return f'<div>{title}<ul class="mxt-chips">{chips}</ul></div>'

    def _examples(self, level: int) -> str:
        scale = self.scale()
        return "".join(
            f'<h{level} class="mxt-sub">{escaped(title)}</h{level}>'
            f'<ol class="mxt-list">{"".join(_example(example, scale) for example in examples)}</ol>'
            for title, examples in self.groups()
        )

    def _similar(self, links: Links) -> str:
        rows = [(self._neighbour(f, label, links), f"{cosine:.3f}") for f, cosine, label in self.similar]
        return _table("Similar directions", ("feature", "cosine"), rows) if rows else ""

    def _coactive(self, links: Links) -> str:
        rows = [(self._neighbour(f, None, links), _share(part)) for f, part in self.coactive]
        return _table("Active together with", ("feature", "overlap"), rows) if rows else ""

    def _neighbour(self, feature: int, label: str | None, links: Links) -> str:
        """Another feature: its number, a link where the page shows it, its name and its tokens."""
        named, tokens = self.neighbours.get(feature, (None, ()))
        label = label or named
        parts = [feature_link(self.sae_name, feature, links), escaped(label) if label else ""]
        return " ".join(part for part in (*parts, *map(_token, tokens)) if part)

    def _foot(self) -> str:
        if not self.facts:
            return ""
        facts = "".join(
            f"<div><dt>{escaped(str(name))}</dt><dd>{escaped(str(value))}</dd></div>"
            for name, value in self.facts.items()
        )
        return f'<footer class="mxt-foot"><dl>{facts}</dl></footer>'


def _share(value: float) -> str:
    """A share in per cent, to three digits."""
    return f"{100 * value:.3g} %"


def _token(token: str) -> str:
    """A token by itself; its white space can be seen."""
    return f'<code dir="auto" lang="">{token_html(token)}</code>'


def _figure(title: str, svg: str, level: int) -> str:
    return f'<figure><h{level} class="mxt-sub">{title}</h{level}>{svg}</figure>' if svg else ""


def _muted(text: str) -> str:
    return f'<span class="mxt-muted">{text}</span>' if text else ""


def _table(caption: str, heads: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(f'<tr><td>{left}</td><td class="mxt-num">{right}</td></tr>' for left, right in rows)
    return (
        f'<table class="mxt-t"><caption>{caption}</caption><thead><tr><th scope="col">{heads[0]}</th>'
        f'<th scope="col" class="mxt-num">{heads[1]}</th></tr></thead><tbody>{body}</tbody></table>'
    )


def _example(example: Example, scale: float) -> str:
    spans = spans_html(
        example.tokens, example.activations, scale, example.start, example.position - example.start
    )
    before, after = ends(example)
    tip = f"text {example.text_id}, position {example.position}"
    return (
        f'<li><span class="mxt-num" title="{tip}">{example.activation:.4g}</span> '
        f'<span class="mxt-text mxt-snip" dir="auto" lang="">{_muted(before)}{spans}{_muted(after)}</span></li>'
    )
