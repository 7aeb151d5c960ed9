"""Training of a TopK SAE in MLX, step by step: autograd through the selected features."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

from ...weights import SAEWeights, TrainRecipe
from .decoding import weighted_rows
from .selecting import likely_topk

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
        self._gradients = mx.value_and_grad(self._loss)

    def step(self, x: np.ndarray, lr: float) -> dict[str, float]:
        dead = np.flatnonzero(self._silent > self.recipe.dead_after).astype(np.int32)
        (total, loss, aux, ids, values), grads = self._gradients(self._params, mx.array(x), dead)
        mx.eval(total, loss, aux, ids, values, grads)
        report = {"loss": loss.item(), "aux_loss": aux.item(), "dead": float(len(dead))}
        if math.isfinite(total.item()):
            self._update(grads, lr)
            self._silent += len(x)
            self._silent[np.array(ids)[np.array(values) > 0]] = 0
        return report

    def weights(self) -> SAEWeights:
        p = {name: np.array(value) for name, value in self._params.items()}
        return SAEWeights(p["encoder"].T, p["b_enc"], p["W_dec"], p["b_dec"], self._subtract_b_dec)

    def _loss(self, p: Params, x: mx.array, dead: np.ndarray) -> tuple[mx.array, ...]:
        pre = (x - p["b_dec"] if self._subtract_b_dec else x) @ p["encoder"].T + p["b_enc"]
        ids = likely_topk(mx.stop_gradient(pre), self.recipe.activation.k)
        values = mx.maximum(mx.take_along_axis(pre, ids, axis=-1), 0)
        error = x - weighted_rows(p["W_dec"], ids, values) - p["b_dec"]
        loss = (error**2).sum(axis=-1).mean() / self.recipe.variance
        aux = self._aux_loss(p, pre, error, dead)
        return loss + self.recipe.aux_weight * aux, loss, aux, ids, values

    def _aux_loss(self, p: Params, pre: mx.array, error: mx.array, dead: np.ndarray) -> mx.array:
        """The share of the remaining error that the strongest dead features leave unexplained."""
        if len(dead) == 0 or self.recipe.aux_weight == 0 or self.recipe.aux_k == 0:
            return mx.array(0.0)
        picked = mx.array(dead)
        scores = pre[:, picked]
        if len(dead) > self.recipe.aux_k:
            values = mx.stop_gradient(scores)
            floor = mx.partition(values, len(dead) - self.recipe.aux_k, axis=-1)
            scores = mx.where(values >= floor[:, len(dead) - self.recipe.aux_k, None], scores, 0)
        target = mx.stop_gradient(error)
        spread = ((target - target.mean(axis=0)) ** 2).sum() + 1e-20
        return ((target - mx.maximum(scores, 0) @ p["W_dec"][picked]) ** 2).sum() / spread

    def _update(self, grads: Params, lr: float) -> None:
        rows, g = self._params["W_dec"], grads["W_dec"]
        grads["W_dec"] = g - (g * rows).sum(axis=-1, keepdims=True) * rows  # growth is undone below anyway
        self._adam.learning_rate = lr
        self._params = self._adam.apply_gradients(grads, self._params)
        rows = self._params["W_dec"]
        self._params["W_dec"] = rows / mx.maximum(mx.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
        mx.eval(self._params, self._adam.state)
