"""What a frozen pass is asked for: where sources enter, what is read, and along which directions (NumPy only).

In a frozen pass everything that multiplies (attention patterns, denominators of norms, gates) is a constant, recorded
once. What remains is affine in its sources: the stream that enters the first block and the outputs that are replaced
(what transcoders predict). `circuits` makes graphs of it; each wing's `frozen` runs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from .sites import Component

Key = tuple[int, int]
"""(layer, number of the call): where a source enters, or a value is read. A looped model calls a layer again."""
EMBED: Key = (-1, 0)
"""The stream that enters the first block."""
FINAL: Key = (-2, 0)
"""What the final norm puts out; in the last call, where a looped model calls it in each loop."""
LOGITS: Key = (-3, 0)
"""The logits of the last position, before a final soft cap."""
NO_BLOCK: Key = (-6, 0)
"""In place of a layer: attention that is called outside all blocks."""
QUERIES, KEYS = -4, -5
"""In place of a layer: queries and keys of an attention call, its heads side by side."""

Hold = Literal["all", "attention+norms", "attention", "nothing"]
"""What is constant: everything, with the sources in place of the outputs; attention patterns and denominators of norms;
attention patterns alone; nothing. In all but the first the replaced outputs are computed, and changes are added to
them."""


@dataclass(frozen=True, eq=False, slots=True)
class FrozenPlaces:
    """Where the sources of a pass enter and what it reads."""

    embed: Component
    """The stream that enters the first block."""
    outputs: Mapping[int, Component]
    """Layer → what is replaced by a source."""
    inputs: Mapping[int, Component]
    """Layer (or that of `FINAL`, `QUERIES` or `KEYS`) → what is read."""
    skips: Mapping[Key, np.ndarray] = field(default_factory=dict)
    """Layer and call → float32 (d_in, d_out): what is read there times this is added to the source, and stays live."""
    dead: frozenset[str] = frozenset()
    """Native paths of modules that only make an output that is replaced: nothing in them is held."""
    hold: Hold = "all"


@dataclass(frozen=True, eq=False, slots=True)
class ReadAt:
    """A number read from a pass: a direction times a value at one position."""

    key: Key
    position: int
    """Of `LOGITS` always the last."""
    direction: np.ndarray
    """float32, (width,): of what is read; (vocabulary,) for logits."""


@dataclass(frozen=True, eq=False, slots=True)
class SourceVectors:
    """Vectors that a gradient is multiplied with, each at one position of one source."""

    key: Key
    positions: np.ndarray
    """int64, (n,), ascending."""
    vectors: np.ndarray
    """float32, (n, width)."""


@dataclass(frozen=True, eq=False, slots=True)
class Reading:
    """What a frozen pass read, float32."""

    inputs: Mapping[Key, np.ndarray]
    """(rows, positions, width) each."""
    logits: np.ndarray
    """(rows, vocabulary): of the last position, before a final soft cap."""

    def at(self, target: ReadAt, row: int = 0) -> float:
        """The number that `target` asks for, summed in float64."""
        return float(self.all_at([target], row)[0])

    def all_at(self, targets: Sequence[ReadAt], row: int = 0) -> np.ndarray:
        """float64, (targets,): the number that each asks for, summed in float64."""
        found = np.empty(len(targets))
        for key in dict.fromkeys(target.key for target in targets):
            own = [number for number, target in enumerate(targets) if target.key == key]
            directions = np.stack([targets[number].direction for number in own]).astype(np.float64)
            if key == LOGITS:
                found[own] = directions @ self.logits[row].astype(np.float64)
            else:
                values = self.inputs[key][row, [targets[number].position for number in own]]
                found[own] = np.einsum("rd,rd->r", directions, values.astype(np.float64))
        return found
