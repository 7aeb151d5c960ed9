"""An attribution graph as tables of pandas and as a graph of networkx."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.frames import data_frame
from ..errors import BackendError
from .nodes import Node
from .protocols import Graph


def node_frame(graph: Graph) -> Any:
    """A DataFrame with a row for each node."""
    columns = {name: [getattr(node, name) for node in graph.nodes] for name in Node.__slots__}
    return data_frame({**columns, "influence": graph.influence})


def edge_frame(graph: Graph) -> Any:
    """A DataFrame of all edges that are not 0."""
    rows, columns = np.nonzero(graph.matrix)
    return data_frame({
        "source": [graph.sources[i].id for i in columns], "target": [graph.targets[i].id for i in rows],
        "weight": graph.matrix[rows, columns], "share": graph.shares[rows, columns],
    })  # fmt: skip


def networkx_graph(graph: Graph) -> Any:
    """See `AttributionGraph.to_networkx`."""
    try:
        import networkx
    except ImportError as error:
        raise BackendError('Graphs of networkx need it: pip install "mlxterp[networkx]".') from error
    made = networkx.DiGraph(model=graph.model, tokens=list(graph.tokens))
    for node, share in zip(graph.nodes, graph.influence, strict=True):
        fields = {name: getattr(node, name) for name in Node.__slots__ if name != "id"}
        made.add_node(node.id, **fields, influence=float(share))
    rows, columns = np.nonzero(graph.matrix)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        made.add_edge(
            graph.sources[column].id, graph.targets[row].id, weight=float(graph.matrix[row, column]),
            share=float(graph.shares[row, column]),
        )  # fmt: skip
    return made
