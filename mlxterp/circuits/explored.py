"""An attribution graph as what its page shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..viz.link_graph import LinkGraph, LinkNode
from .protocols import Graph

LINKS = 5000
"""Links of a page, at most."""


def explored(shown: Graph, whole: Graph) -> LinkGraph:
    """What a page shows of a graph.

    Args:
        shown: What is left of it.
        whole: The graph itself.
    """
    number = {node.id: i for i, node in enumerate(shown.nodes)}
    rows, columns = np.nonzero(shown.matrix)
    weights = shown.matrix[rows, columns]
    kept = np.argsort(-np.abs(weights), kind="stable")[:LINKS]
    links = [
        (number[shown.sources[columns[i]].id], number[shown.targets[rows[i]].id], float(weights[i]))
        for i in kept
    ]
    nodes = [
        LinkNode(node.id, node.kind, node.layer, node.position, str(node), float(share))
        for node, share in zip(shown.nodes, np.nan_to_num(shown.cumulative_influence(), nan=1.0), strict=True)
    ]
    title = f"Attribution graph of {''.join(shown.tokens)!r}"
    return LinkGraph(title, _facts(shown, whole, len(rows)), shown.n_layers, shown.tokens, nodes, links)


def _facts(shown: Graph, whole: Graph, links: int) -> Sequence[str]:
    found = [
        f"{len(shown.nodes)} nodes, {links} edges; replacement score {shown.replacement_score:.3f}, completeness"
        f" {shown.completeness_score:.3f}. Weights are contributions at the scales of this prompt."
    ]
    if shown is not whole:
        found.append(f"Pruned for this page: the whole graph has {len(whole.nodes)} nodes.")
    if links > LINKS:
        found.append(f"Only the {LINKS} largest of {links} edges are shown.")
    return found
