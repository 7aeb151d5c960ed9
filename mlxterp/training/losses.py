"""What each architecture minimises, and the gradients, written out.

Only active features have gradients, so no step needs more than one product of full size: pairs (token,
feature) are NumPy's, products and sums over pairs are the backend's. Squared errors are summed over the
width, averaged over tokens, and divided by `TrainRecipe.variance`.

    topk, batchtopk        Gao et al. 2024 (arXiv 2406.04093), Bussmann et al. 2024 (arXiv 2412.06410)
    matryoshka_batchtopk   Bussmann et al. 2025 (arXiv 2503.17547): the mean error over prefixes
    jumprelu               Rajamanoharan et al. 2024 (arXiv 2407.14435), with sparsity * (L0 / k - 1)²
    relu                   Bricken et al. 2023: sparsity * sum of activations; unit decoder rows
    gated                  Rajamanoharan et al. 2024 (arXiv 2404.16014)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..backends.base import Backend, Group
from ..core.sites import Array
from ..core.sparse import SparseFeatures
from ..variants import BatchTopK, JumpReLU, ReLU, TopK
from ..weights import SAEWeights
from .config import TrainRecipe


@dataclass(slots=True)
class Batch:
    """What one step looks at."""

    backend: Backend
    group: Group
    recipe: TrainRecipe
    weights: SAEWeights
    """Native."""
    x: Array
    """Native float32, (n, d_model): this process's share."""
    y: Array
    """What is to be reconstructed, (n, d_out); x itself but for transcoders."""
    tokens: int
    """Of all processes."""
    sparsity: float
    """The penalty's weight now."""
    level: float = 0.0
    """batchtopk: what the last batch's weakest active feature had."""

    @property
    def scale(self) -> float:
        """What squared errors of a token are multiplied by."""
        return 1 / (self.tokens * self.recipe.variance)

    @property
    def inside(self) -> Array:
        """What the encoder multiplies."""
        return self.x - self.weights.b_dec if self.weights.subtract_b_dec else self.x

    def error(self, decoded: Array) -> Array:
        """What a reconstruction leaves; a skip connection belongs to it."""
        skip = self.weights.extra.get("W_skip")
        return self.y - decoded if skip is None else self.y - decoded - self.x @ skip

    def decode(self, features: SparseFeatures, weights: SAEWeights | None = None) -> Array:
        """(n, d_out), the skip connection left out."""
        return self.backend.decode_sparse(features, weights or self.weights)


@dataclass(slots=True)
class Outcome:
    """A batch's errors and gradients: of this process's tokens, divided by the number of all."""

    error: Array
    """Native, (n, d_out): what the reconstruction left."""
    gradients: SAEWeights
    """Native."""
    fired: np.ndarray
    """Ids of active features, one for each pair."""
    penalty: float = 0.0
    """What the loss has beside the squared error: penalties and further errors, divided like it."""
    level: float = 0.0
    """See `Batch.level`."""


def forward_and_backward(batch: Batch) -> Outcome:
    """Errors and gradients of the batch, by its architecture."""
    return _LOSSES[batch.recipe.architecture](batch)


def sum_of_squares(x: Array) -> float:
    """The sum of x², row by row: MLX adds one after the other on a CPU, which loses digits in long sums."""
    return float((x * x).sum(1).sum())


# -- topk ---------------------------------------------------------------------------------------


def _topk(batch: Batch) -> Outcome:
    backend, weights = batch.backend, batch.weights
    ids, values = backend.encode(batch.x, weights, TopK(batch.recipe.k))
    error = batch.error(backend.decode(ids, values, weights))
    slope = error * (-2 * batch.scale)
    gradients = backend.backward(batch.x, ids, values, weights, slope)
    if "W_skip" in weights.extra:
        gradients = replace(gradients, extra={"W_skip": batch.x.T @ slope})
    active = backend.get(values) > 0
    return Outcome(error, gradients, backend.get(ids)[active])


# -- batchtopk and its matryoshka form ----------------------------------------------------------


def _batchtopk(batch: Batch) -> Outcome:
    features, level = select_over_batch(batch)
    error = batch.error(batch.decode(features))
    slope = error * (-2 * batch.scale)
    into = batch.backend.slopes(features, batch.weights.W_dec, slope)
    gradients = _gradients(batch, features, features.values, into, slope)
    return Outcome(error, gradients, features.indices, level=level)


