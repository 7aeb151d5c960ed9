"""A `FeatureCard` for the terminal."""

from __future__ import annotations

import numpy as np

from .escaping import one_line, token_line
from .histogram import histogram_line
from .protocols import Card, Example
from .spans import bold, ends, spans_text

_INDENT = " " * 2


def card_text(card: Card, color: bool) -> str:
    """The card as lines of text."""
    s = card.stats
    lines: list[str | None] = [
        bold(f"Feature {card.feature_id}", color) + (f" · {one_line(card.label)}" if card.label else "")
    ]
    place = " · ".join(one_line(part) for part in (card.sae_name, card.component) if part)
    if place:
        lines.append(place)
    if s.count:
        lines.append(
            f"active on {100 * s.density:.3g} % of tokens ({s.count:,} of {s.n_tokens:,})"
            f" · mean {s.mean:.4g} · max {s.maximum:.4g}"
        )
        lines.append(histogram_line(*s.histogram))
    else:
        lines.append(f"never active in {s.n_tokens:,} tokens")
    if card.logits is not None:
        lines.append(_row("promotes", [f"{_token(t)} {v:+.2f}" for t, v in card.logits.promoted]))
        lines.append(_row("suppresses", [f"{_token(t)} {v:+.2f}" for t, v in card.logits.suppressed]))
        if card.logits.histogram is not None:
            lines.append(_row("logits", [histogram_line(*map(np.asarray, card.logits.histogram))]))
    lines.append(_row("active on", [f"{_token(t)} ×{n:,}" for t, n in s.top_tokens]))
    scale = card.scale()
    for title, examples in card.groups():
        lines += ["", bold(one_line(title), color)]
        lines += [_example(example, scale, color) for example in examples]
    if len(card.similar) or len(card.coactive):
        lines.append("")
    lines.append(
        _row("similar", [_near(card, f, f"{cosine:.2f}", label) for f, cosine, label in card.similar])
    )
    lines.append(_row("together", [_near(card, f, f"{100 * part:.3g} %", None) for f, part in card.coactive]))
    if card.facts:
        lines.append(
            _row("from", [f"{one_line(str(k))} {one_line(str(v))}" for k, v in card.facts.items()], " · ")
        )
    return "\n".join(line for line in lines if line is not None)


def _row(name: str, cells: list[str], between: str = "  ") -> str | None:
    """A named line of cells; None without any."""
    return f"{name:<11}{between.join(cells)}" if cells else None


def _near(card: Card, feature: int, likeness: str, label: str | None) -> str:
    """Another feature, with how near it is, its name, or the most telling token that it fires on."""
    named, tokens = card.neighbours.get(feature, (None, ()))
    said = one_line(label or named or "") or (_token(tokens[0]) if tokens else "")
    return f"{feature} ({likeness}{f', {said}' if said else ''})"


def _token(token: str) -> str:
    return f"“{token_line(token)}”"


def _example(example: Example, scale: float, color: bool) -> str:
    peak = example.position - example.start
    text = spans_text(example.tokens, example.activations, scale, peak, color=color)
    before, after = ends(example)
    return f"{_INDENT}{example.activation:8.4g}  {before}{text}{after}"
