"""Edits of one SAE's features, folded: what happens to their activations before the change is decoded.

Edits that act on the same tokens and are affine become one `Phase`: c → factor·c + plus + (rows + lengths·‖h‖)/scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .checks import SteeringPositions
from .conditions import Condition
from .protocols import FeatureChange


@dataclass(eq=False, slots=True)
class Phase:
    """Edits of some features that act on the same tokens, one after the other."""

    positions: SteeringPositions
    when: Condition | None
    factor: np.ndarray
    """float32, (features,)."""
    plus: np.ndarray
    """float32, (features,): in the SAE's own scale."""
    rows: np.ndarray
    """float32, (features,): multiples of the decoder rows."""
    lengths: np.ndarray
    """float32, (features,): multiples of the decoder rows, for each unit of the activation's length."""
    floor: np.ndarray | None = None
    """float32, (features,): what activations are raised to; -inf leaves them. Nothing else happens then."""

    @staticmethod
    def nothing(edit: FeatureChange, n: int, floor: np.ndarray | None) -> Phase:
        """A phase on the tokens of an edit that does nothing yet to n features."""
        plus, rows, lengths = np.zeros((3, n), dtype=np.float32)
        return Phase(edit.positions, edit.when, np.ones(n, dtype=np.float32), plus, rows, lengths, floor)

    def constant(self, rows: np.ndarray) -> np.ndarray | None:
        """float32, (width,): what it adds to every token, where it does only that.

        Args:
            rows: Decoder rows (features, width).
        """
        is_constant = (
            self.positions in (None, "all")
            and self.when is None
            and self.floor is None
            and not self.plus.any()
            and not self.lengths.any()
            and (self.factor == 1).all()
        )
        return self.rows @ rows if is_constant else None

    def add(self, edit: FeatureChange, column: int, row: np.ndarray) -> None:
        """Lets one more affine edit follow."""
        if edit.kind == "add":
            self.rows[column] += edit.number
        elif edit.kind == "add_norm":
            self.lengths[column] += edit.number / np.linalg.norm(row.astype(np.float64))
        else:
            kept = edit.number if edit.kind == "amplify" else 0.0
            for part in (self.factor, self.plus, self.rows, self.lengths):
                part[column] *= kept
            self.plus[column] += edit.number if edit.kind == "clamp" else 0.0


def phases_of(edits: Sequence[FeatureChange], ids: np.ndarray, rows: np.ndarray) -> list[Phase]:
    """The edits as phases, in order.

    Args:
        ids: int64, (features,): ascending.
        rows: Decoder rows (features, width).
    """
    found: list[Phase] = []
    for edit in edits:
        column = int(np.searchsorted(ids, edit.feature))
        floor = None
        if edit.kind == "at_least":
            floor = np.full(len(ids), -np.inf, dtype=np.float32)
            floor[column] = edit.number
        last = found[-1] if found else None
        if last is None or floor is not None or last.floor is not None or not _same_tokens(last, edit):
            found.append(Phase.nothing(edit, len(ids), floor))
        if floor is None:
            found[-1].add(edit, column, rows[column])
    return found


def _same_tokens(phase: Phase, edit: FeatureChange) -> bool:
    one, other = phase.positions, edit.positions
    plain = type(one) is type(other) and isinstance(one, (int, str, slice, tuple)) and one == other
    return (one is other or plain) and phase.when is edit.when
