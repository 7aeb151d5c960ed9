"""An attribution graph as what its page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..viz.lines import Table
from ..viz.link_graph import Effect, LinkGraph, LinkNode
from .cards import Cards, Steer
from .effects import Live, total_effects
from .paths import strongest_paths
from .protocols import Graph

LINKS = 5000
"""Links of a page, at most."""
PATHS = 10
"""Paths in the table of a page without scripts."""


def explored(
    shown: Graph, whole: Graph, index: Any = None, measure: bool = True, steer: Steer | None = None
) -> LinkGraph:
    """What a page shows of a graph.

    Args:
        shown: What is left of it.
        whole: The graph itself.
        index: Indexes of its transcoders, for cards and labels.
        measure: Whether to run the model, where it is at hand, without each feature.
        steer: What gives the address of a page that steers by a feature of an index.
    """
    number = {node.id: i for i, node in enumerate(shown.nodes)}
    rows, columns = np.nonzero(shown.matrix)
    weights = shown.matrix[rows, columns]
    kept = np.argsort(-np.abs(weights), kind="stable")[:LINKS]
    links = [
        (number[shown.sources[columns[i]].id], number[shown.targets[rows[i]].id], float(weights[i]))
        for i in kept
    ]
    cards, labels = Cards(whole, index), shown.labels or {}
    nodes = [
        LinkNode(
            node.id, node.kind, node.layer, node.position, str(node), float(share),
            labels.get(node.id) or cards.label(node) or "", cards.key(node),
        )
        for node, share in zip(shown.nodes, np.nan_to_num(shown.cumulative_influence(), nan=1.0), strict=True)
    ]  # fmt: skip
    title, groups = f"Attribution graph of {''.join(shown.tokens)!r}", shown.supernodes or {}
    effects: Mapping[str, Effect] = {}
    of_groups: Mapping[str, Effect] = {}
    if measure and whole.live is not None:
        effects, of_groups = _measured(whole.live, shown, whole, groups)
    return LinkGraph(
        title, _facts(shown, whole, len(rows), bool(effects)), shown.n_layers, shown.tokens, nodes, links,
        pins=[name for name in shown.pins if name in number], groups=groups,
        cards=cards.all_of(shown.features), effects=effects, group_effects=of_groups,
        steer={} if steer is None else cards.steer(shown.features, steer, prompt_of(whole)),
    )  # fmt: skip


def prompt_of(whole: Graph) -> str:
    """The prompt as a text; "" where none gives its tokens, or the model is not at hand."""
    if whole.live is None:
        return ""
    model, ids = whole.live.anatomy.model, list(whole.live.ids)
    if model.tokenizer is None:
        return ""
    texts = ("".join(whole.tokens[first:]) for first in (1, 0))
    return next((text for text in texts if list(model.tokenize(text)) == ids), "")


def paths_table(graph: Graph) -> Table:
    """The strongest paths from tokens to outputs, for readers without scripts."""
    rows = [[f"{path.share:.2%}", str(path)] for path in strongest_paths(graph, PATHS)]
    return Table(("share", "strongest paths"), rows)


def _facts(shown: Graph, whole: Graph, links: int, measured: bool) -> Sequence[str]:
    found = [
        f"{len(shown.nodes)} nodes, {links} edges; replacement score {shown.replacement_score:.3f}, completeness"
        f" {shown.completeness_score:.3f}. Weights are contributions at the scales of this prompt."
    ]
    if shown is not whole:
        found.append(f"Pruned for this page: the whole graph has {len(whole.nodes)} nodes.")
    if links > LINKS:
        found.append(f"Only the {LINKS} largest of {links} edges are shown.")
    if measured:
        found.append(
            "What taking a feature away does to the outputs: as the graph predicts it by all paths, measured with"
            " attention and norms held, and measured live."
        )
    return found


def _measured(
    live: Live, shown: Graph, whole: Graph, groups: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Effect], dict[str, Effect]]:
    """Effects of the features that are shown, one at a time, and of the groups, all features of each at once."""
    rows = {tuple(place): number for number, place in enumerate(live.made.features.tolist())}
    numbers = np.array([rows[node.layer, node.position, node.feature_id] for node in whole.features], int)
    place = {node.id: i for i, node in enumerate(whole.features)}
    single = [node.id for node in shown.features]
    known = {name: [one for one in ids if one in place] for name, ids in groups.items()}
    named = {name: ids for name, ids in known.items() if ids}
    asked = [[place[one]] for one in single] + [[place[one] for one in ids] for ids in named.values()]
    if not asked:
        return {}, {}
    total = total_effects(whole.matrix, live.made.activations[numbers], len(numbers)).T
    predicted = np.stack([-total[features].sum(axis=0) for features in asked])
    run = [numbers[features].tolist() for features in asked]
    held, free = (live.effects(run, -1.0, hold) for hold in ("attention+norms", "nothing"))
    found: list[Effect] = [
        (predicted[i].tolist(), held[i].tolist(), free[i].tolist()) for i in range(len(asked))
    ]
    return dict(zip(single, found, strict=False)), dict(zip(named, found[len(single) :], strict=True))
