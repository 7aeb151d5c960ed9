"""The texts on which each feature was strongest, kept while a model runs.

`Concepts.record` hands over what the SAE found on each text; reading gives the top texts. Texts wait until
there are many, then all features are answered together by `TopN`, whose tokens are here the numbers of
recorded texts. Only features for which a text came again *stronger* are gone through one by one.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..core.ranking import TopN
from ..core.sparse import SparseFeatures
from ..errors import InputError

_PAIRS = 1 << 20
"""Of a text and a feature active on it: settled together, so that calls are few and temporaries small."""
_ROUNDING = 1e-5
"""A text that comes again no stronger than by this share keeps the activation it has."""
_UNUSED = 4096
"""So many numbers may be remembered for nothing before they are forgotten."""


class TopTexts:
    """The top texts of every feature, of all texts recorded one after the other.

    A text not kept for a feature takes the weakest one's place where it is stronger (by magnitude); one that is
    kept takes its new activation where that is stronger by more than rounding. Among equals comes first what
    was recorded earlier. Memory is at most 12 bytes x top_k for each feature that was active, and the texts.

    Raises:
        InputError: `top_k` is below 1.
    """

    def __init__(self, d_hidden: int, top_k: int):
        self.d_hidden, self.top_k = d_hidden, top_k
        self.n_recorded = 0
        """Texts so far, repeated ones counted each time."""
        self._waiting: list[tuple[list[str], SparseFeatures]] = []
        self._waiting_pairs = self._settled = 0
        self._table = TopN(0, top_k)
        """Row r: numbers of recorded texts and activations of the r-th feature that became active."""
        self._features = np.empty(0, dtype=np.int64)
        """(rows in use,): the feature of each row."""
        self._has_row = np.zeros(d_hidden, dtype=bool)
        self._numbers: dict[str, list[int]] = {}
        """Under which numbers each kept text is in the table."""
        self._remembered = self._in_use = 0

    def record(self, texts: list[str], by_text: SparseFeatures) -> None:
        """Takes texts into account; row i of `by_text` holds each feature's strongest activation on text i.

        Raises:
            InputError: The rows are not these texts', are of another SAE, or hold what is not finite.
        """
        if by_text.n != len(texts) or by_text.d_hidden != self.d_hidden:
            raise InputError(
                f"Recorded were {len(texts)} texts with rows of {by_text.n}, of an SAE with {by_text.d_hidden}"
                f" features; expected one row for each text and {self.d_hidden} features."
            )
        if not np.isfinite(by_text.values).all():
            raise InputError("A feature activation is not finite. Look at the activations that were encoded.")
        if not texts:
            return
        self._waiting.append(
            (texts, SparseFeatures.concat([by_text]))
        )  # a copy: the caller may reuse its own
        self.n_recorded += len(texts)
        self._waiting_pairs += len(texts) + by_text.indices.size
        if self._waiting_pairs >= _PAIRS:
            self._settle()

    def resized(self, top_k: int) -> TopTexts:
        """The same with room for another number of texts; see `Concepts.enable_text_tracking`."""
        self._settle()
        copy = TopTexts(self.d_hidden, top_k)
        copy._table = self._table.resized(len(self._table.tokens), top_k)
        copy.n_recorded, copy._settled = self.n_recorded, self._settled
        copy._features, copy._has_row = self._features.copy(), self._has_row.copy()
        copy._numbers = {text: list(numbers) for text, numbers in self._numbers.items()}
        copy._forget()
        return copy

    def of(self, features: Iterable[int] | None = None) -> dict[int, list[tuple[str, float]]]:
        """Texts and activations by feature, ascending, the strongest first; None for all that were active."""
        self._settle()
        text_of = {number: text for text, numbers in self._numbers.items() for number in numbers}
        order = np.argsort(self._features)
        if features is not None:
            order = order[np.isin(self._features[order], list(features))]
        found: dict[int, list[tuple[str, float]]] = {}
        tokens, values = self._table.tokens[order].tolist(), self._table.values[order].tolist()
        for feature, numbers, activations in zip(self._features[order].tolist(), tokens, values, strict=True):
            pairs = zip(numbers, activations, strict=True)
            found[feature] = [(text_of[number], value) for number, value in pairs if number >= 0]
        return found

    # -- settling what waits ------------------------------------------------------------------

    def _settle(self) -> None:
        if not self._waiting:
            return
        texts = [text for part, _ in self._waiting for text in part]
        features = SparseFeatures.concat([part for _, part in self._waiting])
        self._waiting, self._waiting_pairs = [], 0
        rows = max(1, _PAIRS * features.n // max(features.indices.size, 1))
        for first, block in enumerate(features.blocks(rows)):
            self._take(texts[first * rows : (first + 1) * rows], block)

    def _take(self, texts: list[str], by_text: SparseFeatures) -> None:
        """Settles texts that come after all that are settled."""
        self._make_room(by_text)
        by_row = by_text.transpose().take(self._features)
        places: dict[str, int] = {}
        same = np.array([places.setdefault(text, len(places)) for text in texts], dtype=np.int64)
        known = np.array([text in self._numbers for text in places], dtype=bool)
        again = (known | (np.bincount(same) > 1))[same]
        if again.any():
            by_row = self._without_repeated(by_row, same, again, places)
        self._table.add(by_row, self._settled)
        self._remember(texts)
        self._settled += len(texts)

    def _make_room(self, by_text: SparseFeatures) -> None:
        """Gives a row to each feature that is active for the first time."""
        active = np.flatnonzero(np.bincount(by_text.indices, minlength=self.d_hidden))
        new = active[~self._has_row[active]]
        self._has_row[new] = True
        self._features = np.concatenate([self._features, new])
        if (rows := len(self._features)) > len(self._table.tokens):
            self._table = self._table.resized(min(2 * rows, self.d_hidden), self.top_k)

    def _remember(self, texts: list[str]) -> None:
        """Notes the numbers under which texts just settled are kept."""
        tokens = self._table.tokens
        new = np.unique(tokens[tokens >= self._settled])
        for number in new.tolist():
            self._numbers.setdefault(texts[number - self._settled], []).append(number)
        self._remembered += len(new)
        if self._remembered > 2 * self._in_use + _UNUSED:
            self._forget()

    def _forget(self) -> None:
        """Drops texts that no feature keeps any more."""
        kept = set(np.unique(self._table.tokens).tolist())
        left = {text: [n for n in numbers if n in kept] for text, numbers in self._numbers.items()}
        self._numbers = {text: numbers for text, numbers in left.items() if numbers}
        self._remembered = self._in_use = sum(map(len, self._numbers.values()))

    # -- texts that come again ----------------------------------------------------------------

    def _without_repeated(
        self, by_row: SparseFeatures, same: np.ndarray, again: np.ndarray, places: dict[str, int]
    ) -> SparseFeatures:
        """`by_row` with each text at most once in a row, and only where the table does not hold it.

        Args:
            by_row: Row r: new texts on which the feature of row r is active.
            same: (new texts,): equal for equal texts.
            again: (new texts,): whether a text is in the table, or comes twice.
            places: The texts, by their number in `same`.
        """
        row, strength = by_row.row_ids, np.abs(by_row.values)
        counts = strength > np.abs(self._table.values[: by_row.n, -1])[row]
        pairs = np.flatnonzero(counts & again[by_row.indices])
        numbers, held = self._held(places)
        kept_row, kept_at, kept_same = self._kept(np.unique(row[pairs]), numbers, held)
        kept_strength = np.abs(self._table.values[kept_row, kept_at])
        kept_group = kept_row * len(places) + kept_same
        group = row[pairs] * len(places) + same[by_row.indices[pairs]]
        first, stronger = _stronger(
            np.concatenate([kept_group, group]), np.concatenate([kept_strength, strength[pairs]])
        )
        first, stronger = first[len(kept_row) :], stronger[len(kept_row) :]
        # Where texts only come again, no stronger than by rounding, the row stays as it is.
        rounding = strength[pairs] <= _looked_up(group, kept_group, kept_strength) * (1 + _ROUNDING)
        moves = counts.copy()
        moves[pairs[rounding]] = False
        stronger &= ~rounding | (np.bincount(row[moves], minlength=by_row.n) > 0)[row[pairs]]
        one_by_one = np.unique(row[pairs[stronger & ~first]])
        which = dict(zip(numbers.tolist(), held.tolist(), strict=True))
        for r in one_by_one.tolist():
            start, end = by_row.indptr[r : r + 2]
            arrivals = np.flatnonzero(counts[start:end]) + start
            self._one_by_one(r, by_row.indices[arrivals], by_row.values[arrivals], same, which)
        left = counts
        left[pairs[~stronger]] = False
        left &= (np.bincount(one_by_one, minlength=by_row.n) == 0)[row]
        indptr = np.concatenate([[0], np.cumsum(np.bincount(row[left], minlength=by_row.n))])
        return SparseFeatures(indptr, by_row.indices[left], by_row.values[left], by_row.d_hidden)

    def _held(self, places: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """Numbers (ascending) under which the table may hold these texts, and which text each is."""
        held = [(number, at) for text, at in places.items() for number in self._numbers.get(text, ())]
        table = np.array(sorted(held), dtype=np.int64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    def _kept(
        self, rows: np.ndarray, numbers: np.ndarray, held: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where these rows of the table hold one of `numbers`: row, place in it, and which text it is."""
        if not len(numbers):
            nothing = np.empty(0, dtype=np.int64)
            return nothing, nothing, nothing
        tokens = self._table.tokens[rows]
        at = np.minimum(np.searchsorted(numbers, tokens), len(numbers) - 1)
        found, place = np.nonzero(numbers[at] == tokens)
        return rows[found], place, held[at[found, place]]

    def _one_by_one(
        self, row: int, texts: np.ndarray, values: np.ndarray, same: np.ndarray, which: dict[int, int]
    ) -> None:
        """Takes the new texts of one row into account as the definition says, each after the other.

        Args:
            which: Which text each number of the table is, for texts that are among the new.
        """
        tokens, activations = self._table.tokens[row], self._table.values[row]
        pairs = [(int(n), float(v)) for n, v in zip(tokens, activations, strict=True) if n >= 0]
        # Texts that are not among the new ones get numbers below 0.
        kept: dict[int, tuple[float, int]] = {which.get(n, -1 - n): (v, n) for n, v in pairs}
        arrivals = zip(
            same[texts].tolist(), values.tolist(), (texts + np.int64(self._settled)).tolist(), strict=True
        )
        best = _after(kept, arrivals, self.top_k)
        tokens[:], activations[:] = -1, 0
        tokens[: len(best)], activations[: len(best)] = [n for _, n in best], [v for v, _ in best]


