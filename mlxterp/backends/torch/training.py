"""Training of a TopK SAE in PyTorch, step by step, with gradients of the active features only."""

from __future__ import annotations

import math

import numpy as np
import torch

from ...weights import SAEWeights, TrainRecipe
from . import backward, decoding, encoding
from .devices import find_device


class TorchTrainState:
    """`TrainState` for PyTorch. Decoder rows keep unit norm; dead features get an error of their own."""

    def __init__(self, weights: SAEWeights, recipe: TrainRecipe, device: str | None = None):
        self.recipe = recipe
        self._subtract_b_dec = weights.subtract_b_dec
        self._device = find_device(device)
        self.encoder = self._parameter(weights.W_enc.T)  # (d_hidden, d_model)
        self.b_enc = self._parameter(weights.b_enc)
        self.W_dec = self._parameter(weights.W_dec)
        self.b_dec = self._parameter(weights.b_dec)
        self._adam = torch.optim.Adam(
            [self.encoder, self.b_enc, self.W_dec, self.b_dec],
            lr=0.0,
            betas=(0.9, 0.999),
            eps=1e-8,
            fused=self._device.type != "mps",
        )
        self._silent = np.zeros(weights.W_enc.shape[1], dtype=np.int64)  # tokens since it last fired

    @torch.no_grad()
    def step(self, x: np.ndarray, lr: float) -> dict[str, float]:
        dead = np.flatnonzero(self._silent > self.recipe.dead_after)
        weights, batch = self._native(), torch.tensor(x, device=self._device)
        ids, values = encoding.encode(batch, weights, self.recipe.activation)
        error = batch - decoding.decode(ids, values, weights)
        loss = (error**2).sum(-1).mean() / self.recipe.variance
        slope = error * (-2 / (len(x) * self.recipe.variance))
        grads = backward.backward(batch, ids, values, weights, slope)
        aux = self._add_aux(batch, weights, error, dead, grads)
        report = {"loss": loss.item(), "aux_loss": aux.item(), "dead": float(len(dead))}
        if math.isfinite(report["loss"]) and math.isfinite(report["aux_loss"]):
            self._update(grads, lr)
            self._silent += len(x)
            self._silent[ids[values > 0].cpu().numpy()] = 0
        return report

    def weights(self) -> SAEWeights:
        encoder, b_enc, W_dec, b_dec = (
            np.array(p.detach().cpu().numpy()) for p in (self.encoder, self.b_enc, self.W_dec, self.b_dec)
        )
        return SAEWeights(encoder.T, b_enc, W_dec, b_dec, self._subtract_b_dec)

    def _native(self) -> SAEWeights:
        return SAEWeights(
            self.encoder.data.T, self.b_enc.data, self.W_dec.data, self.b_dec.data, self._subtract_b_dec
        )

    def _parameter(self, x: np.ndarray) -> torch.nn.Parameter:
        return torch.nn.Parameter(torch.tensor(np.ascontiguousarray(x), device=self._device))

    def _add_aux(
        self, x: torch.Tensor, weights: SAEWeights, error: torch.Tensor, dead: np.ndarray, grads: SAEWeights
    ) -> torch.Tensor:
        """The share of the remaining error that the strongest dead features leave unexplained; its gradients
        are added to `grads`."""
        if len(dead) == 0 or self.recipe.aux_weight == 0 or self.recipe.aux_k == 0:
            return error.new_zeros(())
        picked = torch.tensor(dead, device=error.device)
        encoder, decoder = self.encoder.data[picked], weights.W_dec[picked]
        inside = x - weights.b_dec if self._subtract_b_dec else x
        scores = inside @ encoder.T + weights.b_enc[picked]
        if len(dead) > self.recipe.aux_k:
            floor = scores.topk(self.recipe.aux_k, dim=-1).values[:, -1:]
            scores = torch.where(scores >= floor, scores, 0.0)
        features = scores.relu()
        rest = error - features @ decoder
        spread = ((error - error.mean(0)) ** 2).sum() + 1e-20
        slope = rest * (-2 * self.recipe.aux_weight / spread)
        into = torch.where(features > 0, slope @ decoder.T, 0.0)
        grads.W_enc.T.index_add_(0, picked, into.T @ inside)
        grads.b_enc.index_add_(0, picked, into.sum(0))
        grads.W_dec.index_add_(0, picked, features.T @ slope)
        if self._subtract_b_dec:
            grads.b_dec.sub_(into.sum(0) @ encoder)
        return (rest**2).sum() / spread

    @torch.no_grad()
    def _update(self, grads: SAEWeights, lr: float) -> None:
        rows, g = self.W_dec.data, grads.W_dec
        g -= (g * rows).sum(-1, keepdim=True) * rows  # growth is undone below anyway
        self.encoder.grad, self.b_enc.grad, self.W_dec.grad, self.b_dec.grad = (
            grads.W_enc.T, grads.b_enc, g, grads.b_dec,
        )  # fmt: skip
        for group in self._adam.param_groups:
            group["lr"] = lr
        self._adam.step()
        rows /= rows.norm(dim=-1, keepdim=True).clamp(min=1e-12)
