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
from ..core.options import checks_options
from ..errors import InputError
from ..viz.lines import LinesView, Table
from ..viz.link_graph import link_graph_page
from ..viz.page import write_page
from . import files, heads, qk
from .cards import Steer
from .edges import EdgeTable
from .effects import Live
from .explored import explored, paths_table
from .influence import Shape, cumulative, influence, prune, scores, shares_of
from .nodes import Edge, Node, NodeLike
from .paths import Path, strongest
from .tables import edge_frame, networkx_graph, node_frame
from .validation import Validation, validate

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
        n_layers: Decoder blocks of a pass; a looped model's count once in each loop.
        conventions: "exact" or "circuit-tracer".
        law: By how much the worst row breaks the law that the graph rests on, relative to its value; at most 1e-3.
            None of a graph from a file that does not say.
        model: The model's name; None where it has none.
        transcoders: Names or fingerprints of the transcoders, by layer.
        supernodes: Name → ids of its nodes.
        labels: Id of a node → what somebody calls it.
        pins: Ids of nodes that somebody marked; a page shows them pinned.
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
    labels: Mapping[str, str] | None = None
    pins: tuple[str, ...] = ()
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

    def node(self, given: NodeLike) -> Node:
        """The node that an id, or (layer, position, feature id), means.

        Raises:
            InputError: The graph has none.
        """
        return self._edges.node(given)

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
        return self._edges.edges(target, source, top_k)

    @property
    def shares(self) -> np.ndarray:
        """float64, (targets, sources): each edge's size, as a share of the sizes of all edges into its target."""
        return self._shares

    @cached_property
    def _shares(self) -> np.ndarray:
        return shares_of(self.matrix)

    @cached_property
    def _edges(self) -> EdgeTable:
        return EdgeTable(self.targets, self.sources, self.matrix, self.shares, self.supernodes or {})

    @property
    def _columns(self) -> dict[str, int]:
        return self._edges.columns

    @property
    def _rows(self) -> dict[str, int]:
        return self._edges.rows

    # -- what matters -------------------------------------------------------------------------

    @cached_property
    def weights(self) -> np.ndarray:
        """float64, (outputs,): how much each output counts: its probability, as it is."""
        return np.array([1.0 if node.probability is None else node.probability for node in self.outputs])

    @property
    def influence(self) -> np.ndarray:
        """float64, (nodes,): what the outputs get of each node by all paths of normalised edges; 0 for outputs."""
        return self._influence

    @cached_property
    def _influence(self) -> np.ndarray:
        found = influence(self.shares, self.weights, self.shape.features)
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
            influence_shares=shares[nodes], **self._names_of(nodes),
        )  # fmt: skip

    def _names_of(self, kept: np.ndarray) -> dict[str, Any]:
        """Supernodes, labels and pins of the nodes that are kept."""
        left = {node.id for node, keep in zip(self.nodes, kept, strict=True) if keep}
        groups = {
            name: tuple(one for one in ids if one in left) for name, ids in (self.supernodes or {}).items()
        }
        return {
            "supernodes": {name: ids for name, ids in groups.items() if ids} or None,
            "labels": {one: text for one, text in (self.labels or {}).items() if one in left} or None,
            "pins": tuple(one for one in self.pins if one in left),
        }

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
        column, row = self._edges.column(start), self._edges.row(end)
        found = strongest(self.matrix, self.shares, self.sources, self.targets, column, row)
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
        ids = tuple(dict.fromkeys(node.id for node in self._edges.group(nodes)))
        return replace(self, supernodes={**(self.supernodes or {}), name: ids})

    def label(self, node: NodeLike, text: str) -> AttributionGraph:
        """The same graph with a name for a feature or an error; "" takes it away. Its page and its file show the name.

        Raises:
            InputError: No such node, a token or an output, or no text.
        """
        if not isinstance(text, str):
            raise InputError(f"A node's label is a text, got {text!r}.")
        found = self.node(node)
        if found.kind not in ("feature", "error"):
            raise InputError(f"{found} is named by its token. Label features and errors.")
        labels = {**(self.labels or {}), found.id: text.strip()}
        return replace(self, labels={key: said for key, said in labels.items() if said} or None)

    def pin(self, nodes: Any) -> AttributionGraph:
        """The same graph with a node, or several, marked; its page shows them pinned, and its file keeps them.

        Raises:
            InputError: No such node, or none.
        """
        found = (node.id for node in self._edges.group(nodes))
        return replace(self, pins=tuple(dict.fromkeys((*self.pins, *found))))

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
        edges = checks.choice(what, "what", ("nodes", "edges")) == "edges"
        return edge_frame(self) if edges else node_frame(self)

    def to_networkx(self) -> Any:
        """A `networkx.DiGraph`: ids as nodes, with the fields of `Node`; edges have `weight` and `share`.

        Raises:
            BackendError: networkx is not installed.
        """
        return networkx_graph(self)

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

    def to_html(
        self, path: str | os.PathLike, index: Any = None, *, measure: bool = True, steer: Steer | None = None
    ) -> FilePath:
        """Writes a page to explore the graph: one HTML file that needs no network; returns its path.

        A whole graph is shown pruned. Click a node for its edges, its strongest path and its card; label, pin and group
        nodes; hide those of little influence. What is chosen stands in the page's address and in the page that its
        button saves. Without scripts it is a table of the strongest edges and paths.

        Args:
            index: A `FeatureIndex` of a transcoder, several, or {layer: index}: cards and labels of the features.
            measure: Measure what taking each feature on the page away does to the outputs, with attention and norms
                held and live, beside what the graph predicts. Not of a graph from a file.
            steer: The method `steer_address` of `index.serve(others=…)`: pinned features of the indexes lead
                to its steer page, as long as it runs. The page then holds the explorer's key: keep it to yourself.

        Raises:
            InputError: The folder does not exist, `path` is a folder, or an index is of another SAE.
        """
        if steer is not None and not callable(steer):
            raise InputError(f"steer= is explorer.steer_address, got {type(steer).__name__}.")
        return write_page(path, self._page(index, checks.flag(measure, "measure"), steer))

    def _page(self, index: Any = None, measure: bool = True, steer: Steer | None = None) -> str:
        shown = self if self.whole is not None else self.prune()
        plain = shown.fragment(level=2) + paths_table(shown).html()
        return link_graph_page(explored(shown, self, index, measure, steer), plain)

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
