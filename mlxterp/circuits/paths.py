"""`Path`: edges that lead from one node of a graph to another, and the search for the strongest."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .nodes import Edge, Node
from .protocols import Graph


@dataclass(frozen=True, slots=True)
class Path:
    """Edges that lead from one node to another; made by `AttributionGraph.path`.

    Attributes:
        edges: In order.
        share: Product of the edges' shares.
    """

    edges: tuple[Edge, ...]
    share: float

    @property
    def nodes(self) -> tuple[Node, ...]:
        """From the first to the last."""
        return (self.edges[0].source, *(edge.target for edge in self.edges))

    def __str__(self) -> str:
        told = [str(self.edges[0].source)]
        told += [f"{edge.weight:+.3g} → {edge.target}" for edge in self.edges]
        return " ".join(told)


def strongest(
    matrix: np.ndarray,
    shares: np.ndarray,
    sources: Sequence[Node],
    targets: Sequence[Node],
    column: int,
    row: int,
) -> Path | None:
    """The path from a source to a target whose shares have the largest product; None where there is none.

    The first nodes of both are the same: features, of which row and column have one number.
    """
    features = sum(node.kind == "feature" for node in sources)
    lengths, before = _search(shares, column, features)
    if row not in before:
        return None
    edges, here = [], row
    while True:
        came = before[here]
        edges.append(Edge(sources[came], targets[here], float(matrix[here, came]), float(shares[here, came])))
        if came == column:
            return Path(tuple(reversed(edges)), float(np.exp(-lengths[row])))
        here = came


def strongest_paths(graph: Graph, top_k: int) -> list[Path]:
    """The strongest path from each token to each output, the largest shares first."""
    found: list[Path] = []
    first = len(graph.features)
    for column, source in enumerate(graph.sources):
        if source.kind != "embedding":
            continue
        for row in range(first, len(graph.targets)):
            path = strongest(graph.matrix, graph.shares, graph.sources, graph.targets, column, row)
            found += [path] if path is not None else []
    return sorted(found, key=lambda path: -path.share)[:top_k]


def _search(shares: np.ndarray, column: int, features: int) -> tuple[dict[int, float], dict[int, int]]:
    """Row → the length of the way there (−log of the product of shares), and the column before it."""
    lengths: dict[int, float] = {}
    before: dict[int, int] = {}
    waiting, done = [(0.0, column)], set()
    while waiting:
        length, here = heapq.heappop(waiting)
        if here in done:
            continue
        done.add(here)
        for row in np.flatnonzero(shares[:, here]).tolist():
            new = length - float(np.log(shares[row, here]))
            if new < lengths.get(row, np.inf) and row != column:
                lengths[row], before[row] = new, here
                if row < features:
                    heapq.heappush(waiting, (new, row))
    return lengths, before