def _matryoshka(batch: Batch) -> Outcome:
    """Features below the first prefix are in every reconstruction, those above the last but one in one only."""
    backend, weights, prefixes = batch.backend, batch.weights, batch.recipe.prefixes
    features, level = select_over_batch(batch)
    parts = [_between(features, first, last) for first, last in zip((0, *prefixes), prefixes, strict=False)]
    decoded, errors = None, []
    for part in parts:
        own = batch.decode(part)
        decoded = own if decoded is None else decoded + (own - weights.b_dec)
        errors.append(batch.error(decoded))
    slopes, total = [], None
    for error in reversed(errors):  # a feature feels every reconstruction that it is in
        own = error * (-2 * batch.scale / len(prefixes))
        total = own if total is None else total + own
        slopes.append(total)
    slopes.reverse()
    W_dec, W_enc = None, None
    db_enc = np.zeros(features.d_hidden, dtype=np.float32)
    for part, slope in zip(parts, slopes, strict=True):
        into = backend.slopes(part, weights.W_dec, slope)
        terms = [(part.values, slope), (into, batch.inside)]
        decoder, encoder = backend.sum_by_feature(part, terms)
        W_dec = decoder if W_dec is None else W_dec + decoder
        W_enc = encoder if W_enc is None else W_enc + encoder
        db_enc += _totals(part, into)
    assert W_dec is not None and W_enc is not None
    gradients = _assembled(batch, W_enc, db_enc, W_dec, slopes[0])
    rest = sum(sum_of_squares(error) for error in errors) / len(errors)
    extra = (rest - sum_of_squares(errors[-1])) * batch.scale
    return Outcome(errors[-1], gradients, features.indices, extra, level)


def select_over_batch(batch: Batch) -> tuple[SparseFeatures, float]:
    """The k x tokens largest pre-activations of all processes' tokens, and the smallest of them.

    Only what reaches most of the last batch's level is looked at first.
    """
    total, floor = batch.recipe.k * batch.tokens, 0.8 * batch.level
    while True:
        if floor == 0 and batch.group.size == 1:
            features = batch.backend.encode_sparse(batch.x, batch.weights, BatchTopK(batch.recipe.k))
        else:
            features = above(batch.backend, batch.x, batch.weights, floor)
        values = _of_all(batch, features.values)
        if len(values) >= total or floor == 0:
            break
        floor = 0.5 * floor if floor > 0.05 * batch.level else 0.0
    if len(values) <= total:
        return features, float(values.min(initial=np.inf)) if len(values) else 0.0
    level = float(np.partition(values, -total)[-total])
    keep = features.values >= level
    surplus = int((values >= level).sum()) - total
    if surplus:  # equals: those of the last tokens go
        keep[np.flatnonzero(features.values == level)[-surplus:]] = False
    return _kept(features, keep), level


def above(backend: Backend, x: Array, weights: SAEWeights, floor: float) -> SparseFeatures:
    """Every feature whose pre-activation exceeds `floor`."""
    threshold = backend.put(np.full(weights.W_enc.shape[1], floor, dtype=np.float32), like=weights.b_enc)
    only = replace(weights, extra={"threshold": threshold})
    return backend.encode_sparse(x, only, JumpReLU())


def _of_all(batch: Batch, values: np.ndarray) -> np.ndarray:
    """Every process's values, of which at most the `k x tokens` largest can matter."""
    if batch.group.size == 1:
        return values
    most = batch.recipe.k * batch.tokens
    table = np.zeros((batch.group.size, most), dtype=np.float32)
    own = np.sort(values)[::-1][:most]
    table[batch.group.rank, : len(own)] = own
    [table] = batch.group.sum([batch.backend.put(table, like=batch.weights.b_enc)])
    found = batch.backend.get(table).reshape(-1)
    return found[found > 0]


# -- penalties instead of a number --------------------------------------------------------------


def _relu(batch: Batch) -> Outcome:
    features = batch.backend.encode_sparse(batch.x, batch.weights, ReLU())
    error = batch.error(batch.decode(features))
    slope = error * (-2 * batch.scale)
    price = batch.sparsity / (batch.tokens * batch.recipe.variance**0.5)
    into = batch.backend.slopes(features, batch.weights.W_dec, slope) + np.float32(price)
    gradients = _gradients(batch, features, features.values, into, slope)
    penalty = price * float(features.values.sum(dtype=np.float64))
    return Outcome(error, gradients, features.indices, penalty)


def _jumprelu(batch: Batch) -> Outcome:
    """The step at a threshold is felt within a window around it (rectangle, straight-through)."""
    backend, recipe, weights = batch.backend, batch.recipe, batch.weights
    width, threshold = recipe.bandwidth, backend.get(weights.extra["threshold"])
    lower = backend.put(np.maximum(threshold - width / 2, 0), like=weights.b_enc)
    near = backend.encode_sparse(batch.x, replace(weights, extra={"threshold": lower}), JumpReLU())
    limit = threshold[near.indices]
    active = near.values > limit
    features = _kept(near, active)
    error = batch.error(batch.decode(features))
    slope = error * (-2 * batch.scale)
    slopes = backend.slopes(near, weights.W_dec, slope)
    gradients = _gradients(batch, features, features.values, slopes[active], slope)
    too_many = _sum(batch, len(features.values)) / (batch.tokens * recipe.k) - 1
    price = 2 * batch.sparsity * too_many / (recipe.k * batch.tokens)
    felt = np.where(np.abs(near.values - limit) < width / 2, -(limit * slopes + price) / width, 0)
    extra = {**gradients.extra, "threshold": backend.put(_totals(near, felt), like=weights.b_enc)}
    penalty = batch.sparsity * too_many**2 / batch.group.size
    return Outcome(error, replace(gradients, extra=extra), features.indices, penalty)


