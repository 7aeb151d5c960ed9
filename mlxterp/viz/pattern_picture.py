"""Attention patterns as small pictures for notebooks: an SVG for each head, without a script.

Values and tokens come in; every text is escaped here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .escaping import escaped, own_token
from .palette import STEPS, steps_of

_SHOWN = 24
"""Heads of a picture, at most."""
_CELLS = 1 << 16
"""Cells of all its heads, at most."""
_FAINT = 0.02
"""Weights below it are not drawn."""
_NAMED = 64
"""Tokens that the text under the pictures lists, at most."""
_STYLE = (
    "<style>.mlxterp-view .mxt-heads{display:flex;flex-wrap:wrap;gap:.6em;margin:.6em 0}"
    ".mlxterp-view .mxt-heads figure{width:8.5em}"
    ".mlxterp-view .mxt-heads figcaption{font-size:.85em;color:var(--mxt-muted)}"
    ".mlxterp-view .mxt-heads svg{background:var(--mxt-code);border-radius:4px}"
    + "".join(f".mlxterp-view .mxt-heads .mxt-f{i}{{fill:var(--mxt-p{i})}}" for i in range(1, STEPS + 1))
    + "</style>"
)


class HeadPattern(NamedTuple):
    """The pattern of one head.

    Attributes:
        name: Such as "L3H5".
        weights: float32, (queries, keys).
    """

    name: str
    weights: np.ndarray


def pattern_panel(
    title: str,
    facts: Sequence[str],
    tokens: Sequence[str],
    heads: Sequence[HeadPattern],
    level: int,
    element_id: str,
) -> str:
    """HTML without style sheet and scripts: facts, pictures of the first heads, and the tokens.

    Args:
        level: Of its heading.
        element_id: Of the outermost element; "" gives it none.
    """
    anchor = f' id="{element_id}"' if element_id else ""
    most = max(1, min(_SHOWN, _CELLS // max(1, len(tokens) ** 2)))
    told = "".join(f"<p>{escaped(fact)}</p>" for fact in facts)
    pictures = "".join(_figure(head, len(tokens)) for head in heads[:most])
    return (
        f'{_STYLE}<section class="mxt-panel"{anchor} aria-label="Attention"><h{level} class="mxt-title">'
        f'{escaped(title)}</h{level}>{told}<div class="mxt-heads">{pictures}</div>{_tokens(tokens)}'
        f'<div class="mxt-foot">{escaped(_foot(len(heads), most))}</div></section>'
    )


def _foot(heads: int, shown: int) -> str:
    fewer = (
        f"The first {shown} of {heads} heads: choose others with layers= and heads=. "
        if shown < heads
        else ""
    )
    return (
        f"{fewer}A row for each token that reads, from the top; a column for each that is read, from the left; the"
        f" stronger the colour, the more (below {_FAINT:g} none). .to_html(path) writes a page to explore all heads."
    )


def _figure(head: HeadPattern, n: int) -> str:
    paths = "".join(
        f'<path class="mxt-f{step}" d="{cells}"></path>' for step, cells in _by_step(head.weights) if cells
    )
    name = escaped(head.name)
    return (
        f'<figure><svg viewBox="0 0 {n} {n}" role="img" aria-label="Attention pattern of {name}"'
        f' shape-rendering="crispEdges">{paths}</svg><figcaption>{name}</figcaption></figure>'
    )


def _by_step(weights: np.ndarray) -> list[tuple[int, str]]:
    """The cells of each colour as one path."""
    steps = np.where(weights >= _FAINT, steps_of(weights, 1.0), 0)
    found = []
    for step in range(1, STEPS + 1):
        rows, columns = np.nonzero(steps == step)
        found.append(
            (step, "".join(f"M{x} {y}h1v1h-1z" for x, y in zip(columns.tolist(), rows.tolist(), strict=True)))
        )
    return found


def _tokens(tokens: Sequence[str]) -> str:
    named = "".join(
        f'<li><span class="mxt-muted">{i}</span> <code dir="auto" lang="">{escaped(own_token(token))}</code></li>'
        for i, token in enumerate(tokens[:_NAMED])
    )
    more = f'<li class="mxt-muted">… and {len(tokens) - _NAMED} more</li>' if len(tokens) > _NAMED else ""
    return f'<ul class="mxt-chips" aria-label="Tokens">{named}{more}</ul>'
