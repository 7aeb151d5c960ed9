"""Nearest rows by cosine: exact, and never rows x rows of cosines at once.

Maps, splitting, universality and co-activation ask it. The tiles are multiplied in float32; what may be among the k
nearest is compared again in float64, and rows whose k-th and next neighbour float32 cannot tell apart are computed
whole, so that the answer is that of float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core import checks
from ..core.controls import matrix
from ..core.options import names_options
from ..errors import InputError
from ..sae.directions import unit_rows

_CELLS = 1 << 24
"""Cosines that are held at once."""
_IN_CACHE = 1 << 18
"""Numbers that are gathered at once."""
_WIDE = 4096
"""Rows of `among` in a tile."""
_FIRST = 256
"""Columns that are sorted into a row's neighbours before the others are compared with the worst of these."""
_SPARE = 8
"""Neighbours kept in float32 beyond those asked for."""
_DIGITS = 12
"""Cosines that agree so far are equal, and the lower id comes first."""


@dataclass(frozen=True, eq=False, slots=True)
class Neighbours:
    """The k nearest of each of n rows, the most alike first, then the lower id.

    Attributes:
        ids: int64, (n, k): row numbers in `among`; -1 where there are fewer, and for rows of zeros.
        cosines: float64, (n, k): their cosines; NaN there.
    """

    ids: np.ndarray
    cosines: np.ndarray


@names_options
def cosine_neighbours(rows: Any, among: Any = None, k: int = 15) -> Neighbours:
    """The k rows of `among` with the largest cosines to each row, exactly.

    A row of zeros has no direction: it has no neighbours and is nobody's. Memory is that of the rows and of one tile.

    Args:
        rows: (n, width): directions, such as `sae.W_dec`.
        among: (m, width); None looks among the rows themselves, each of which leaves itself out.
        k: At most as many as there are to choose from.

    Raises:
        InputError: They are no finite matrices of one width, or there are fewer rows than neighbours.

    Examples:
        >>> from mlxterp.geometry import cosine_neighbours
        >>> found = cosine_neighbours(sae.W_dec, k=3)
        >>> found.ids.shape, found.ids[ball].tolist()  # as sae.similar(ball, top_k=3)
        ((2048, 3), [691, 986, 972])
    """
    given = matrix(rows, "rows")
    own = among is None
    others = given if own else matrix(among, "among")
    k = checks.count(k, "k")
    if given.shape[1] != others.shape[1]:
        raise InputError(f"rows have width {given.shape[1]}, among has {others.shape[1]}: no cosines exist.")
    if k > len(others) - own:
        raise InputError(
            f"{k} neighbours were asked for; there are {len(others) - own} other rows. Ask for fewer."
        )
    return _Search(given, others, k, own).answer()