def _gated(batch: Batch) -> Outcome:
    """The gate learns from a reconstruction of its own, through a decoder that it does not move."""
    backend, weights = batch.backend, batch.weights
    scale, b_mag, b_gate = (
        backend.get(a) for a in (weights.extra["gate_scale"], weights.extra["b_mag"], weights.b_enc)
    )
    gate = backend.encode_sparse(batch.x, weights, ReLU())
    projected = gate.values - b_gate[gate.indices]
    magnitude = projected * scale[gate.indices] + b_mag[gate.indices]
    on = magnitude > 0
    features = _kept(replace(gate, values=magnitude), on)
    error, gate_error = batch.error(batch.decode(features)), batch.error(batch.decode(gate))
    slope, gate_slope = error * (-2 * batch.scale), gate_error * (-2 * batch.scale)
    price = batch.sparsity / (batch.tokens * batch.recipe.variance**0.5)
    into_gate = backend.slopes(gate, weights.W_dec, gate_slope) + np.float32(price)
    into_magnitude = np.zeros_like(into_gate)
    into_magnitude[on] = backend.slopes(features, weights.W_dec, slope)
    into = into_gate + into_magnitude * scale[gate.indices]
    [W_enc] = backend.sum_by_feature(gate, [(into, batch.inside)])
    [W_dec] = backend.sum_by_feature(features, [(features.values, slope)])
    gradients = _assembled(batch, W_enc, _totals(gate, into_gate), W_dec, slope, _totals(gate, into))
    extra = {
        **gradients.extra,
        "gate_scale": backend.put(_totals(gate, into_magnitude * projected), like=weights.b_enc),
        "b_mag": backend.put(_totals(gate, into_magnitude), like=weights.b_enc),
    }
    penalty = price * float(gate.values.sum(dtype=np.float64))
    penalty += sum_of_squares(gate_error) * batch.scale
    return Outcome(error, replace(gradients, extra=extra), features.indices, penalty)


_LOSSES: dict[str, Callable[[Batch], Outcome]] = {
    "topk": _topk,
    "batchtopk": _batchtopk,
    "matryoshka_batchtopk": _matryoshka,
    "relu": _relu,
    "jumprelu": _jumprelu,
    "gated": _gated,
}


# -- what they share ----------------------------------------------------------------------------


def _gradients(
    batch: Batch, features: SparseFeatures, values: np.ndarray, into: np.ndarray, slope: Array
) -> SAEWeights:
    """Where pairs' values decode with gradient `slope`, and their pre-activations have the gradient `into`."""
    W_dec, W_enc = batch.backend.sum_by_feature(features, [(values, slope), (into, batch.inside)])
    return _assembled(batch, W_enc, _totals(features, into), W_dec, slope)


def _assembled(
    batch: Batch, W_enc: Array, b_enc: np.ndarray, W_dec: Array, slope: Array, into: np.ndarray | None = None
) -> SAEWeights:
    """Gradients of all weights.

    Args:
        W_enc: (d_hidden, d_model).
        slope: What the reconstructions' biases feel, (n, d_out).
        into: The sum of what went through the encoder, (d_hidden,), where it is not what b_enc feels.
    """
    weights, put = batch.weights, batch.backend.put
    b_dec = slope.sum(0)
    if weights.subtract_b_dec:
        b_dec = b_dec - weights.W_enc @ put(b_enc if into is None else into, like=weights.b_enc)
    extra = {"W_skip": batch.x.T @ slope} if "W_skip" in weights.extra else {}
    return SAEWeights(W_enc.T, put(b_enc, like=weights.b_enc), W_dec, b_dec, weights.subtract_b_dec, extra)


def _totals(features: SparseFeatures, numbers: np.ndarray) -> np.ndarray:
    """Sum of each feature's numbers, float32 (d_hidden,)."""
    return np.bincount(features.indices, numbers, features.d_hidden).astype(np.float32)


def _kept(features: SparseFeatures, keep: np.ndarray) -> SparseFeatures:
    """Only the pairs that `keep` (pairs,) holds."""
    counts = np.concatenate([[0], np.cumsum(keep, dtype=np.int64)])
    return SparseFeatures(
        counts[features.indptr], features.indices[keep], features.values[keep], features.d_hidden
    )


def _between(features: SparseFeatures, first: int, last: int) -> SparseFeatures:
    return _kept(features, (features.indices >= first) & (features.indices < last))


def _sum(batch: Batch, number: float) -> float:
    """Over all processes."""
    if batch.group.size == 1:
        return number
    [total] = batch.group.sum([batch.backend.put(np.array([number], dtype=np.float32), like=batch.x)])
    return float(total[0])
