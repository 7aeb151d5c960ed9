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
"""Rows of a tile's sides."""
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
        side = min(_WIDE, max(1, int(_CELLS**0.5)))
        for block in _blocks(len(self.rows), side):
            self._begin(block)
        for block in _blocks(len(self.rows), side):
            for tile in _blocks(len(self.others), side):
                if not self.own:
                    self._merge(block, self._cosines(block, tile), tile)
                elif tile.start >= block.start:  # the other half of the products is the same
                    self._both(block, tile)
        ids, cosines = self._refined(np.arange(len(self.rows)), self.ids)
        unsure = self._unsure(cosines)
        for part in np.array_split(unsure, max(1, -(-len(unsure) * len(self.others) // _CELLS))):
            if len(part):
                ids[part], cosines[part] = self._whole(part)
        return Neighbours(ids[:, : self.k], cosines[:, : self.k])

    def _begin(self, block: slice) -> None:
        """Beside a few columns, which say what is worth looking at in the others."""
        few = slice(0, min(_FIRST, len(self.others)))
        cosines = self._cosines(block, few)
        above = np.flatnonzero(np.isfinite(cosines))
        row, column = np.divmod(above, cosines.shape[1])
        self._add(block, row, column, cosines.ravel()[above])

    def _cosines(self, block: slice, tile: slice) -> np.ndarray:
        """Of a block of rows and of some of the others; -inf where one has no direction, or is the other."""
        cosines = self.rows[block] @ self.others[tile].T
        cosines[:, ~self.lives[tile]] = -np.inf
        cosines[~self.row_lives[block]] = -np.inf
        if self.own:
            at = np.arange(max(block.start, tile.start), min(block.stop, tile.stop))
            cosines[at - block.start, at - tile.start] = -np.inf
        return cosines

    def _both(self, block: slice, tile: slice) -> None:
        """A tile of the rows among themselves: for the rows of the block and, off the diagonal, those of the tile."""
        cosines = self._cosines(block, tile)
        self._merge(block, cosines, tile)
        if tile.start > block.start:
            skipped = max(0, min(_FIRST, block.stop) - block.start)
            cosines = cosines[skipped:]
            above = np.flatnonzero(cosines > self.best[tile].min(axis=1))
            column, row = np.divmod(above, cosines.shape[1])
            order = np.argsort(row, kind="stable")
            self._add(tile, row[order], column[order] + block.start + skipped, cosines.ravel()[above[order]])

    def _merge(self, block: slice, cosines: np.ndarray, tile: slice) -> None:
        """What a tile has that exceeds each row's worst so far; the first columns are known."""
        skipped = max(0, min(_FIRST, tile.stop) - tile.start)
        above = np.flatnonzero(cosines[:, skipped:] > self.best[block].min(axis=1)[:, None])
        row, column = np.divmod(above, cosines.shape[1] - skipped) if len(above) else (above, above)
        self._add(block, row, column + tile.start + skipped, cosines[row, column + skipped])

    def _add(self, block: slice, row: np.ndarray, ids: np.ndarray, cosines: np.ndarray) -> None:
        """Keeps the best of what rows had and what they are given.

        Args:
            row: Place within the block, ascending.
        """
        if not len(row):
            return
        touched, place, counts = np.unique(row, return_inverse=True, return_counts=True)
        slot = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        more = np.full((len(touched), int(counts.max())), -np.inf, dtype=np.float32)
        named = np.full(more.shape, -1, dtype=np.int64)
        more[place, slot], named[place, slot] = cosines, ids
        more = np.hstack([self.best[block][touched], more])
        named = np.hstack([self.ids[block][touched], named])
        chosen = np.argpartition(-more, self.kept - 1, axis=1)[:, : self.kept]
        self.best[block][touched] = np.take_along_axis(more, chosen, axis=1)
        self.ids[block][touched] = np.take_along_axis(named, chosen, axis=1)

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


def _blocks(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


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
