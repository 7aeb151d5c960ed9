"""Directions tested by sets of tokens: scores, and p by random directions and by shuffled tokens. `enrichment` asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..core.controls import draw_seed, random_like
from ..lens.feature_logits import direction_logits
from ..sae import SAE
from .running_sum import ranked, running_sum_scores, shuffled_scores, significance
from .token_sets import TokenSets

Null = Literal["directions", "tokens"]
NULLS: tuple[Null, ...] = ("directions", "tokens")
Tested = tuple[np.ndarray, np.ndarray]
"""Normalised scores and p, float64 (n, sets)."""


@dataclass(frozen=True, eq=False, slots=True)
class SetTest:
    """Scores of directions by sets of tokens, and by two nulls what they are worth.

    Attributes:
        anatomy: The model.
        sae: Where the directions belong.
        sets: The sets.
        weight: Exponent of |logit|.
        component: What the SAE reconstructs; None takes what its metadata says.
        seed: Of the first draw.
    """

    anatomy: Anatomy
    sae: SAE
    sets: TokenSets
    weight: float
    component: str | None
    seed: int

    def random_rows(self, n: int) -> np.ndarray:
        """n random directions with the covariance of the decoder's rows that are not zero."""
        alive = self.sae.W_dec[self.sae.W_dec.any(axis=1)]
        draws = -(-n // len(alive))
        return np.concatenate([random_like(alive, seed=draw_seed(self.seed, i)) for i in range(draws)])[:n]

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Score of each set by each direction, (n, sets)."""
        return np.concatenate([self._scores(logits) for logits in self._logits(rows)])

    def run(
        self, rows: np.ndarray, chance: np.ndarray | None, shuffles: int
    ) -> tuple[np.ndarray, dict[Null, Tested]]:
        """Scores (n, sets) of directions, and by each null the normalised scores and p.

        Args:
            chance: Scores of random directions; None leaves that null out.
            shuffles: Random sets of tokens; 0 leaves that null out.
        """
        scores: list[np.ndarray] = []
        found: dict[Null, list[Tested]] = {}
        for logits in self._logits(rows):
            scores.append(es := self._scores(logits))
            if chance is not None:
                columns = [significance(es[:, j], chance[:, j]) for j in range(len(self.sets))]
                found.setdefault("directions", []).append(_side_by_side(columns))
            if shuffles:
                found.setdefault("tokens", []).append(self._by_tokens(logits, es, shuffles))
        return np.concatenate(scores), {null: _below(parts) for null, parts in found.items()}

    def _by_tokens(self, logits: np.ndarray, es: np.ndarray, shuffles: int) -> Tested:
        _, weights = ranked(logits, self.weight)
        sizes = [len(ids) for ids in self.sets.values()]
        drawn = {size: shuffled_scores(weights, size, shuffles, self.seed) for size in sizes}
        return _side_by_side([significance(es[:, j], drawn[size]) for j, size in enumerate(sizes)])

    def _scores(self, logits: np.ndarray) -> np.ndarray:
        return running_sum_scores(logits, list(self.sets.values()), self.weight)

    def _logits(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Chunk by chunk: logits of the tokens that the tokenizer knows."""
        for logits, _ in direction_logits(self.anatomy, self.sae, rows, self.component):
            yield logits[:, : len(self.sets.texts)]


def _side_by_side(columns: Sequence[Tested]) -> Tested:
    nes, p = (np.stack(part, axis=1) for part in zip(*columns, strict=True))
    return nes, p


def _below(parts: Sequence[Tested]) -> Tested:
    nes, p = (np.concatenate(part) for part in zip(*parts, strict=True))
    return nes, p
