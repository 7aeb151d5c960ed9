"""The units in which an SAE trains, its first weights, and the way back to the activations' own units."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..weights import SAEWeights
from .config import SAETrainConfig

_QUANTILE_ROWS = 2048


@dataclass(frozen=True, eq=False, slots=True)
class Units:
    """What activations are multiplied by for training, so that one learning rate suits every model.

    A typical token then lies sqrt(width) from the mean.
    """

    x: float
    y: float
    """The same for what is reconstructed; equal to `x` but for transcoders."""

    @staticmethod
    def of(x: np.ndarray, y: np.ndarray | None, normalize: bool) -> Units:
        """From samples (n, width)."""
        if not normalize:
            return Units(1.0, 1.0)
        scale = _scale(x)
        return Units(scale, scale if y is None else _scale(y))

    def undone(self, weights: SAEWeights) -> SAEWeights:
        """The same SAE for activations in their own units; its features come out `y` times smaller."""
        ratio, y = np.float32(self.x / self.y), np.float32(self.y)
        extra = {
            name: array * ratio if name == "W_skip" else array if name == "gate_scale" else array / y
            for name, array in weights.extra.items()
        }
        W_enc = weights.W_enc if self.x == self.y else weights.W_enc * ratio
        return SAEWeights(
            W_enc, weights.b_enc / y, weights.W_dec, weights.b_dec / y, weights.subtract_b_dec, extra
        )


def variance(y: np.ndarray) -> float:
    """Mean squared distance from the mean (1 where all rows are equal)."""
    return float(y.astype(np.float64).var(axis=0).sum()) or 1.0


def first_weights(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray | None, d_hidden: int, config: SAETrainConfig
) -> SAEWeights:
    """What training starts from, for activations in `Units`.

    Decoder rows are random directions of norm 1 and b_dec is the mean. An SAE's encoder is the decoder's
    transpose; a transcoder's decoder rows are where the best linear map takes its encoder's directions.
    Architectures with a penalty start with about k active features, from a threshold or a bias.
    """
    directions = rng.standard_normal((d_hidden, x.shape[1]), dtype=np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    b_enc = np.zeros(d_hidden, dtype=np.float32)
    extra: dict[str, np.ndarray] = {}
    if y is None:
        decoder, b_dec = directions, x.mean(axis=0)
    else:
        decoder, b_dec = directions @ _linear_map(x, y), y.mean(axis=0)
        decoder /= np.maximum(np.linalg.norm(decoder, axis=1, keepdims=True), 1e-12)
        b_enc -= directions @ x.mean(axis=0)
        if config.skip:
            extra["W_skip"] = np.zeros((x.shape[1], y.shape[1]), dtype=np.float32)
    if config.architecture in ("jumprelu", "relu", "gated"):
        center = b_enc if y is not None else -directions @ b_dec
        level = np.float32(_level(x[:_QUANTILE_ROWS] @ directions.T + center, config.k / d_hidden))
        if config.architecture == "jumprelu":
            extra["threshold"] = np.full(d_hidden, level, dtype=np.float32)
        else:
            extra |= (
                {"gate_scale": np.ones_like(b_enc), "b_mag": b_enc} if config.architecture == "gated" else {}
            )
            b_enc = b_enc - level
    return SAEWeights(directions.T, b_enc, decoder, b_dec.astype(np.float32), y is None, extra)


def _level(pre: np.ndarray, share: float) -> float:
    """What so many of the pre-activations exceed; at least 0."""
    place = min(pre.size - 1, int((1 - share) * pre.size))
    flat = pre.reshape(-1)
    flat.partition(place)
    return max(0.0, float(flat[place]))


def _scale(sample: np.ndarray) -> float:
    """Brings the typical (median) distance from the mean to sqrt(width); outliers do not count."""
    distances = np.linalg.norm((sample - sample.mean(axis=0)).astype(np.float64), axis=1)
    typical = float(np.median(distances)) or float(distances.mean())
    return math.sqrt(sample.shape[1]) / typical if typical > 0 else 1.0


def _linear_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """float32, (d_model, d_out): the ridge regression of y on x, both around their means."""
    x, y = (a.astype(np.float64) - a.mean(axis=0) for a in (x, y))
    gram = x.T @ x
    ridge = 1e-3 * np.trace(gram) / len(gram) + 1e-12
    return np.linalg.solve(gram + ridge * np.eye(len(gram)), x.T @ y).astype(np.float32)