def _stronger(group: np.ndarray, strength: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For pairs in order: whether each is the first of its group, and whether it exceeds all earlier ones there."""
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    first, stronger = np.ones(len(group), dtype=bool), np.ones(len(group), dtype=bool)
    first[order[1:]] = ordered[1:] != ordered[:-1]
    # The number of the group above, the float's bits (ordered as magnitudes are) below: one running maximum.
    key = np.cumsum(first[order]).astype(np.uint64) << np.uint64(32)
    key |= strength[order].astype(np.float32).view(np.uint32)
    stronger[order[1:]] = key[1:] > np.maximum.accumulate(key)[:-1]
    return first, stronger


def _looked_up(keys: np.ndarray, table_keys: np.ndarray, table: np.ndarray) -> np.ndarray:
    """float64: the value of each key in a table of distinct keys; 0 where it has none."""
    if not len(table):
        return np.zeros(len(keys))
    order = np.argsort(table_keys)
    at = order[np.minimum(np.searchsorted(table_keys, keys, sorter=order), len(table) - 1)]
    return np.where(table_keys[at] == keys, table[at].astype(np.float64), 0.0)


def _after(
    kept: dict[int, tuple[float, int]], arrivals: Iterable[tuple[int, float, int]], top_k: int
) -> list[tuple[float, int]]:
    """(activation, number) of the texts kept after arrivals of (text, activation, number), strongest first."""
    rank = lambda entry: (-abs(entry[0]), entry[1])  # noqa: E731
    for text, value, number in arrivals:
        if text in kept:
            if abs(value) > abs(kept[text][0]) * (1 + _ROUNDING):
                kept[text] = (value, number)
            continue
        if len(kept) >= top_k:
            weakest = max(kept, key=lambda t: rank(kept[t]))
            if abs(value) <= abs(kept[weakest][0]):
                continue
            del kept[weakest]
        kept[text] = (value, number)
    return sorted(kept.values(), key=rank)