class _Search:
    """One search: unit rows in float32, and of each the best `kept` so far."""

    def __init__(self, rows: np.ndarray, others: np.ndarray, k: int, own: bool):
        self.k, self.own, self.width = k, own, rows.shape[1]
        self.rows, self.row_lives = _unit32(rows)
        self.others, self.lives = (self.rows, self.row_lives) if own else _unit32(others)
        self.given, self.among = rows, others
        self.lengths = np.linalg.norm(others.astype(np.float64), axis=1)
        self.kept = min(k + _SPARE, len(others))
        self.ids = np.full((len(rows), self.kept), -1, dtype=np.int64)
        self.best = np.full((len(rows), self.kept), -np.inf, dtype=np.float32)

    def answer(self) -> Neighbours:
        columns = min(_WIDE, len(self.others))
        step = max(1, _CELLS // columns)
        for start in range(0, len(self.rows), step):
            block = slice(start, min(start + step, len(self.rows)))
            for first in range(0, len(self.others), columns):
                self._tile(block, first, columns)
        ids, cosines = self._refined(np.arange(len(self.rows)), self.ids)
        unsure = self._unsure(cosines)
        for part in np.array_split(unsure, max(1, -(-len(unsure) * len(self.others) // _CELLS))):
            if len(part):
                ids[part], cosines[part] = self._whole(part)
        return Neighbours(ids[:, : self.k], cosines[:, : self.k])

    def _tile(self, block: slice, first: int, columns: int) -> None:
        """Merges what a tile has that exceeds each row's worst so far."""
        cosines = self.rows[block] @ self.others[first : first + columns].T
        cosines[:, ~self.lives[first : first + columns]] = -np.inf
        if self.own:
            at = np.arange(max(block.start, first), min(block.stop, first + cosines.shape[1]))
            cosines[at - block.start, at - first] = -np.inf
        if first == 0:  # a few columns say what is worth looking at in the others
            self._merge(block, cosines[:, :_FIRST], 0)
            cosines, first = cosines[:, _FIRST:], _FIRST
        self._merge(block, cosines, first)

    def _merge(self, block: slice, cosines: np.ndarray, first: int) -> None:
        best, ids = self.best[block], self.ids[block]
        above = np.flatnonzero(cosines > best.min(axis=1)[:, None])
        if not len(above):
            return
        row, column = np.divmod(above, cosines.shape[1])
        touched, place, counts = np.unique(row, return_inverse=True, return_counts=True)
        slot = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        more = np.full((len(touched), int(counts.max())), -np.inf, dtype=np.float32)
        named = np.full(more.shape, -1, dtype=np.int64)
        more[place, slot], named[place, slot] = cosines[row, column], column + first
        more, named = np.hstack([best[touched], more]), np.hstack([ids[touched], named])
        chosen = np.argpartition(-more, self.kept - 1, axis=1)[:, : self.kept]
        best[touched] = np.take_along_axis(more, chosen, axis=1)
        ids[touched] = np.take_along_axis(named, chosen, axis=1)

    def _refined(self, rows: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids and float64 cosines of candidates (len(rows), c), sorted."""
        cosines = np.full(ids.shape, np.nan)
        step = max(1, _IN_CACHE // (self.width * ids.shape[1]))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            own = self.given[rows[part]].astype(np.float64)
            others = self.among[ids[part]].astype(np.float64)
            products = np.einsum("ncd,nd->nc", others, own)
            lengths = np.linalg.norm(own, axis=1)[:, None] * self.lengths[ids[part]]
            np.divide(products, lengths, out=cosines[part], where=(lengths > 0) & (ids[part] >= 0))
        return _sorted(np.where(np.isnan(cosines), -1, ids), cosines)

    def _unsure(self, cosines: np.ndarray) -> np.ndarray:
        """Rows whose k-th neighbour is not, beyond float32's rounding, above whatever was not kept."""
        if self.kept == len(self.others):
            return np.zeros(0, dtype=np.int64)
        worst, rounding = self.best.min(axis=1), self.width * 2.0**-23
        sure = (cosines[:, self.k - 1] > worst + rounding) | ~self.row_lives | np.isneginf(worst)
        return np.flatnonzero(~sure)

    def _whole(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same for rows, with every cosine in float64."""
        own, cosines = unit_rows(self.given[rows]), np.empty((len(rows), len(self.others)))
        step = max(1, _CELLS // self.width)
        for start in range(0, len(self.others), step):
            cosines[:, start : start + step] = own @ unit_rows(self.among[start : start + step]).T
        cosines[:, ~self.lives] = np.nan
        if self.own:
            cosines[np.arange(len(rows)), rows] = np.nan
        ids = np.where(np.isnan(cosines), -1, np.arange(len(self.others)))
        ids, cosines = _sorted(ids, cosines)
        return ids[:, : self.kept], cosines[:, : self.kept]


def _unit32(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 rows of norm 1, and which of them have a direction."""
    found, step = np.empty(rows.shape, dtype=np.float32), max(1, _CELLS // rows.shape[1])
    for start in range(0, len(rows), step):
        found[start : start + step] = unit_rows(rows[start : start + step])
    return found, np.asarray(rows.any(axis=1))


def _sorted(ids: np.ndarray, cosines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By falling cosine, then rising id; NaN last."""
    order = np.lexsort((ids, -np.round(cosines, _DIGITS)), axis=1)
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(cosines, order, axis=1)
