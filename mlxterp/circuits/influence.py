"""How much each node of a graph matters for its outputs, which nodes and edges carry most of that, and two scores.

The formulas are those of circuit-tracer (Ameisen et al. 2025, Lindsey et al. 2025). A matrix has a row for each target
(features, then outputs) and a column for each source (the same features, then errors, then embeddings). NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_LEAST = 1e-10
"""Sums of a row below this count as this."""


@dataclass(frozen=True, eq=False, slots=True)
class Shape:
    """How many nodes of each kind a graph has.

    Attributes:
        features: Rows and columns that come first.
        errors: Columns after them.
        embeddings: The last columns.
        outputs: The last rows.
    """

    features: int
    errors: int
    embeddings: int
    outputs: int

    @property
    def sources(self) -> int:
        """Columns."""
        return self.features + self.errors + self.embeddings


@dataclass(frozen=True, eq=False, slots=True)
class Kept:
    """What pruning keeps.

    Attributes:
        sources: bool, (sources,).
        edges: bool, (targets, sources): of kept nodes only.
        shares: float64, (sources,): how much of all influence lies on the node and on those with more; small matters.
    """

    sources: np.ndarray
    edges: np.ndarray
    shares: np.ndarray


def shares_of(matrix: np.ndarray) -> np.ndarray:
    """float64: each edge's size, as a share of the sizes of all edges of its target."""
    sizes = np.abs(matrix).astype(np.float64)
    return sizes / np.maximum(sizes.sum(axis=1, keepdims=True), _LEAST)


def influence(shares: np.ndarray, weights: np.ndarray, n_features: int) -> np.ndarray:
    """float64, (sources,): what the outputs get of each source, by all paths.

    Args:
        shares: (features + outputs, sources), as `shares_of` gives them.
        weights: (outputs,): how much each output counts.

    Raises:
        ValueError: Features go round in a circle.
    """
    inner, current = shares[:n_features], weights.astype(np.float64) @ shares[n_features:]
    total = current.copy()
    for _ in range(1000):
        current = current[:n_features] @ inner
        if not current.any():
            return total
        total += current
    raise ValueError("its features form a circle, so no source comes before the others")


def threshold(scores: np.ndarray, share: float) -> float:
    """The smallest score of those that, largest first, together make `share` of the sum; 0 where all are 0."""
    ordered = np.sort(scores[scores > 0], axis=None)[::-1]
    if not len(ordered):
        return 0.0
    sums = np.cumsum(ordered)
    place = int(np.searchsorted(sums / sums[-1], share)) if share < 1 else len(ordered)
    return float(ordered[min(place, len(ordered) - 1)])


def prune(matrix: np.ndarray, weights: np.ndarray, shape: Shape, node: float, edge: float) -> Kept:
    """The nodes that carry a share `node` of the influence, and the edges that carry `edge` of what those have.

    Embeddings and outputs always stay. Features and errors need an edge that leaves them, features one that enters.
    """
    n, first = shape.features, shape.features + shape.errors
    found = influence(shares_of(matrix), weights, n)
    keep = found >= threshold(found, node)
    keep[first:] = True
    rows = np.concatenate([keep[:n], np.ones(shape.outputs, dtype=bool)])
    left = np.where(rows[:, None] & keep[None], matrix, 0)
    shares = shares_of(left)
    inner = influence(shares, weights, n)
    scores = shares * np.concatenate([inner[:n], weights])[:, None]
    edges = scores >= threshold(scores, edge)
    _settle(keep, edges, n, first)
    return Kept(keep, edges & (matrix != 0), cumulative(found))


def _settle(keep: np.ndarray, edges: np.ndarray, n: int, first: int) -> None:
    """Takes away nodes without edges, and their edges, until nothing changes."""
    before = None
    while before is None or (keep != before).any():
        before = keep.copy()
        edges[:n][~keep[:n]] = False
        edges[:, ~keep] = False
        keep[:first] &= edges[:, :first].any(axis=0)
        keep[:n] &= edges[:n].any(axis=1)
    edges[:n][~keep[:n]] = False
    edges[:, ~keep] = False


def cumulative(found: np.ndarray) -> np.ndarray:
    """float64: the share of all influence that lies on each node and on those with more."""
    order = np.argsort(-found, kind="stable")
    shares = np.empty_like(found)
    total = found.sum()
    shares[order] = np.cumsum(found[order]) / (total if total else 1.0)
    return shares


def scores(matrix: np.ndarray, weights: np.ndarray, shape: Shape) -> tuple[float, float]:
    """Replacement and completeness score.

    Replacement is the share of the influence on embeddings of that on embeddings and errors. Completeness is the share
    of every node's inputs that are no errors, by its influence. Errors and embeddings, which have no inputs, count as
    complete, as in circuit-tracer.
    """
    shares = shares_of(matrix)
    found = influence(shares, weights, shape.features)
    n, first = shape.features, shape.features + shape.errors
    errors, tokens = float(found[n:first].sum()), float(found[first:].sum())
    without = np.ones(shape.sources + shape.outputs)
    of_errors = shares[:, n:first].sum(axis=1)
    without[:n] -= of_errors[:n]
    without[shape.sources :] -= of_errors[n:]
    counts = np.concatenate([found, weights.astype(np.float64)])
    replacement = tokens / (tokens + errors) if tokens + errors else float("nan")
    return replacement, float((without * counts).sum() / counts.sum()) if counts.sum() else float("nan")
