"""`Node` and `Edge`: what an attribution graph consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

NodeKind = Literal["feature", "error", "embedding", "output"]


@dataclass(frozen=True, slots=True)
class Node:
    """A place in an attribution graph.

    Attributes:
        id: Unique in its graph: "3_741_5" is feature 741 of layer 3 at position 5, "3_-1_5" what the transcoder of
            layer 3 misses there, "E_17_5" token 17 at position 5, "5_17_9" the output of token 17 in a model of 4
            layers.
        kind: "feature", "error", "embedding" or "output".
        layer: Of features and errors, in the order of the pass: in a model of 4 layers that are run in two loops, layer
            1 is 1 in the first and 5 in the second. -1 for embeddings, the number of layers for outputs.
        position: 0-based, in the prompt.
        token: Text of the token at that position; of an output, the token that it predicts or the name of its
            direction.
        feature_id: Of a feature; else None.
        token_id: Of an embedding, and of an output that is one token; else None.
        activation: Of a feature, in its transcoder's own scale; else None.
        probability: Of an output: the model's probability of the token, or the weight that was given; else None.
    """

    id: str
    kind: NodeKind
    layer: int
    position: int
    token: str
    feature_id: int | None = None
    token_id: int | None = None
    activation: float | None = None
    probability: float | None = None

    def __str__(self) -> str:
        if self.kind == "feature":
            return f"L{self.layer} #{self.feature_id} at {self.position} {self.token!r}"
        if self.kind == "error":
            return f"L{self.layer} error at {self.position} {self.token!r}"
        if self.kind == "embedding":
            return f"token {self.token!r} at {self.position}"
        share = "" if self.probability is None else f" ({self.probability:.3f})"
        return f"output {self.token!r}{share}"


class Edge(NamedTuple):
    """What one node adds to another.

    Attributes:
        source: The node that adds.
        target: The node that it is added to.
        weight: In the target's own units: a feature's activation, a logit less the mean of all logits.
        share: Size of the weight, as a share of the sizes of all edges into the target that the graph holds.
    """

    source: Node
    target: Node
    weight: float
    share: float


NodeLike = Node | str | tuple[int, int, int]
"""A node as calls take it: itself, its id, or (layer, position, feature id)."""


def feature_node(layer: int, position: int, feature_id: int, token: str, activation: float) -> Node:
    """A feature that is active at a position."""
    name = f"{layer}_{feature_id}_{position}"
    return Node(name, "feature", layer, position, token, feature_id=feature_id, activation=activation)


def error_node(layer: int, position: int, token: str) -> Node:
    """What a layer's transcoder misses of its MLP's output at a position."""
    return Node(f"{layer}_-1_{position}", "error", layer, position, token)


def embedding_node(token_id: int, position: int, token: str) -> Node:
    """What enters the first block at a position."""
    return Node(f"E_{token_id}_{position}", "embedding", -1, position, token, token_id=token_id)


def output_node(
    n_layers: int, number: int, position: int, token: str, probability: float, of_token: bool
) -> Node:
    """A number of the output.

    Args:
        number: The token's id, or one beyond the vocabulary for a direction.
    """
    name, token_id = f"{n_layers + 1}_{number}_{position}", number if of_token else None
    return Node(name, "output", n_layers, position, token, token_id=token_id, probability=probability)
