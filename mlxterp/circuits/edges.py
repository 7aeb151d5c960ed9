"""`EdgeTable`: the nodes of a graph by name, and its edges by their ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core import checks
from ..errors import InputError
from .nodes import Edge, Node, NodeLike


@dataclass(frozen=True, eq=False, slots=True)
class EdgeTable:
    """A graph's edges.

    Attributes:
        targets, sources: What the rows and columns of the matrix are of.
        matrix: (targets, sources).
        shares: float64, the same shape: each edge's size as a share of those of its target.
        supernodes: Name → ids of its nodes.
    """

    targets: Sequence[Node]
    sources: Sequence[Node]
    matrix: np.ndarray
    shares: np.ndarray
    supernodes: Mapping[str, Sequence[str]]
    columns: dict[str, int] = field(init=False)
    """Column of each source, by id."""
    rows: dict[str, int] = field(init=False)
    """Row of each target, by id."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", {node.id: i for i, node in enumerate(self.sources)})
        object.__setattr__(self, "rows", {node.id: i for i, node in enumerate(self.targets)})

    # -- nodes --------------------------------------------------------------------------------

    def node(self, given: NodeLike) -> Node:
        """See `AttributionGraph.node`."""
        name = given.id if isinstance(given, Node) else given
        if isinstance(name, tuple) and len(name) == 3:
            layer, position, feature = (checks.integer(one, "a part of a node", 0) for one in name)
            name = f"{layer}_{feature}_{position}"
        if isinstance(name, str):
            if (column := self.columns.get(name)) is not None:
                return self.sources[column]
            if (row := self.rows.get(name)) is not None:
                return self.targets[row]
        raise InputError(
            f"This graph has no node {given!r}. Nodes are named by id, such as {self.targets[0].id!r}, or a feature"
            " by (layer, position, feature id); graph.nodes lists them."
        )

    def group(self, given: Any) -> list[Node]:
        """The nodes that are meant: one, those of a supernode, or several.

        Raises:
            InputError: No such node, or none at all.
        """
        if isinstance(given, str) and given in self.supernodes:
            return [self.node(name) for name in self.supernodes[given]]
        if isinstance(given, (str, Node)) or (
            isinstance(given, tuple) and len(given) == 3 and _is_place(given)
        ):
            return [self.node(given)]
        if not isinstance(given, Iterable):
            raise InputError(f"Expected a node, or several, got {type(given).__name__}.")
        found = [self.node(one) for one in given]
        if not found:
            raise InputError("An empty list of nodes was given.")
        return found

    def row(self, node: Node) -> int:
        """The row of a target.

        Raises:
            InputError: It has none.
        """
        if node.id not in self.rows:
            raise InputError(f"{node} has no incoming edges: a target is a feature or an output.")
        return self.rows[node.id]

    def column(self, node: Node) -> int:
        """The column of a source.

        Raises:
            InputError: It has none.
        """
        if node.id not in self.columns:
            raise InputError(
                f"{node} has no outgoing edges: a source is a feature, an error or an embedding."
            )
        return self.columns[node.id]

    # -- edges --------------------------------------------------------------------------------

    def edges(self, target: Any, source: Any, top_k: int | None) -> list[Edge]:
        """See `AttributionGraph.edges`."""
        most = checks.count_or_none(top_k, "top_k")
        into = None if target is None else self.group(target)
        out = None if source is None else self.group(source)
        rows = list(range(len(self.targets))) if into is None else [self.row(node) for node in into]
        columns = list(range(len(self.sources))) if out is None else [self.column(node) for node in out]
        weights, shares = self.matrix[np.ix_(rows, columns)], self.shares[np.ix_(rows, columns)]
        targets: Sequence[Node] = [self.targets[row] for row in rows]
        sources: Sequence[Node] = [self.sources[column] for column in columns]
        if into is not None and len(rows) > 1:
            weights, shares = weights.sum(axis=0, keepdims=True), shares.mean(axis=0, keepdims=True)
            targets = [_merged(target, targets)]
        if out is not None and len(columns) > 1:
            weights, shares = weights.sum(axis=1, keepdims=True), shares.sum(axis=1, keepdims=True)
            sources = [_merged(source, sources)]
        order = np.lexsort((np.arange(weights.size), -np.abs(weights).ravel()))
        order = order[: int(np.count_nonzero(weights))][:most]
        return [
            Edge(sources[column], targets[row], float(weights[row, column]), float(shares[row, column]))
            for row, column in zip(*np.unravel_index(order, weights.shape), strict=True)
        ]


def _is_place(given: tuple[Any, ...]) -> bool:
    return all(not isinstance(one, (str, Node, tuple)) for one in given)


def _merged(given: Any, nodes: Sequence[Node]) -> Node:
    """A group of nodes as one."""
    name = given if isinstance(given, str) else f"{len(nodes)} nodes"
    first = nodes[0]
    return Node(name, first.kind, first.layer, first.position, name)
