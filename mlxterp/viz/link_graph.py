"""A graph of nodes in layers and positions as a page to explore it: click, pin, follow links, filter by influence.

The page is one file: its data, a script (`link_graph.js`) and a style sheet. Its policy allows that one script, by its
hash, and nothing that would be fetched. Names reach the page as JSON and the screen as text nodes. What is chosen and
pinned stands in the page's address.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .escaping import escaped, one_line, token_line
from .page import app_page


@dataclass(frozen=True, slots=True)
class LinkNode:
    """A node of the page.

    Attributes:
        id: Unique.
        kind: "feature", "error", "embedding" or "output".
        layer: Its row: -1 is the lowest.
        position: Its column.
        name: Plain text.
        share: How much of all influence lies on it and on those with more; small matters.
    """

    id: str
    kind: str
    layer: int
    position: int
    name: str
    share: float


@dataclass(frozen=True, slots=True)
class LinkGraph:
    """What the page shows.

    Attributes:
        title: Plain text.
        facts: Sentences under it.
        layers: Rows between the lowest and the highest.
        tokens: Of the columns.
        nodes: All of them.
        links: (number of the source, number of the target, weight).
    """

    title: str
    facts: Sequence[str]
    layers: int
    tokens: Sequence[str]
    nodes: Sequence[LinkNode]
    links: Sequence[tuple[int, int, float]]


def link_graph_page(graph: LinkGraph, plain: str) -> str:
    """A whole HTML document.

    Args:
        plain: HTML of the same as tables, for readers without scripts.
    """
    facts = "".join(f"<p>{escaped(fact)}</p>" for fact in graph.facts)
    body = (
        f'<div class="mxg-app" id="mxg"><header class="mxg-head"><h1>{escaped(graph.title)}</h1>{facts}</header>'
        f"<noscript>{plain}</noscript></div>{_data(graph)}"
    )
    return app_page(graph.title, body, _part("js"), _part("css"))


@cache
def _part(ending: str) -> str:
    return (Path(__file__).parent / f"link_graph.{ending}").read_text(encoding="utf-8")


def _data(graph: LinkGraph) -> str:
    """The element that holds what the script draws."""
    said = {
        "layers": graph.layers,
        "tokens": [token_line(token) for token in graph.tokens],
        "nodes": [
            [node.id, node.kind, node.layer, node.position, one_line(node.name), round(node.share, 4)]
            for node in graph.nodes
        ],
        "links": [[source, target, float(f"{weight:.4g}")] for source, target, weight in graph.links],
    }
    text = json.dumps(said, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    safe = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'<script type="application/json" id="mxg-data">{safe}</script>'
