"""What a graph predicts and what the model does: effects of features, with more or less of the model held constant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..backends.frozen import FrozenPass
from ..core.frozen import FINAL, Hold, Key, ReadAt, Reading
from .changes import Change, source_changes
from .replacement import Replacement
from .transcoders import frozen_places

_TOKENS = 2048
"""Tokens of one batch, about."""


@dataclass(eq=False, slots=True)
class Live:
    """The model and the prompt of a graph that was made here.

    Attributes:
        anatomy: The model's components.
        ids: Token ids of the prompt.
        made: The prompt in the replacement model.
        reads: What the outputs are read along.
    """

    anatomy: Anatomy
    ids: list[int]
    made: Replacement
    reads: Sequence[ReadAt]
    _passes: dict[str, FrozenPass] = field(default_factory=dict)

    def frozen(self, hold: Hold) -> FrozenPass:
        """The pass with so much held; recorded once."""
        if hold == "all":
            return self.made.frozen
        if hold not in self._passes:
            final = FINAL in self.made.frozen.base.inputs
            places = frozen_places(self.anatomy, self.made.order, self.made.transcoders, hold, final=final)
            self._passes[hold] = self.anatomy.model.frozen_pass(self.ids, places)
        return self._passes[hold]

    def effects(self, groups: Sequence[Sequence[int]], factor: float, hold: Hold) -> np.ndarray:
        """float64, (groups, outputs): how outputs change where the features of one group at a time are changed.

        Args:
            groups: Rows of `made.features`, of each group.
            factor: What is added of each, as a multiple of its activation: -1 takes it away.
        """
        frozen, size = self.frozen(hold), max(1, _TOKENS // len(self.ids))
        before = self._outputs(frozen.base)[0]
        found = [
            self._outputs(frozen.read(self._changes(groups[start : start + size], factor))) - before
            for start in range(0, len(groups), size)
        ]
        return np.concatenate(found)

    def _changes(self, groups: Sequence[Sequence[int]], factor: float) -> dict[Key, np.ndarray]:
        """What is added to the sources: a row for each group."""
        places = [(row, number) for row, numbers in enumerate(groups) for number in numbers]
        added = [
            Change(row, layer, position, feature, factor * float(self.made.activations[number]))
            for row, number in places
            for layer, position, feature in [self.made.features[number].tolist()]
        ]
        return source_changes(self.made.order, self.made.transcoders, added, (len(groups), len(self.ids)))

    def _outputs(self, reading: Reading) -> np.ndarray:
        """float64, (rows, outputs)."""
        return np.array(
            [[reading.at(read, row) for read in self.reads] for row in range(len(reading.logits))]
        )


def total_effects(matrix: np.ndarray, activations: np.ndarray, n: int) -> np.ndarray:
    """float64, (outputs, features): what each feature does to the outputs by all paths, to first order.

    A change of a feature's input changes its activation by as much: everything it writes grows in proportion.

    Args:
        matrix: (features + outputs, sources), of which the first n of each are features.
        activations: (n,).
    """
    inner = matrix[:n, :n].astype(np.float64) / activations[:, None]
    current = matrix[n:, :n].astype(np.float64)
    total = current.copy()
    for _ in range(1000):
        current = current @ inner
        if not current.any():
            return total
        total += current
    raise ValueError("its features form a circle, so no source comes before the others")
