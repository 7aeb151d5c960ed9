"""`HeadLoadings`: which attention heads carry an edge, measured in the frozen pass of its graph.

An edge is the sum of all ways from its source to its target: by the residual stream alone, and by one or more heads.
Each head gets the ways of which it is the last head, so heads and residual stream sum to the edge. The field calls
these head loadings (Kamath et al., "Tracing Attention Computation Through Feature Interactions", 2025).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..core.frames import data_frame
from ..core.frozen import EMBED, NO_BLOCK, ReadAt, SourceVectors
from ..errors import CircuitError, ComponentError, InputError
from ..viz.lines import LinesView, Table
from .effects import Live
from .law import LIMIT
from .nodes import Node
from .replacement import Replacement

_TOKENS = 2048
"""Tokens of one batch, about."""
_SHOWN = 10


class Graphed(Protocol):
    """A graph, as what is asked of its heads needs it."""

    @property
    def live(self) -> Live | None: ...
    @property
    def outputs(self) -> tuple[Node, ...]: ...
    @property
    def tokens(self) -> tuple[str, ...]: ...
    def node(self, given: Any) -> Node: ...


@dataclass(frozen=True, slots=True)
class HeadLoading:
    """What one head carries of an edge.

    Attributes:
        layer: Its layer.
        head: Its number there.
        weight: What comes by all ways of which it is the last head, in the target's own units.
        alone: What comes by this head and no other: the edge with only this head's path.
        share: weight, as a share of the whole edge; with that of the residual stream these sum to 1.
    """

    layer: int
    head: int
    weight: float
    alone: float
    share: float

    def __str__(self) -> str:
        return f"L{self.layer} head {self.head}"


@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class HeadLoadings(LinesView):
    """Which heads carry an edge; made by `graph.head_loadings`. `print` and notebooks show the largest.

    Attributes:
        source: The node that adds.
        target: The node that it is added to.
        weight: The edge.
        residual: What comes by no head: the residual stream, and what else is no attention pattern (skip connections,
            recurrences).
        heads: All heads between, the largest weights first. Their weights sum to `weight - residual`.
    """

    source: Node
    target: Node
    weight: float
    residual: float
    heads: tuple[HeadLoading, ...]

    @property
    def several(self) -> float:
        """What comes by ways with more than one head."""
        return self.weight - self.residual - sum(one.alone for one in self.heads)

    def __repr__(self) -> str:
        return f"HeadLoadings({self.source} → {self.target}, {len(self.heads)} heads)"

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each head.

        Raises:
            BackendError: pandas is not installed.
        """
        names = ("layer", "head", "weight", "alone", "share")
        return data_frame({name: [getattr(one, name) for one in self.heads] for name in names})

    @property
    def _lines(self) -> Sequence[str]:
        return (
            f"Heads that carry {self.source} → {self.target}",
            f"Edge {self.weight:+.4g}: by the residual stream {self.residual:+.4g}, by heads"
            f" {self.weight - self.residual:+.4g}, of which {self.several:+.4g} by more than one.",
        )

    @property
    def _tables(self) -> Sequence[Table]:
        rows = [
            [str(one), f"{one.weight:+.4g}", f"{one.share:.1%}", f"{one.alone:+.4g}"]
            for one in self.heads[:_SHOWN]
            if one.weight or one.alone
        ]
        return (Table(("last head", "weight", "share", "by it alone"), rows),)


def head_loadings(self: Graphed, source: Any, target: Any) -> HeadLoadings:
    """Which attention heads carry the edge from one node to another.

    The edge is measured anew with some heads left out, while everything else is held as in the graph. A head's weight
    is what comes by all ways of which it is the last head; so the weights of all heads sum to the edge less what the
    residual stream carries. `alone` is the edge with only this head's path. It costs two rows of a graph for each head
    of the layers between. `qk_attribution` says what made a head look there.

    Args:
        source: A feature, an error or an embedding: a node, its id, or (layer, position, feature id).
        target: A feature or an output.

    Raises:
        InputError: No such nodes, or the graph comes from a file.
        ComponentError: The model calls its attention outside its blocks.
        CircuitError: The heads do not sum to the edge in this architecture.

    Examples:
        >>> transcoders = mlxterp.load_demo().transcoders
        >>> graph = model.attribution_graph("Lily lost her red", transcoders, targets=" ball", verbose=False)
        >>> her = [node for node in graph.nodes if node.kind == "embedding"][-2]
        >>> found = graph.head_loadings(her, graph.outputs[0])
        >>> len(found.heads), found.residual  # 4 layers of 6 heads; only attention leads to another position
        (24, 0.0)
    """
    live = live_of(self)
    start, end = self.node(source), self.node(target)
    if start.kind == "output":
        raise InputError(f"{start} has no outgoing edges: a source is a feature, an error or an embedding.")
    read, made = _read(self, live, end), live.made
    heads = heads_of(made)
    plan = _Plan({n: count for n, count in sorted(heads.items()) if start.layer <= n <= end.layer})
    found = _measured(live, read, _vectors(made, start), plan)
    edge, residual, last, alone = plan.settled(found)
    _check(edge, residual, last, live)
    loadings = [
        HeadLoading(layer, head, float(w), float(one), float(w / edge) if edge else float("nan"))
        for (layer, head), w, one in zip(plan.names, last, alone, strict=True)
    ]
    ranked = sorted(loadings, key=lambda one: -abs(one.weight))
    return HeadLoadings(source=start, target=end, weight=edge, residual=residual, heads=tuple(ranked))


