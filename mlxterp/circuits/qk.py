"""`QKAttribution`: which features of two tokens made a head look from one to the other (QK tracing).

A head's score is scale · q · k. In the frozen pass q and k are sums over the sources, so the score is a sum over pairs
of sources, with the biases as one more source on either side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..backends.frozen import FrozenPass
from ..core import checks
from ..core.frozen import KEYS, QUERIES, Key, ReadAt, SourceVectors
from ..core.sites import Array, Component
from ..errors import CircuitError, InputError
from ..viz.lines import LinesView, Table
from .effects import Live
from .heads import Graphed, heads_of, live_of
from .law import LIMIT
from .nodes import Node, embedding_node, error_node, feature_node
from .transcoders import frozen_places

_TOKENS = 2048
_ROWS = 1024
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class QKTerm:
    """A part of a head's score.

    Attributes:
        query: What adds to the query; None for the biases. In `key_marginals` also None: all of it.
        key: What adds to the key; None for the biases. In `query_marginals` also None: all of it.
        weight: What it adds to the score.
    """

    query: Node | None
    key: Node | None
    weight: float


@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class QKAttribution(LinesView):
    """A head's score as a sum over pairs of features; made by `graph.qk_attribution`.

    Attributes:
        layer: The head's layer.
        head: Its number there.
        query: Position of the token that looks.
        key: Position of the one that is looked at.
        tokens: Their texts.
        score: scale · q · k: before a soft cap, the mask, and biases by position.
        scale: What q · k is multiplied by.
        query_nodes: Sources that add to the query.
        key_nodes: Sources that add to the key.
        queries: float32, (query_nodes + 1, d_head): what each adds, the last row what biases add.
        keys: float32, (key_nodes + 1, d_head): likewise.
        law: By how much query or key differ from the sum of the sources, relative to their largest number; at most
            1e-3. The biases are measured apart for this, at sources of 0.
    """

    layer: int
    head: int
    query: int
    key: int
    tokens: tuple[str, str]
    score: float
    scale: float
    query_nodes: tuple[Node, ...]
    key_nodes: tuple[Node, ...]
    queries: np.ndarray
    keys: np.ndarray
    law: float

    @property
    def matrix(self) -> np.ndarray:
        """float64, (query_nodes + 1, key_nodes + 1): what each pair adds; the last row and column are the biases'."""
        return self.scale * self.queries.astype(np.float64) @ self.keys.astype(np.float64).T

    def pairs(self, top_k: int | None = 20) -> list[QKTerm]:
        """Pairs, the largest first, then the order of the nodes; None gives all that are not 0."""
        most, width = checks.count_or_none(top_k, "top_k"), len(self.keys)
        found = _Largest(most)
        for start in range(0, len(self.queries), _ROWS):
            part = self.scale * self.queries[start : start + _ROWS].astype(np.float64) @ self.keys.T
            found.add(part, start * width)
        return [
            QKTerm(self._node(self.query_nodes, n // width), self._node(self.key_nodes, n % width), value)
            for n, value in found.ranked()
        ]

    def query_marginals(self, top_k: int | None = 20) -> list[QKTerm]:
        """What each source of the query adds with the whole key, the largest first."""
        found = _Largest(checks.count_or_none(top_k, "top_k"))
        found.add(self.scale * self.queries.astype(np.float64) @ self.keys.sum(axis=0, dtype=np.float64), 0)
        return [QKTerm(self._node(self.query_nodes, n), None, value) for n, value in found.ranked()]

    def key_marginals(self, top_k: int | None = 20) -> list[QKTerm]:
        """What each source of the key adds with the whole query, the largest first."""
        found = _Largest(checks.count_or_none(top_k, "top_k"))
        found.add(self.scale * self.keys.astype(np.float64) @ self.queries.sum(axis=0, dtype=np.float64), 0)
        return [QKTerm(None, self._node(self.key_nodes, n), value) for n, value in found.ranked()]

    @staticmethod
    def _node(nodes: Sequence[Node], number: int) -> Node | None:
        return nodes[number] if number < len(nodes) else None

    def __repr__(self) -> str:
        return f"QKAttribution(L{self.layer} head {self.head}, {self.query} → {self.key}, score {self.score:.3f})"

    @property
    def _lines(self) -> Sequence[str]:
        return (
            f"Why L{self.layer} head {self.head} looks from {self.tokens[0]!r} ({self.query}) to {self.tokens[1]!r}"
            f" ({self.key})",
            f"Score {self.score:+.4g}, the sum of {len(self.queries)} × {len(self.keys)} pairs; before a soft cap, the"
            " mask, and biases by position.",
        )

    @property
    def _tables(self) -> Sequence[Table]:
        pairs = [[_text(one.query), _text(one.key), f"{one.weight:+.4g}"] for one in self.pairs(_SHOWN)]
        queries = [[_text(one.query), f"{one.weight:+.4g}"] for one in self.query_marginals(_SHOWN)]
        keys = [[_text(one.key), f"{one.weight:+.4g}"] for one in self.key_marginals(_SHOWN)]
        return (
            Table(("query", "key", "adds"), pairs),
            Table(("query, with the whole key", "adds"), queries),
            Table(("key, with the whole query", "adds"), keys),
        )


def _text(node: Node | None) -> str:
    return "biases" if node is None else str(node)


class _Largest:
    """The largest of many numbers by size, which come in parts; places count on through the parts."""

    def __init__(self, most: int | None):
        self._most, self._places, self._values = most, np.zeros(0, dtype=np.int64), np.zeros(0)

    def add(self, values: np.ndarray, start: int) -> None:
        """The next part, whose first place is `start`."""
        flat = values.ravel()
        places = np.flatnonzero(flat)
        self._places = np.concatenate([self._places, places + start])
        self._values = np.concatenate([self._values, flat[places]])
        if self._most is not None and len(self._places) > self._most:
            order = np.lexsort((self._places, -np.abs(self._values)))[: self._most]
            self._places, self._values = self._places[order], self._values[order]

    def ranked(self) -> Iterator[tuple[int, float]]:
        """Places and values, the largest first, then by place."""
        for n in np.lexsort((self._places, -np.abs(self._values))):
            yield int(self._places[n]), float(self._values[n])


def qk_attribution(self: Graphed, layer: int, head: int, query: int = -1, key: int = 0) -> QKAttribution:
    """Which features made a head look from one token to another (QK tracing).

    The head's score is a sum over pairs of sources: one adds to the query, the other to the key. Queries and keys are
    taken as attention multiplies them, after their norms, whose denominators are held, and after rotary positions.

    Args:
        layer, head: Which, such as one of `graph.head_loadings(source, target).heads`.
        query, key: Positions of the token that looks and of the one that is looked at; negative ones from the end.

    Raises:
        InputError: No such head or position, or the graph comes from a file.
        ComponentError: Queries and keys of this architecture cannot be read.
        CircuitError: They are not sums of the sources in this architecture.

    Examples:
        >>> transcoders = mlxterp.load_demo().transcoders
        >>> graph = model.attribution_graph("Lily lost her red", transcoders, targets=" ball", verbose=False)
        >>> found = graph.qk_attribution(layer=2, head=1, query=-1, key=1)
        >>> bool(abs(found.matrix.sum() - found.score) < 1e-3), len(found.pairs(5))
        (True, 5)
    """
    live = live_of(self)
    order, positions = live.made.order, len(live.ids)
    layer = order.layer(layer)
    heads = heads_of(live.made)
    if layer not in heads:
        raise InputError(f"Layer {layer} has no attention pattern. Layers that have one: {sorted(heads)}.")
    head = checks.integer(head, "head", 0, heads[layer] - 1)
    query, key = (
        checks.integer(at, name, -positions, positions - 1) % positions
        for at, name in ((query, "query"), (key, "key"))
    )
    if key > query:
        raise InputError(
            f"key={key} comes after query={query}: a token looks at itself and at those before it."
        )
    frozen, (of_query, of_key) = _recorded(live, layer)
    width = frozen.base.inputs[of_query].shape[-1] // heads[layer]
    shared = heads[layer] // (frozen.base.inputs[of_key].shape[-1] // width)
    sources = _Sources(live, self.tokens)
    looks = _side(live, frozen, sources, of_query, slice(head * width, (head + 1) * width), query)
    start = head // shared * width
    looked_at = _side(live, frozen, sources, of_key, slice(start, start + width), key)
    scale = frozen.scales[order.keys[layer][0]]
    return QKAttribution(
        layer=layer, head=head, query=query, key=key, tokens=(self.tokens[query], self.tokens[key]),
        score=scale * float(looks.whole @ looked_at.whole), scale=scale, query_nodes=looks.nodes,
        key_nodes=looked_at.nodes, queries=looks.vectors, keys=looked_at.vectors,
        law=max(looks.law, looked_at.law),
    )  # fmt: skip


def _recorded(live: Live, layer: int) -> tuple[FrozenPass, tuple[Key, Key]]:
    """The pass with queries and keys of a layer among what is read, and where they stand."""
    anatomy, order = live.anatomy, live.made.order
    block, loop = order.keys[layer]
    queries, keys = (anatomy.component(f"layers.{block}.attn.{port}") for port in "qk")
    places = frozen_places(anatomy, order, live.made.transcoders)
    inputs = {**places.inputs, QUERIES: _side_by_side(queries), KEYS: _side_by_side(keys)}
    frozen = anatomy.model.frozen_pass(live.ids, replace(places, inputs=inputs))
    calls = sum(key[0] == QUERIES for key in frozen.base.inputs) // len(order.of(block))
    return frozen, ((QUERIES, loop * calls + (queries.call or 0)), (KEYS, loop * calls + (keys.call or 0)))


def _side_by_side(component: Component) -> Component:
    """A value by heads, (batch, heads, positions, d_head), with the heads side by side."""

    def compute(values: Sequence[Array]) -> Array:
        x = component.compute(values)
        return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)

    return replace(component, compute=compute)


class _Sources:
    """What adds to queries and keys: all sources of a prompt, those that a graph left out too.

    Attributes:
        columns: Their vectors, and then those of what they sum to, with the transcoders' biases.
    """

    def __init__(self, live: Live, tokens: Sequence[str]):
        made = live.made
        every = np.arange(len(live.ids))
        whole = [SourceVectors(key, every, vectors) for key, vectors in made.frozen.sources.items()]
        columns = made.columns()
        self.columns: Sequence[SourceVectors] = [*columns, *whole]
        self._made, self._vectors = made, sum(len(column.positions) for column in columns)
        features = zip(made.features.tolist(), made.activations.tolist(), strict=True)
        self.nodes = [
            *(feature_node(n, at, feature, tokens[int(at)], value) for (n, at, feature), value in features),
            *(error_node(n, at, token) for n in made.layers for at, token in enumerate(tokens)),
            *(embedding_node(token, at, tokens[at]) for at, token in enumerate(live.ids)),
        ]

    def parts(self, products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Products with the columns, (rows, vectors): those of each node, and the sum of those of what they sum to."""
        found = self._made.folded(products[:, : self._vectors])
        return found, products[:, self._vectors :].sum(axis=1, dtype=np.float64)


@dataclass(frozen=True, eq=False, slots=True)
class _Side:
    """A query or a key.

    Attributes:
        nodes: What adds to it.
        vectors: float32, (nodes + 1, d_head): what each adds, then the biases.
        whole: float64, (d_head,): itself, as the recording pass had it.
        law: By how much it differs from the sum, relative to its largest number.
    """

    nodes: tuple[Node, ...]
    vectors: np.ndarray
    whole: np.ndarray
    law: float


def _side(live: Live, frozen: FrozenPass, sources: _Sources, place: Key, part: slice, at: int) -> _Side:
    """A head's query or key at a position, taken apart.

    Raises:
        CircuitError: It is not the sum of what adds to it.
    """
    width = part.stop - part.start
    directions = np.zeros((width, frozen.base.inputs[place].shape[-1]), dtype=np.float32)
    directions[np.arange(width), np.arange(part.start, part.stop)] = 1
    reads, size = [ReadAt(place, at, one) for one in directions], max(1, _TOKENS // len(live.ids))
    found = np.concatenate(
        [frozen.rows(reads[start : start + size], sources.columns) for start in range(0, width, size)]
    )
    by_node, summed = sources.parts(found)
    found = by_node.T
    whole = frozen.base.inputs[place][0, at, part].astype(np.float64)
    origin = frozen.read({}, origin=True).inputs[place][0, at, part]
    law = float(np.abs(origin + summed - whole).max() / max(np.abs(whole).max(), np.finfo(np.float32).tiny))
    if not law <= LIMIT:
        raise CircuitError(
            f"Queries or keys of this {live.anatomy.model.model_type} model differ by {law:.1e} from the sum of what"
            " adds to them: something between the stream and its attention multiplies activations in a way that is not"
            " held."
        )
    kept, biases = np.flatnonzero(found.any(axis=1)), whole - found.sum(axis=0, dtype=np.float64)
    vectors = np.concatenate([found[kept], biases[None].astype(np.float32)])
    return _Side(tuple(sources.nodes[n] for n in kept), vectors, whole, law)
