"""Two batches of texts lined up, token by token: what patching puts from one run into the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.positions import Positions, position_mask
from ..core.sites import Where
from ..core.tokens import TokenBatch
from ..errors import InputError


@dataclass(frozen=True, eq=False, slots=True)
class Pair:
    """Clean and corrupted texts; the first is the counterpart of the first, and so on."""

    clean: TokenBatch
    corrupted: TokenBatch
    chosen: np.ndarray
    """bool, (texts, longest corrupted): the tokens whose activations are patched."""
    source: np.ndarray | None
    """int64, (texts, longest corrupted): the clean position that stands for each; None where it is the same."""

    @staticmethod
    def of(clean: TokenBatch, corrupted: TokenBatch, positions: Positions, by_position: bool) -> Pair:
        """Lines the texts up.

        Args:
            positions: Those to patch; None means all. Negative ones count from each text's own end.
            by_position: Whether each position will be patched by itself: then all texts must be equally long.

        Raises:
            InputError: Different numbers of texts or tokens, or a position outside a text.
        """
        n = len(clean.lengths)
        if n != len(corrupted.lengths):
            raise InputError(
                f"There are {n} clean texts and {len(corrupted.lengths)} corrupted ones; each clean text needs"
                " its corrupted counterpart."
            )
        _check_lengths(clean, corrupted, positions, by_position)
        where = Where.whole(corrupted.ids.shape[1], corrupted.lengths)
        chosen = position_mask(positions, where)
        if chosen is None:
            chosen = where.positions < corrupted.lengths[:, None]
        if not chosen.any(axis=1).all():
            raise InputError(f"positions={positions!r} leaves nothing to patch in a text.")
        source = (
            None if np.array_equal(clean.lengths, corrupted.lengths) else _source(clean, corrupted, positions)
        )
        return Pair(clean, corrupted, chosen, source)

    @property
    def size(self) -> int:
        """Number of pairs of texts."""
        return len(self.corrupted.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest corrupted text."""
        return self.corrupted.ids.shape[1]

    def lined_up(self, values: np.ndarray, axis: int) -> np.ndarray:
        """Clean values whose `axis` runs over positions, at the corrupted texts' positions."""
        if self.source is None:
            return values
        index = self.source.reshape(
            [self.size, *[1] * (axis - 1), self.longest, *[1] * (values.ndim - axis - 1)]
        )
        return np.take_along_axis(values, index, axis)


def _check_lengths(clean: TokenBatch, corrupted: TokenBatch, positions: Positions, by_position: bool) -> None:
    unequal = np.flatnonzero(clean.lengths != corrupted.lengths)
    named = positions is not None and not isinstance(positions, slice)
    if unequal.size and (by_position or not named):
        i = int(unequal[0])
        raise InputError(
            f"Clean text {i} has {clean.lengths[i]} tokens, its corrupted counterpart {corrupted.lengths[i]}, so"
            " their positions do not correspond. Give texts of equally many tokens (model.to_str_tokens shows"
            " them)" + ("." if by_position else ", or patch given ones only: positions=[-1].")
        )
    if by_position and len(set(corrupted.lengths.tolist())) > 1:
        raise InputError(
            f"by='position' needs texts of equally many tokens, got {corrupted.lengths.tolist()}: position 5 of"
            " one text is not position 5 of another. Patch them one by one, or use by='layer'."
        )


def _source(clean: TokenBatch, corrupted: TokenBatch, positions: Any) -> np.ndarray:
    """Where each corrupted position's value comes from, for positions counted in each text."""
    wanted = np.atleast_1d(np.asarray(positions)).astype(np.int64)
    position_mask(positions, Where.whole(clean.ids.shape[1], clean.lengths))  # refuses what lies outside
    source = np.zeros(corrupted.ids.shape, dtype=np.int64)
    for i, (there, here) in enumerate(zip(clean.lengths, corrupted.lengths, strict=True)):
        source[i, wanted % here] = wanted % there
    return source
