"""`AttributionGraph`: features, errors and tokens of one prompt, and what each adds to features and predictions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

import numpy as np

from ..core import checks
from ..core.frames import data_frame
from ..core.options import checks_options
from ..errors import BackendError, InputError
from ..viz.lines import LinesView, Table
from ..viz.link_graph import link_graph_page
from . import files, heads, qk
from .effects import Live
from .explored import explored
from .influence import Shape, cumulative, influence, prune, scores, shares_of
from .nodes import Edge, Node
from .paths import Path, strongest
from .validation import Validation, validate

NodeLike = Node | str | tuple[int, int, int]
"""A node as calls take it: itself, its id, or (layer, position, feature id)."""
SHOWN = 10
"""Rows of a table."""


@checks_options
@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class AttributionGraph(LinesView):
    """Which features and tokens of a prompt make its features and its predictions; see `model.attribution_graph`.

    `print` and notebooks show the outputs and the strongest edges into them. An edge's weight is in its target's own
    units. Each row of the matrix sums, with its bias and what was left out, to the target's value.

    Attributes:
        nodes: Features (by layer, position, id), errors (by layer, position), embeddings, outputs.
        matrix: float32, (targets, sources): targets are the features and then the outputs, sources the features, errors
            and embeddings, both in the order of `nodes`.
        bias: float32, (targets,): what biases add: of attention, norms, transcoders, and what has no node.
        omitted: float32, (targets,): what sources add that are not in this graph (`max_features`, `prune`).
        values: float32, (targets,): a feature's activation; of an output, its logit less the mean of all, before a
            final soft cap, or what its direction reads.
        tokens: Text of each token of the prompt.
        n_layers: Decoder blocks of the model.
        conventions: "exact" or "circuit-tracer".
        law: By how much the worst row breaks the law that the graph rests on, relative to its value; at most 1e-3.
            None of a graph from a file that does not say.
        model: The model's name; None where it has none.
        transcoders: Names or fingerprints of the transcoders, by layer.
        supernodes: Name → ids of its nodes.
        whole: Of a pruned graph: replacement and completeness score of the whole one; else None.
        influence_shares: Of a pruned graph: float64, (nodes,), of the whole one (see `influence`); else None.
        live: The model and prompt that `validate` runs; None of a graph from a file.
    """

    nodes: tuple[Node, ...]
    matrix: np.ndarray
    bias: np.ndarray
    omitted: np.ndarray
    values: np.ndarray
    tokens: tuple[str, ...]
    n_layers: int
    conventions: str
    law: float | None
    model: str | None
    transcoders: tuple[str, ...]
    supernodes: Mapping[str, tuple[str, ...]] | None = None
    whole: tuple[float, float] | None = None
    influence_shares: np.ndarray | None = None
    live: Live | None = None

    # -- its nodes ----------------------------------------------------------------------------

    @cached_property
    def shape(self) -> Shape:
        """How many nodes there are of each kind."""
        kinds = [node.kind for node in self.nodes]
        return Shape(*(kinds.count(kind) for kind in ("feature", "error", "embedding", "output")))

    @property
    def features(self) -> tuple[Node, ...]:
        """The feature nodes."""
        return self.nodes[: self.shape.features]

    @property
    def sources(self) -> tuple[Node, ...]:
        """What the matrix's columns are of."""
        return self.nodes[: self.shape.sources]

    @property
    def outputs(self) -> tuple[Node, ...]:
        """What is explained."""
        return self.nodes[self.shape.sources :]

    @property
    def targets(self) -> tuple[Node, ...]:
        """What the matrix's rows are of."""
        return (*self.features, *self.outputs)

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {node.id: i for i, node in enumerate(self.sources)}

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {node.id: i for i, node in enumerate(self.targets)}

    def node(self, given: NodeLike) -> Node:
        """The node that an id, or (layer, position, feature id), means.

        Raises:
            InputError: The graph has none.
        """
        name = given.id if isinstance(given, Node) else given
        if isinstance(name, tuple) and len(name) == 3:
            layer, position, feature = (checks.integer(one, "a part of a node", 0) for one in name)
            name = f"{layer}_{feature}_{position}"
        place = None
        if isinstance(name, str):
            place = self._columns.get(name)
            if place is None and (row := self._rows.get(name)) is not None:
                return self.targets[row]
        if place is None:
            raise InputError(
                f"This graph has no node {given!r}. Nodes are named by id, such as {self.nodes[0].id!r}, or a feature"
                " by (layer, position, feature id); graph.nodes lists them."
            )
        return self.sources[place]

    # -- its edges ----------------------------------------------------------------------------

    def edges(self, target: Any = None, source: Any = None, top_k: int | None = 20) -> list[Edge]:
        """Edges, the largest weights first, then the order of the nodes.

        Args:
            target, source: Only those into, and out of, this node; or the name of a supernode, or a list of nodes,
                whose edges are summed.
            top_k: At most so many; None gives all that are not 0.

        Raises:
            InputError: No such node.
        """
        most = checks.count_or_none(top_k, "top_k")
        into, out = self._given(target), self._given(source)
        rows = list(range(len(self.targets))) if into is None else [self._row(node) for node in into]
        columns = list(range(len(self.sources))) if out is None else [self._column(node) for node in out]
        weights, shares = self.matrix[np.ix_(rows, columns)], self._shares[np.ix_(rows, columns)]
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

    @cached_property
    def _shares(self) -> np.ndarray:
        return shares_of(self.matrix)

    def _given(self, given: Any) -> list[Node] | None:
        """The nodes that an end of `edges` names; None for all."""
        if given is None:
            return None
        if isinstance(given, str) and self.supernodes and given in self.supernodes:
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

    def _row(self, node: Node) -> int:
        if node.id not in self._rows:
            raise InputError(f"{node} has no incoming edges: a target is a feature or an output.")
        return self._rows[node.id]

    def _column(self, node: Node) -> int:
        if node.id not in self._columns:
            raise InputError(
                f"{node} has no outgoing edges: a source is a feature, an error or an embedding."
            )
        return self._columns[node.id]

    # -- what matters -------------------------------------------------------------------------

    @cached_property
    def weights(self) -> np.ndarray:
        """float64, (outputs,): how much each output counts: its probability, as it is."""
        return np.array([1.0 if node.probability is None else node.probability for node in self.outputs])

    @cached_property
    def influence(self) -> np.ndarray:
        """float64, (nodes,): what the outputs get of each node by all paths of normalised edges; 0 for outputs."""
        found = influence(self._shares, self.weights, self.shape.features)
        return np.concatenate([found, np.zeros(self.shape.outputs)])

    @property
    def replacement_score(self) -> float:
        """Share of the influence that comes from tokens rather than errors; of the whole graph, also once pruned."""
        return self._scores[0]

    @property
    def completeness_score(self) -> float:
        """Share of what enters nodes that is no error, by influence; of the whole graph, also once pruned."""
        return self._scores[1]

    @cached_property
    def _scores(self) -> tuple[float, float]:
        return self.whole or scores(self.matrix, self.weights, self.shape)

    def prune(self, node_threshold: float = 0.8, edge_threshold: float = 0.98) -> AttributionGraph:
        """The graph of the nodes and edges that carry most of the influence.

        Embeddings that no edge reaches stay; features and errors without edges go. What falls away is added to
        `omitted`, so each row still sums to its value. Scores and `influence_shares` are those of the whole graph.

        Args:
            node_threshold: Nodes with the most influence are kept until they carry this share of it.
            edge_threshold: The same for edges among them.

        Raises:
            InputError: A threshold is outside [0, 1].
        """
        node = checks.fraction(node_threshold, "node_threshold")
        edge = checks.fraction(edge_threshold, "edge_threshold")
        kept = prune(self.matrix, self.weights, self.shape, node, edge)
        rows = np.concatenate([kept.sources[: self.shape.features], np.ones(self.shape.outputs, dtype=bool)])
        left = np.where(kept.edges, self.matrix, 0)[rows]
        gone = self.matrix[rows].sum(axis=1, dtype=np.float64) - left.sum(axis=1, dtype=np.float64)
        nodes = np.concatenate([kept.sources, np.ones(self.shape.outputs, dtype=bool)])
        shares = self.influence_shares
        if shares is None:
            shares = np.concatenate([kept.shares, np.full(self.shape.outputs, kept.shares.max(initial=1.0))])
        return replace(
            self, nodes=tuple(node for node, keep in zip(self.nodes, nodes, strict=True) if keep),
            matrix=np.ascontiguousarray(left[:, kept.sources]), bias=self.bias[rows], values=self.values[rows],
            omitted=(self.omitted[rows] + gone).astype(np.float32), whole=self._scores,
            influence_shares=shares[nodes], supernodes=self._left_of_supernodes(nodes),
        )  # fmt: skip

    def _left_of_supernodes(self, kept: np.ndarray) -> dict[str, tuple[str, ...]] | None:
        names = {node.id for node, keep in zip(self.nodes, kept, strict=True) if keep}
        found = {
            name: tuple(one for one in ids if one in names) for name, ids in (self.supernodes or {}).items()
        }
        return {name: ids for name, ids in found.items() if ids} or None

    def cumulative_influence(self) -> np.ndarray:
        """float64, (nodes,): share of all influence on a node and on those with more; small means important.

        What circuit-tracer's files call influence. Of a pruned graph, the whole one's.
        """
        return cumulative(self.influence) if self.influence_shares is None else self.influence_shares

    # -- whether it holds ---------------------------------------------------------------------

    def validate(self, n: int = 32, seed: int = 0) -> Validation:
        """What the graph predicts of taking features away, beside what the model does, with more or less of it held.

        The n features with the largest effects are taken away one at a time. With everything held the graph's direct
        edges must be met; where MLPs, norms or attention answer, the effects by all paths are compared. Expect less
        with less held: a graph explains contributions at fixed scales.

        Args:
            n: Features; fewer where the graph has fewer.
            seed: Of the control and the intervals.

        Raises:
            InputError: The graph is pruned, comes from a file, or holds only some of the active features.
        """
        return validate(self, n, seed)

    head_loadings = heads.head_loadings
    qk_attribution = qk.qk_attribution

    # -- paths and groups ---------------------------------------------------------------------

    def path(self, a: NodeLike, b: NodeLike) -> Path:
        """The path from a to b whose edges' shares have the largest product.

        Raises:
            InputError: No such nodes, or no path between them.
        """
        start, end = self.node(a), self.node(b)
        column, row = self._column(start), self._row(end)
        found = strongest(self.matrix, self._shares, self.sources, self.targets, column, row)
        if found is None:
            raise InputError(f"No path leads from {start} to {end} in this graph.")
        return found

    def supernode(self, name: str, nodes: Iterable[NodeLike]) -> AttributionGraph:
        """The same graph with a group of nodes that has a name; `edges` sums those of a group.

        Raises:
            InputError: No such node, none, or `name` is the name of a node or of another group.
        """
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"A supernode's name is a text, got {name!r}.")
        if name in self._columns or name in self._rows or name in (self.supernodes or {}):
            raise InputError(f"{name!r} is already in this graph. Choose another name.")
        found = self._given(nodes) or []
        ids = tuple(dict.fromkeys(node.id for node in found))
        return replace(self, supernodes={**(self.supernodes or {}), name: ids})

    # -- as files and tables ------------------------------------------------------------------

    def save(self, path: str | os.PathLike) -> FilePath:
        """Writes the graph as JSON that circuit-tracer's viewer and Neuronpedia read; returns the path.

        Whole or not at all. A large graph is saved pruned: `graph.prune().save(path)`.

        Raises:
            InputError: The file would be larger than 100 MiB.
            WriteError: It cannot be written; what was there is unchanged.
        """
        return files.write(self, path)

    @staticmethod
    def load(path: str | os.PathLike) -> AttributionGraph:
        """A graph that `save`, circuit-tracer or Neuronpedia wrote.

        What their files do not say is NaN: biases, and the outputs' values.

        Raises:
            CircuitError: It is no such file, is damaged, or is larger than 100 MiB.
        """
        return AttributionGraph(**files.read(path))

    def to_pandas(self, what: str = "nodes") -> Any:
        """A DataFrame: of the nodes, a row each; or, with "edges", of all edges that are not 0.

        Raises:
            BackendError: pandas is not installed.
        """
        if checks.choice(what, "what", ("nodes", "edges")) == "edges":
            rows, columns = np.nonzero(self.matrix)
            return data_frame({
                "source": [self.sources[i].id for i in columns], "target": [self.targets[i].id for i in rows],
                "weight": self.matrix[rows, columns], "share": self._shares[rows, columns],
            })  # fmt: skip
        names = (
            "id", "kind", "layer", "position", "token", "feature_id", "token_id", "activation", "probability"
        )  # fmt: skip
        columns_of = {name: [getattr(node, name) for node in self.nodes] for name in names}
        return data_frame({**columns_of, "influence": self.influence})

    def to_networkx(self) -> Any:
        """A `networkx.DiGraph`: ids as nodes, with the fields of `Node`; edges have `weight` and `share`.

        Raises:
            BackendError: networkx is not installed.
        """
        try:
            import networkx
        except ImportError as error:
            raise BackendError('Graphs of networkx need it: pip install "mlxterp[networkx]".') from error
        made = networkx.DiGraph(model=self.model, tokens=list(self.tokens))
        for node, share in zip(self.nodes, self.influence, strict=True):
            fields = {name: getattr(node, name) for name in Node.__slots__ if name != "id"}
            made.add_node(node.id, **fields, influence=float(share))
        rows, columns = np.nonzero(self.matrix)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            made.add_edge(
                self.sources[column].id, self.targets[row].id, weight=float(self.matrix[row, column]),
                share=float(self._shares[row, column]),
            )  # fmt: skip
        return made

    # -- shown --------------------------------------------------------------------------------

    def __repr__(self) -> str:
        s = self.shape
        return f"AttributionGraph({s.features} features, {s.errors} errors, {s.embeddings} tokens, {s.outputs} outputs)"

    @property
    def _lines(self) -> Sequence[str]:
        s, edges = self.shape, int(np.count_nonzero(self.matrix))
        replacement, completeness = self._scores
        of_whole = " of the whole graph" if self.whole is not None else ""
        law = "not known" if self.law is None else f"holds to {self.law:.0e}"
        return (
            f"Attribution graph of {''.join(self.tokens)!r}",
            f"{s.features} features, {s.errors} errors, {s.embeddings} tokens, {s.outputs} outputs, {edges} edges",
            f"Replacement score {replacement:.3f}, completeness {completeness:.3f}{of_whole}. Its law {law}.",
            "It explains contributions at the scales of this prompt; it does not predict what steering does.",
        )

    def _page(self) -> str:
        """The page to explore it: of a whole graph, its pruned form."""
        shown = self if self.whole is not None else self.prune()
        return link_graph_page(explored(shown, self), shown.fragment(level=2))

    @property
    def _tables(self) -> Sequence[Table]:
        first = self.shape.features
        outputs = zip(self.outputs, self.values[first:], self.bias[first:], strict=True)
        rows = [[str(node), f"{value:+.3f}", f"{bias:+.3f}"] for node, value, bias in outputs][:SHOWN]
        into = [edge for output in self.outputs[:SHOWN] for edge in self.edges(output, top_k=SHOWN)]
        into = sorted(into, key=lambda edge: -abs(edge.weight))[:SHOWN]
        return (
            Table(("output", "value", "bias"), rows),
            Table(
                ("adds", "to", "weight", "share"),
                [[str(e.source), str(e.target), f"{e.weight:+.3f}", f"{e.share:.1%}"] for e in into],
            ),
        )


def _is_place(given: tuple[Any, ...]) -> bool:
    return all(not isinstance(one, (str, Node, tuple)) for one in given)


def _merged(given: Any, nodes: Sequence[Node]) -> Node:
    """A group of nodes as one."""
    name = given if isinstance(given, str) else f"{len(nodes)} nodes"
    first = nodes[0]
    return Node(name, first.kind, first.layer, first.position, name)
