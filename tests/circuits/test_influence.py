"""Influence, pruning and scores against plain matrices of all nodes, on random sparse graphs with ties and extremes."""

from __future__ import annotations

import numpy as np
import pytest

from mlxterp.circuits.influence import Shape, influence, prune, scores, shares_of


def random_graph(
    seed: int, features: int, errors: int, tokens: int, outputs: int
) -> tuple[np.ndarray, np.ndarray, Shape]:
    """A sparse graph without circles; small whole numbers, so that many edges tie."""
    draw = np.random.default_rng(seed)
    shape = Shape(features, errors, tokens, outputs)
    matrix = draw.integers(-2, 3, (features + outputs, shape.sources)).astype(np.float32)
    matrix *= draw.random(matrix.shape) < 0.5
    matrix[:features, :features] = np.tril(matrix[:features, :features], -1)
    return matrix, draw.dirichlet(np.ones(outputs)), shape


class Square:
    """The same as a matrix of all nodes by all nodes, and circuit-tracer's formulas on it."""

    def __init__(self, matrix: np.ndarray, weights: np.ndarray, s: Shape):
        n = s.sources + s.outputs
        self.s, self.A, self.w = s, np.zeros((n, n)), np.zeros(n)
        self.A[: s.features, : s.sources] = matrix[: s.features]
        self.A[s.sources :, : s.sources] = matrix[s.features :]
        self.w[s.sources :] = weights

    @staticmethod
    def normal(A: np.ndarray) -> np.ndarray:
        return np.abs(A) / np.maximum(np.abs(A).sum(axis=1, keepdims=True), 1e-10)

    def influence(self, P: np.ndarray) -> np.ndarray:
        return self.w @ P @ np.linalg.inv(np.eye(len(P)) - P)

    @staticmethod
    def threshold(score: np.ndarray, share: float) -> float:
        ordered = np.sort(score)[::-1]
        place = np.searchsorted(np.cumsum(ordered) / ordered.sum(), share)
        return ordered[min(place, len(ordered) - 1)]

    def prune(self, node: float, edge: float) -> tuple[np.ndarray, np.ndarray]:
        last = len(self.A) - self.s.outputs - self.s.embeddings
        found = self.influence(self.normal(self.A))
        keep = found >= self.threshold(found, node)
        keep[last:] = True
        A = self.A * keep[:, None] * keep[None]
        P = self.normal(A)
        score = P * (self.influence(P) + self.w)[:, None]
        edges = score >= self.threshold(score.ravel(), edge)
        before = None
        while before is None or (keep != before).any():
            before = keep.copy()
            edges[~keep] = False
            edges[:, ~keep] = False
            keep[:last] &= edges[:, :last].any(axis=0)
            keep[: self.s.features] &= edges[: self.s.features].any(axis=1)
        edges[~keep] = False
        edges[:, ~keep] = False
        return keep, edges & (self.A != 0)

    def scores(self) -> tuple[float, float]:
        P, s = self.normal(self.A), self.s
        found = self.influence(P)
        first, last = s.features, s.features + s.errors
        tokens, errors = found[last : s.sources].sum(), found[first:last].sum()
        counts = found + self.w
        return tokens / (tokens + errors), ((1 - P[:, first:last].sum(axis=1)) * counts).sum() / counts.sum()


SHAPES = [(12, 4, 3, 3), (30, 9, 5, 2), (1, 1, 1, 1), (0, 3, 2, 2)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sizes", SHAPES)
def test_influence_and_scores_are_those_of_the_whole_matrix(sizes, seed):
    matrix, weights, shape = random_graph(seed, *sizes)
    matrix[shape.features :, -1] = 1  # every output has an input
    square = Square(matrix, weights, shape)
    found = influence(shares_of(matrix), weights, shape.features)
    assert np.allclose(found, square.influence(square.normal(square.A))[: shape.sources], atol=1e-9)
    assert np.allclose(scores(matrix, weights, shape), square.scores(), atol=1e-9)


@pytest.mark.parametrize("node", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("edge", [0.0, 0.5, 0.98, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_pruning_keeps_what_it_keeps_on_the_whole_matrix(seed, node, edge):
    matrix, weights, shape = random_graph(seed, 20, 6, 4, 3)
    draw = np.random.default_rng(seed)
    matrix = (matrix * draw.random(matrix.shape)).astype(np.float32)  # no ties: rounding decides none
    matrix[shape.features :, -1] = 1
    keep, edges = Square(matrix, weights, shape).prune(node, edge)
    kept = prune(matrix, weights, shape, node, edge)
    rows = [*range(shape.features), *range(shape.sources, len(keep))]
    assert np.array_equal(kept.sources, keep[: shape.sources])
    assert np.array_equal(kept.edges, edges[rows][:, : shape.sources])


def test_ties_are_kept_together():
    shape = Shape(4, 0, 1, 1)
    matrix = np.zeros((5, 5), np.float32)
    matrix[4, :4], matrix[:4, 4] = 1, 1
    kept = prune(matrix, np.ones(1), shape, 0.6, 0.1)
    assert kept.sources.all() and kept.edges.sum() == 8


def test_more_is_kept_at_higher_thresholds():
    matrix, weights, shape = random_graph(1, 40, 10, 5, 3)
    counts = [prune(matrix, weights, shape, t, 0.98).sources.sum() for t in (0.2, 0.5, 0.8, 1.0)]
    assert counts == sorted(counts)


def test_features_in_a_circle_are_an_error():
    with pytest.raises(ValueError, match="circle"):
        influence(np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]]), np.ones(1), 2)


def test_a_graph_without_edges_has_no_scores():
    found = scores(np.zeros((2, 4), np.float32), np.ones(1), Shape(1, 1, 2, 1))
    assert np.isnan(found[0]) and found[1] == 1
