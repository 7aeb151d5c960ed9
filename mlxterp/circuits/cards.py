"""`Cards`: what indexes know of a graph's features: a card of each, and its label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..core.integers import as_integer
from ..errors import InputError
from ..index import FeatureIndex
from ..sae.members import layer_of
from .nodes import Node
from .protocols import Graph

Steer = Callable[[FeatureIndex, int, str], str]
"""Index, feature, prompt → the address of a page that steers by it; `Explorer.steer_address` is one."""

_EXAMPLES = 3
"""Strongest texts on a card."""


class Cards:
    """Indexes of a graph's transcoders, by layer.

    Args:
        given: An index, several, or {layer: index}; None for none.

    Raises:
        InputError: Something else, two of one layer, or an index of another SAE than the layer's transcoder.
    """

    def __init__(self, graph: Graph, given: Any):
        self._indexes: dict[int, FeatureIndex] = {}
        given_layers: set[int] = set()
        for key, index in _each(given):
            layer = _layer(key, index)
            if layer in given_layers:
                raise InputError(f"index= holds two indexes of layer {layer}. Give one for each layer.")
            given_layers.add(layer)
            self._indexes |= dict.fromkeys(_numbers(graph, layer, index), index)

    def label(self, node: Node) -> str | None:
        """What its index calls a feature; None for others, or without a name."""
        index = self._of(node)
        return None if index is None else index.label(node.feature_id or 0)

    def all_of(self, nodes: Iterable[Node]) -> dict[str, str]:
        """Key → HTML of the card, of each feature that has an index; once for all of its positions."""
        return {self.key(node): self._card(node) for node in nodes if self._of(node) is not None}

    def key(self, node: Node) -> str:
        """The key of a node's card; "" without one."""
        return "" if self._of(node) is None else f"{node.layer}-{node.feature_id}"

    def steer(self, nodes: Iterable[Node], address: Steer, prompt: str) -> dict[str, str]:
        """Id → address of the page that steers by it, of each feature that has an index."""
        pairs = ((node, self._of(node)) for node in nodes)
        return {
            node.id: address(index, node.feature_id or 0, prompt)
            for node, index in pairs
            if index is not None
        }

    def _card(self, node: Node) -> str:
        index = self._of(node)
        assert index is not None
        return index.feature(node.feature_id or 0, _EXAMPLES).fragment(level=3)

    def _of(self, node: Node) -> FeatureIndex | None:
        return self._indexes.get(node.layer) if node.kind == "feature" else None


def _each(given: Any) -> list[tuple[Any, FeatureIndex]]:
    if given is None:
        return []
    if isinstance(given, FeatureIndex):
        return [(None, given)]
    pairs: list[tuple[Any, Any]]
    if isinstance(given, Mapping):
        pairs = list(given.items())
    elif isinstance(given, Iterable) and not isinstance(given, (str, bytes)):
        pairs = [(None, one) for one in given]
    else:
        pairs = [(None, given)]
    for _, one in pairs:
        if not isinstance(one, FeatureIndex):
            raise InputError(
                f"index= holds {type(one).__name__}; expected indexes of the transcoders, one for each layer, as"
                " model.build_index or FeatureIndex.open gives them."
            )
    return pairs


def _layer(key: Any, index: FeatureIndex) -> int:
    own, said = layer_of(index.component), as_integer(key)
    if said is None and own is None:
        raise InputError(f"{index!r} is of {index.component}, in no layer. Give {{layer: index}}.")
    if said is not None and own is not None and said != own:
        raise InputError(f"index= says layer {said} of an index of {index.component}.")
    found = said if said is not None else own
    assert found is not None
    return found


def _numbers(graph: Graph, layer: int, index: FeatureIndex) -> list[int]:
    """Layers of the graph that an index of a layer of the model is of: in a looped model several.

    Raises:
        InputError: The graph's transcoders of that layer are known to be others.
    """
    if graph.live is None:
        return [layer]
    made = graph.live.made
    found = [n for n in made.order.of(layer) if n in made.transcoders]
    found = [n for n in found if made.transcoders[n].fingerprint == index.fingerprint]
    if not found:
        raise InputError(
            f"{index!r} is not of this graph's transcoder of layer {layer}, so its features are others. Build one:"
            " model.build_index(transcoder, texts, path)."
        )
    return found
