"""Training of a TopK SAE in MLX, step by step, with gradients of the active features only."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

from ...weights import SAEWeights, TrainRecipe
from . import backward, decoding, encoding

Params = dict[str, mx.array]


class MLXTrainState:
    """`TrainState` for MLX. Decoder rows keep unit norm; dead features get an error of their own."""

    def __init__(self, weights: SAEWeights, recipe: TrainRecipe):
        self.recipe = recipe
        self._subtract_b_dec = weights.subtract_b_dec
        self._params: Params = {
            "encoder": mx.array(np.ascontiguousarray(weights.W_enc.T)),  # (d_hidden, d_model)
            "b_enc": mx.array(weights.b_enc),
            "W_dec": mx.array(weights.W_dec),
            "b_dec": mx.array(weights.b_dec),
        }
        self._adam = optim.Adam(0.0, betas=[0.9, 0.999], eps=1e-8, bias_correction=True)
        self._silent = np.zeros(weights.W_enc.shape[1], dtype=np.int64)  # tokens since it last fired

    def step(self, x: np.ndarray, lr: float) -> dict[str, float]:
        dead = np.flatnonzero(self._silent > self.recipe.dead_after).astype(np.int32)
        weights, batch = self._native(), mx.array(x)
        ids, values = encoding.encode(batch, weights, self.recipe.activation)
        error = batch - decoding.decode(ids, values, weights)
        loss = (error**2).sum(axis=-1).mean() / self.recipe.variance
        slope = error * (-2 / (len(x) * self.recipe.variance))
        grads = backward.backward(batch, ids, values, weights, slope)
        aux, grads = self._with_aux(batch, weights, error, dead, grads)
        mx.eval(loss, aux, *grads.arrays().values())
        report = {"loss": loss.item(), "aux_loss": aux.item(), "dead": float(len(dead))}
        if math.isfinite(report["loss"]) and math.isfinite(report["aux_loss"]):
            self._update(
                {"encoder": grads.W_enc.T, "b_enc": grads.b_enc, "W_dec": grads.W_dec, "b_dec": grads.b_dec},
                lr,
            )
            self._silent += len(x)
            self._silent[np.array(ids)[np.array(values) > 0]] = 0
        return report

    def weights(self) -> SAEWeights:
        p = {name: np.array(value) for name, value in self._params.items()}
        return SAEWeights(p["encoder"].T, p["b_enc"], p["W_dec"], p["b_dec"], self._subtract_b_dec)

    def _native(self) -> SAEWeights:
        p = self._params
        return SAEWeights(p["encoder"].T, p["b_enc"], p["W_dec"], p["b_dec"], self._subtract_b_dec)

    def _with_aux(
        self, x: mx.array, weights: SAEWeights, error: mx.array, dead: np.ndarray, grads: SAEWeights
    ) -> tuple[mx.array, SAEWeights]:
        """The share of the remaining error that the strongest dead features leave unexplained, and the
        gradients with its own added."""
        if len(dead) == 0 or self.recipe.aux_weight == 0 or self.recipe.aux_k == 0:
            return mx.array(0.0), grads
        picked = mx.array(dead)
        encoder, decoder = self._params["encoder"][picked], weights.W_dec[picked]
        inside = x - weights.b_dec if self._subtract_b_dec else x
        scores = inside @ encoder.T + weights.b_enc[picked]
        cut = len(dead) - self.recipe.aux_k
        if cut > 0:
            floor = mx.partition(scores, cut, axis=-1)[:, cut, None]
            scores = mx.where(scores >= floor, scores, 0)
        features = mx.maximum(scores, 0)
        rest = error - features @ decoder
        spread = ((error - error.mean(axis=0)) ** 2).sum() + 1e-20
        slope = rest * (-2 * self.recipe.aux_weight / spread)
        into = mx.where(features > 0, slope @ decoder.T, 0)
        sums = into.sum(axis=0)
        b_dec = grads.b_dec - sums @ encoder if self._subtract_b_dec else grads.b_dec
        return (rest**2).sum() / spread, SAEWeights(
            grads.W_enc.T.at[picked].add(into.T @ inside).T,
            grads.b_enc.at[picked].add(sums),
            grads.W_dec.at[picked].add(features.T @ slope),
            b_dec,
            self._subtract_b_dec,
        )

    def _update(self, grads: Params, lr: float) -> None:
        rows, g = self._params["W_dec"], grads["W_dec"]
        grads["W_dec"] = g - (g * rows).sum(axis=-1, keepdims=True) * rows  # growth is undone below anyway
        self._adam.learning_rate = lr
        self._params = self._adam.apply_gradients(grads, self._params)
        rows = self._params["W_dec"]
        self._params["W_dec"] = rows / mx.maximum(mx.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
        mx.eval(self._params, self._adam.state)
