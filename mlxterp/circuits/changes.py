"""Changes of features as what they add to the sources of a frozen pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from ..core.frozen import Key
from .transcoders import Placed
from .unrolled import Unrolled


class Change(NamedTuple):
    """A feature whose activation changes.

    Attributes:
        row: Of the batch.
        layer, position, feature: Which.
        by: What is added to its activation.
    """

    row: int
    layer: int
    position: int
    feature: int
    by: float


def source_changes(
    order: Unrolled, transcoders: Mapping[int, Placed], changes: Iterable[Change], shape: tuple[int, int]
) -> dict[Key, np.ndarray]:
    """What they add to each layer that they write to: float32, (rows, positions, d_out) each.

    Args:
        shape: Rows and positions.
    """
    found: dict[Key, np.ndarray] = {}
    for change in changes:
        one = transcoders[change.layer]
        for target in one.writes:
            added = one.written(np.array([change.feature]), np.array([change.by]), target)[0]
            place = found.setdefault(order.keys[target], np.zeros((*shape, len(added)), np.float32))
            place[change.row, change.position] += added
    return found
