"""The k largest scores of each row while the columns pass by, in NumPy: what both wings do on a CPU.

A score and its column are packed into one integer, `bits of the score << 32 | highest column - column`,
so that larger keys are larger scores and, among equals, lower columns. After the first columns only what
exceeds a row's k-th best so far is looked at, which soon is next to nothing.
"""

from __future__ import annotations

import numpy as np

_LAST = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


class RunningTopK:
    """The k best of n rows, over pieces of columns that come in ascending order."""

    def __init__(self, n: int, k: int):
        self._k = k
        self._keys = np.zeros((n, 0), dtype=np.uint64)
        self._floor = np.zeros(n, dtype=np.float32)
        """Only larger scores can still be among the k best."""

    def add(self, first: int, scores: np.ndarray) -> None:
        """Scores (n, width) of the columns from `first` on; only positive ones count."""
        found = self._candidates(scores)
        rows, columns = np.divmod(found, scores.shape[1])
        bits = scores.reshape(-1)[found].view(np.uint32).astype(np.uint64)
        self._merge(rows, (bits << _HALF) | (_LAST - (columns + first).astype(np.uint64)))

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """Columns (int64) and scores (float32), (n, k), strongest first; 0 is an empty slot, of any column
        that its row does not name."""
        keys = np.sort(self._keys, axis=1)[:, ::-1]
        missing = self._k - keys.shape[1]
        if missing > 0:
            keys = np.concatenate([keys, np.zeros((len(keys), missing), dtype=np.uint64)], axis=1)
        scores = (keys >> _HALF).astype(np.uint32).view(np.float32)
        columns = (_LAST - (keys & _LAST)).astype(np.int64)
        return _fill(columns, scores), scores

    def _candidates(self, scores: np.ndarray) -> np.ndarray:
        """Where, in the flattened scores, one of the k best may be."""
        floor = self._floor
        if self._keys.shape[1] < self._k:  # nothing to compare with yet: k blocks of columns give a bound
            bound = _bound(scores, self._k)
            if bound is not None:
                return np.flatnonzero((scores >= bound[:, None]) & (scores > 0))
        return np.flatnonzero(scores > floor[:, None])

    def _merge(self, rows: np.ndarray, keys: np.ndarray) -> None:
        counts = np.bincount(rows, minlength=len(self._keys))
        width = int(counts.max(initial=0))
        if width == 0:
            return
        fresh = np.zeros((len(counts), width), dtype=np.uint64)
        starts = np.cumsum(counts) - counts
        fresh[rows, np.arange(len(rows)) - starts[rows]] = keys
        keys = np.concatenate([self._keys, fresh], axis=1)
        if keys.shape[1] > self._k:
            cut = keys.shape[1] - self._k
            keys = np.partition(keys, cut, axis=1)[:, cut:]
        self._keys = keys
        if keys.shape[1] == self._k:
            self._floor = (keys.min(axis=1) >> _HALF).astype(np.uint32).view(np.float32)


def _bound(scores: np.ndarray, k: int) -> np.ndarray | None:
    """A score (n,) that at least k columns of each row reach: the k-th largest of the maxima of blocks."""
    n, width = scores.shape
    for depth in (16, 8, 4):
        blocks = width // depth
        if width % depth == 0 and blocks >= 2 * k:
            peaks = scores.reshape(n, depth, blocks).max(axis=1)
            return np.partition(peaks, blocks - k, axis=1)[:, blocks - k]
    return None


def _fill(columns: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Gives empty slots columns that their row does not name, the lowest there are."""
    empty = scores == 0
    for row in np.flatnonzero(empty.any(axis=1)):
        free = np.setdiff1d(np.arange(columns.shape[1]), columns[row, ~empty[row]])
        columns[row, empty[row]] = free[: int(empty[row].sum())]
    return columns
