"""Tokens whose text so far is the same: a causal model computes the same there, and gets one value.

That in fact rounding differs with the batch must not decide which text is first, or whether a feature fires whose
activation lies at a threshold. So the first of such tokens speaks for all: before anything is ranked or counted, in
searches and indexes (`first_alike`), and in the texts that are tracked (`Beginnings`). Marks of the activations
(`activations.marks`) tell rounding from a difference: steering may act on one text and not on another.
"""

from __future__ import annotations

import numpy as np

from .sparse import SparseFeatures

MARKS = 6
"""Numbers that mark one activation; the last is how much rounding can change the others."""
_PAIRS = 64
"""Features of a token, on average, that `Beginnings` makes room for."""


def first_alike(prefixes: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """int64, (n,): for each token the first one with the same beginning and the same computation, perhaps itself.

    Args:
        prefixes: uint64, (n,): as `Corpus.prefixes` gives them.
        marks: float32, (n, MARKS): of their activations.
    """
    _, first, which = np.unique(prefixes, return_index=True, return_inverse=True)
    found = first[which]
    return np.where(_close(marks, marks[found]), found, np.arange(len(prefixes)))


class Beginnings:
    """Features of the tokens that came first with their beginnings, while texts come one after the other.

    Args:
        limit: Tokens to remember; beginnings that come later stand for themselves.
    """

    def __init__(self, limit: int = 1 << 16):
        self.is_full = False
        """Whether no further beginning is remembered."""
        self._limit = limit
        self._pairs = 0
        self._known: dict[int, int] = {}
        """Where in `_marks` and `_rows`, joined, each beginning is."""
        self._marks: list[np.ndarray] = []
        self._rows: list[SparseFeatures] = []

    def settled(self, features: SparseFeatures, prefixes: np.ndarray, marks: np.ndarray) -> SparseFeatures:
        """The same rows, but for tokens that began and were computed as an earlier one: those take its row.

        Args:
            features: A row for each token, in the order of the texts.
            prefixes, marks: As `first_alike` takes them.
        """
        known = np.array([self._known.get(key, -1) for key in prefixes.tolist()], dtype=np.int64)
        alike = first_alike(prefixes, marks)
        features = features.take(np.where(known < 0, alike, np.arange(len(alike))))
        before = np.flatnonzero(known >= 0)
        if len(before):
            if len(self._rows) > 1:
                self._marks, self._rows = [np.concatenate(self._marks)], [SparseFeatures.concat(self._rows)]
            before = before[_close(marks[before], self._marks[0][known[before]])]
            source = np.arange(features.n)
            source[before] = features.n + np.arange(len(before))
            features = SparseFeatures.concat([features, self._rows[0].take(known[before])]).take(source)
        self._remember(features, prefixes, marks, known < 0)
        return features

    def _remember(
        self, features: SparseFeatures, prefixes: np.ndarray, marks: np.ndarray, new: np.ndarray
    ) -> None:
        if self.is_full:
            return
        _, first = np.unique(prefixes, return_index=True)
        unknown = np.sort(first[new[first]])
        rows = unknown[: self._limit - len(self._known)]
        room = _PAIRS * self._limit - self._pairs
        rows = rows[: np.searchsorted(np.cumsum(np.diff(features.indptr)[rows]), room, side="right")]
        self.is_full = len(rows) < len(unknown)
        if len(rows):
            self._known.update(
                zip(prefixes[rows].tolist(), range(len(self._known), self._limit), strict=False)
            )
            self._marks.append(marks[rows])
            self._rows.append(features.take(rows))
            self._pairs += len(self._rows[-1].values)


def _close(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """bool, (n,): whether marks are those of one activation."""
    near = np.abs(some[:, :-1] - others[:, :-1]) <= np.maximum(some, others)[:, -1:]
    return np.all(near, axis=1)
