"""Training of a TopK SAE in PyTorch, step by step: autograd through the selected features."""

from __future__ import annotations

import math

import numpy as np
import torch

from ...weights import SAEWeights, TrainRecipe
from .decoding import weighted_rows
from .devices import find_device
from .selecting import topk


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
            [self.encoder, self.b_enc, self.W_dec, self.b_dec], lr=0.0, betas=(0.9, 0.999), eps=1e-8
        )
        self._silent = np.zeros(weights.W_enc.shape[1], dtype=np.int64)  # tokens since it last fired

    def step(self, x: np.ndarray, lr: float) -> dict[str, float]:
        dead = np.flatnonzero(self._silent > self.recipe.dead_after)
        with torch.enable_grad():
            loss, aux, ids, values = self._losses(torch.tensor(x, device=self._device), dead)
            total = loss + self.recipe.aux_weight * aux
            report = {"loss": loss.item(), "aux_loss": aux.item(), "dead": float(len(dead))}
            if math.isfinite(total.item()):
                self._adam.zero_grad(set_to_none=True)
                total.backward()
                self._update(lr)
                self._silent += len(x)
                self._silent[ids[values > 0].cpu().numpy()] = 0
        return report

    def weights(self) -> SAEWeights:
        encoder, b_enc, W_dec, b_dec = (
            np.array(p.detach().cpu().numpy()) for p in (self.encoder, self.b_enc, self.W_dec, self.b_dec)
        )
        return SAEWeights(encoder.T, b_enc, W_dec, b_dec, self._subtract_b_dec)

    def _parameter(self, x: np.ndarray) -> torch.nn.Parameter:
        return torch.nn.Parameter(torch.tensor(np.ascontiguousarray(x), device=self._device))

    def _losses(self, x: torch.Tensor, dead: np.ndarray) -> tuple[torch.Tensor, ...]:
        pre = (x - self.b_dec if self._subtract_b_dec else x) @ self.encoder.T + self.b_enc
        ids, _ = topk(pre.detach().clamp(min=0), self.recipe.activation.k)
        values = pre.gather(1, ids).clamp(min=0)
        error = x - weighted_rows(self.W_dec, ids, values) - self.b_dec
        loss = (error**2).sum(-1).mean() / self.recipe.variance
        return loss, self._aux_loss(pre, error.detach(), dead), ids, values

    def _aux_loss(self, pre: torch.Tensor, error: torch.Tensor, dead: np.ndarray) -> torch.Tensor:
        """The share of the remaining error that the strongest dead features leave unexplained."""
        if len(dead) == 0 or self.recipe.aux_weight == 0 or self.recipe.aux_k == 0:
            return pre.new_zeros(())
        picked = torch.tensor(dead, device=pre.device)
        scores = pre[:, picked]
        if len(dead) > self.recipe.aux_k:
            floor = scores.detach().topk(self.recipe.aux_k, dim=-1).values[:, -1:]
            scores = torch.where(scores.detach() >= floor, scores, 0)
        spread = ((error - error.mean(0)) ** 2).sum() + 1e-20
        return ((error - scores.clamp(min=0) @ self.W_dec[picked]) ** 2).sum() / spread

    @torch.no_grad()
    def _update(self, lr: float) -> None:
        rows, g = self.W_dec, self.W_dec.grad
        assert g is not None
        g -= (g * rows).sum(-1, keepdim=True) * rows  # growth is undone below anyway
        for group in self._adam.param_groups:
            group["lr"] = lr
        self._adam.step()
        rows /= rows.norm(dim=-1, keepdim=True).clamp(min=1e-12)
