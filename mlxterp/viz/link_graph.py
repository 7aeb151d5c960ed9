"""A graph of nodes in layers and positions as a page to explore it: links, paths, labels, pins, groups and cards.

The page is one file: its data, a script of three parts (`link_graph_data.js`, `_picture`, `_panel`) and a style sheet.
Its policy allows that one script, by its hash, and nothing that would be fetched. Names reach the page as JSON and the
screen as text nodes; cards are templates, which a click copies. What is chosen, pinned, labelled and grouped stands in
the page's address, and in the page that its button saves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from .escaping import attribute, escaped, one_line, token_line
from .page import app_page

Effect = tuple[Sequence[float], Sequence[float], Sequence[float]]
"""What taking a node away does to each output: predicted, measured with attention and norms held, measured live."""


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
        label: What somebody calls it; plain text.
        card: Key of its card; "" without one.
    """

    id: str
    kind: str
    layer: int
    position: int
    name: str
    share: float
    label: str = ""
    card: str = ""


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
        pins: Ids of the nodes that are pinned at first.
        groups: Name → ids of its nodes.
        cards: Key → HTML of a fragment, already escaped.
        effects: Id of a node → what taking it away does.
        group_effects: Name of a group → what taking all of it away does.
        steer: Id of a node → address of a page that steers by it; those of several end alike, after the last "e=".
    """

    title: str
    facts: Sequence[str]
    layers: int
    tokens: Sequence[str]
    nodes: Sequence[LinkNode]
    links: Sequence[tuple[int, int, float]]
    pins: Sequence[str] = ()
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    cards: Mapping[str, str] = field(default_factory=dict)
    effects: Mapping[str, Effect] = field(default_factory=dict)
    group_effects: Mapping[str, Effect] = field(default_factory=dict)
    steer: Mapping[str, str] = field(default_factory=dict)


def link_graph_page(graph: LinkGraph, plain: str) -> str:
    """A whole HTML document.

    Args:
        plain: HTML of the same as tables, for readers without scripts.
    """
    facts = "".join(f"<p>{escaped(fact)}</p>" for fact in graph.facts)
    cards = "".join(
        f'<template id="{attribute(_card_id(key))}">{card}</template>' for key, card in graph.cards.items()
    )
    body = (
        f'<div class="mxg-app" id="mxg"><header class="mxg-head"><h1>{escaped(graph.title)}</h1>{facts}</header>'
        f'<noscript><div class="mxg-plain">{plain}</div></noscript></div>{_data(graph)}'
        f'<script type="text/plain" id="mxg-state"></script>{cards}'
    )
    return app_page(graph.title, body, _script(), _part(".css"))


def _card_id(key: str) -> str:
    return f"mxg-card-{key}"


@cache
def _part(ending: str) -> str:
    return (Path(__file__).parent / f"link_graph{ending}").read_text(encoding="utf-8")


@cache
def _script() -> str:
    parts = "\n".join(_part(f"_{name}.js") for name in ("data", "picture", "panel"))
    return f'(() => {{\n"use strict";\n{parts}}})();\n'


def _data(graph: LinkGraph) -> str:
    """The element that holds what the script draws."""
    said = {
        "layers": graph.layers,
        "tokens": [token_line(token) for token in graph.tokens],
        "nodes": [_node(node) for node in graph.nodes],
        "links": [[source, target, _short(weight)] for source, target, weight in graph.links],
        "pins": list(graph.pins),
        "groups": [[one_line(name), list(ids)] for name, ids in graph.groups.items()],
        "effects": _effects(graph.effects),
        "group_effects": _effects({one_line(name): found for name, found in graph.group_effects.items()}),
        "steer": dict(graph.steer),
    }
    text = json.dumps(said, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    safe = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'<script type="application/json" id="mxg-data">{safe}</script>'


def _node(node: LinkNode) -> list[Any]:
    card = _card_id(node.card) if node.card else ""
    place = [node.id, node.kind, node.layer, node.position, one_line(node.name), round(node.share, 4)]
    return [*place, one_line(node.label), card]


def _effects(given: Mapping[str, Effect]) -> dict[str, list[list[float]]]:
    return {name: [[_short(x) for x in numbers] for numbers in found] for name, found in given.items()}


def _short(weight: float) -> float:
    return float(f"{weight:.4g}")