def live_of(graph: Graphed) -> Live:
    """The model and prompt of a graph.

    Raises:
        InputError: It comes from a file.
    """
    if graph.live is None:
        raise InputError(
            "This graph comes from a file, without its model. Make it anew to ask for its heads."
        )
    return graph.live


def heads_of(made: Replacement) -> dict[int, int]:
    """Layer → how many heads its attention has.

    Raises:
        ComponentError: Nothing says which layer an attention call belongs to.
    """
    if NO_BLOCK in made.frozen.heads:
        raise ComponentError(
            f"Attention of this {made.order.model_type} model is called outside its blocks, so nothing says which layer"
            " a head is in."
        )
    return {made.order.number(key): count for key, count in made.frozen.heads.items()}


class _Plan:
    """The rows that are measured: which heads each leaves in.

    First all and none; then, layer by layer, all earlier heads, these and one of the layer, and this one alone.

    Args:
        heads: Layer → how many, ascending.
    """

    def __init__(self, heads: Mapping[int, int]):
        self._heads = heads
        self.names = [(layer, head) for layer, count in heads.items() for head in range(count)]
        self.rows = 2 + len(heads) + 2 * len(self.names)
        self.factors = {
            layer: np.zeros((self.rows, count), dtype=np.float32) for layer, count in heads.items()
        }
        row = 2
        for factor in self.factors.values():
            factor[0] = 1
        for layer, count in heads.items():
            end = row + 1 + count
            for earlier in (n for n in heads if n < layer):
                self.factors[earlier][row:end] = 1
            self.factors[layer][row + 1 : end] = np.eye(count)
            self.factors[layer][end : end + count] = np.eye(count)
            row = end + count

    def settled(self, found: np.ndarray) -> tuple[float, float, np.ndarray, np.ndarray]:
        """The edge, the residual stream's part, and of each head what it carries as the last one and alone."""
        last, alone, row = [np.zeros(0)], [np.zeros(0)], 2
        for count in self._heads.values():
            last.append(found[row + 1 : row + 1 + count] - found[row])
            alone.append(found[row + 1 + count : row + 1 + 2 * count] - found[1])
            row += 1 + 2 * count
        return float(found[0]), float(found[1]), np.concatenate(last), np.concatenate(alone)


def _measured(live: Live, read: ReadAt, columns: Sequence[SourceVectors], plan: _Plan) -> np.ndarray:
    """float64, (rows of the plan,): the edge with the heads that each leaves in."""
    size, found = max(1, _TOKENS // len(live.ids)), []
    for start in range(0, plan.rows, size):
        part = slice(start, min(start + size, plan.rows))
        factors = {live.made.order.keys[layer]: factor[part] for layer, factor in plan.factors.items()}
        found.append(live.made.frozen.rows([read] * (part.stop - start), columns, factors))
    return np.concatenate(found).sum(axis=1, dtype=np.float64)


def _read(graph: Graphed, live: Live, node: Node) -> ReadAt:
    """What a target reads."""
    if node.kind == "output":
        return live.reads[[one.id for one in graph.outputs].index(node.id)]
    if node.kind != "feature":
        raise InputError(f"{node} has no incoming edges: a target is a feature or an output.")
    return live.made.reads(np.array([_number(live.made, node)]))[0]


def _number(made: Replacement, node: Node) -> int:
    """The row of a feature node in `made.features`."""
    wanted = np.array([node.layer, node.position, node.feature_id])
    return int(np.flatnonzero((made.features == wanted).all(axis=1))[0])


def _vectors(made: Replacement, node: Node) -> list[SourceVectors]:
    """What a source adds, and where."""
    at = np.array([node.position])
    if node.kind == "embedding":
        return [SourceVectors(EMBED, at, made.embeddings[at])]
    if node.kind == "error":
        return [SourceVectors(made.order.keys[node.layer], at, made.errors[node.layer][at])]
    number = np.array([_number(made, node)])
    transcoder = made.transcoders[node.layer]
    feature, activation = made.features[number, 2], made.activations[number]
    return [
        SourceVectors(made.order.keys[layer], at, transcoder.written(feature, activation, layer))
        for layer in transcoder.writes
    ]


def _check(edge: float, residual: float, last: np.ndarray, live: Live) -> None:
    total, size = (
        residual + float(last.sum()),
        max(abs(edge), abs(residual), float(np.abs(last).max(initial=0))),
    )
    if abs(total - edge) > LIMIT * size:
        raise CircuitError(
            f"The heads of this {live.anatomy.model.model_type} model and the residual stream sum to {total:.4g}, and"
            f" the edge is {edge:.4g}: what its attention writes is not the sum of what its heads write."
        )
