"""`TrainState`: an SAE in training, one step after the other, in either array library."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..backends.base import Backend
from ..core.sites import Array
from ..weights import SAEWeights
from .config import TrainRecipe
from .losses import Batch, Outcome, forward_and_backward, sum_of_squares

_FIRST_PRICE = 0.03
_PRICE_RATE = 0.02
"""How fast the price of an active feature follows the number of them."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step saw, before it changed the weights."""

    loss: float
    """Squared error of the reconstruction / variance: the share that is not explained."""
    penalty: float
    """What the architecture's loss has beside it."""
    aux_loss: float
    """The share of the remaining error that dead features leave too."""
    l0: float
    """Active features of a token, on average."""
    dead: int
    """Dead features."""

    @property
    def finite(self) -> bool:
        """Whether the step was taken."""
        return all(math.isfinite(value) for value in (self.loss, self.penalty, self.aux_loss))


class TrainState:
    """Weights, optimiser, and what is known of dead features; everything that the next step depends on.

    Args:
        weights: NumPy; decoder rows of norm 1.
    """

    def __init__(self, backend: Backend, weights: SAEWeights, recipe: TrainRecipe, device: str | None = None):
        self.recipe, self.backend, self.group = recipe, backend, backend.group()
        self._optimizer = backend.optimizer(weights, device)
        self._silent = np.zeros(weights.W_enc.shape[1], dtype=np.int64)  # tokens since it last fired
        first = 1.0 if recipe.architecture == "jumprelu" else _FIRST_PRICE
        self._price: float = first if recipe.sparsity is None else recipe.sparsity
        self.level = 0.0
        """batchtopk: what the last batch's weakest active feature had."""

    def step(self, x: np.ndarray, lr: float, y: np.ndarray | None = None) -> StepReport:
        """One update on x (batch, d_model) float32; y is what to reconstruct, where it is not x.

        In a group, x is this process's share of the batch. Nothing changes where a loss is not finite.
        """
        weights = self._optimizer.weights
        native = self.backend.put(x, like=weights.b_enc)
        target = native if y is None else self.backend.put(y, like=weights.b_enc)
        tokens = int(self._total(len(x)))
        batch = Batch(
            self.backend, self.group, self.recipe, weights, native, target, tokens, self._price, self.level
        )  # fmt: skip
        outcome = forward_and_backward(batch)
        squares = self._total(sum_of_squares(outcome.error))
        dead = np.flatnonzero(self._silent > self.recipe.dead_after)
        aux, gradients = self._with_auxiliary(batch, outcome, squares, dead)
        pairs = int(self._total(len(outcome.fired)))
        report = StepReport(
            squares * batch.scale, self._total(outcome.penalty), aux, pairs / tokens, len(dead)
        )
        if report.finite:
            self._optimizer.update(self._summed(gradients), lr)
            self._silent += tokens
            self._silent[self._fired(outcome.fired)] = 0
            self.level = outcome.level
            self._follow(report.l0)
        return report

    def weights(self) -> SAEWeights:
        """A NumPy copy of the weights as they are now."""
        return self._optimizer.weights.map(lambda array: np.array(self.backend.get(array)))

    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next steps depend on, as copies."""
        own = {"silent": self._silent.copy(), "price": np.array(self._price), "level": np.array(self.level)}
        return own | {f"optimizer.{name}": array for name, array in self._optimizer.state().items()}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes on from what `state` gave."""
        self._silent = np.array(state["silent"])
        self._price, self.level = float(state["price"]), float(state["level"])
        mark = "optimizer."
        self._optimizer.load({k.removeprefix(mark): v for k, v in state.items() if k.startswith(mark)})

    def _with_auxiliary(
        self, batch: Batch, outcome: Outcome, squares: float, dead: np.ndarray
    ) -> tuple[float, SAEWeights]:
        recipe = self.recipe
        if not len(dead) or not recipe.aux_weight or not recipe.aux_k or not math.isfinite(squares):
            return 0.0, outcome.gradients
        [total] = self.group.sum([outcome.error.sum(0)])
        mean = self.backend.get(total).astype(np.float64) / batch.tokens
        spread = squares - batch.tokens * float(mean @ mean) + 1e-20
        rest, gradients = self.backend.add_auxiliary(
            outcome.gradients, batch.x, outcome.error, batch.weights, dead, recipe.aux_k,
            recipe.aux_weight / spread,
        )  # fmt: skip
        return self._total(float(rest)) / spread, gradients

    def _follow(self, l0: float) -> None:
        """Without a price of one's own, active features get dearer while there are more than k."""
        if self.recipe.sparsity is None and self.recipe.architecture in ("relu", "gated"):
            self._price *= math.exp(
                _PRICE_RATE * max(-1.0, min(1.0, math.log(max(l0, 1e-3) / self.recipe.k)))
            )

    def _summed(self, gradients: SAEWeights) -> SAEWeights:
        if self.group.size == 1:
            return gradients
        names = list(gradients.arrays())
        arrays = dict(zip(names, self.group.sum(list(gradients.arrays().values())), strict=True))
        return _replaced(gradients, arrays)

    def _total(self, number: float) -> float:
        """Over all processes."""
        if self.group.size == 1:
            return number
        like = self._optimizer.weights.b_enc
        [total] = self.group.sum([self.backend.put(np.array([number], dtype=np.float32), like=like)])
        return float(total[0])

    def _fired(self, ids: np.ndarray) -> np.ndarray:
        """Which features fired anywhere, (d_hidden,)."""
        fired = np.zeros(len(self._silent), dtype=np.float32)
        fired[ids] = 1
        if self.group.size > 1:
            like: Array = self._optimizer.weights.b_enc
            [total] = self.group.sum([self.backend.put(fired, like=like)])
            fired = self.backend.get(total)
        return fired > 0


def _replaced(weights: SAEWeights, arrays: Mapping[str, Array]) -> SAEWeights:
    return SAEWeights(
        arrays["W_enc"], arrays["b_enc"], arrays["W_dec"], arrays["b_dec"], weights.subtract_b_dec,
        {name: arrays[name] for name in weights.extra},
    )  # fmt: skip
