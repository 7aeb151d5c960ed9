"""Which texts come first for a feature: the one rule that search and the index share.

A text counts once, at its strongest token (the earliest of equals); stronger texts come first, then
earlier ones. Activations of signed SAEs are ranked by magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ROUNDING = 0.02
"""Relative difference that the rounding of bfloat16 can make; in float32 it is a thousand times less."""


@dataclass(frozen=True, eq=False, slots=True)
class Firings:
    """Tokens where one feature is active, in the order of the corpus."""

    text_ids: np.ndarray
    """int64, (n,): the text of each, ascending."""
    positions: np.ndarray
    """int64, (n,): its position in the text, ascending within a text."""
    values: np.ndarray
    """float32, (n,): activations, never 0."""
    prefixes: np.ndarray
    """uint64, (n,): hashes of the text up to and including the token, as `Corpus.prefixes` gives them."""

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: np.ndarray) -> Firings:
        """The given rows, in the given order."""
        return Firings(self.text_ids[rows], self.positions[rows], self.values[rows], self.prefixes[rows])

    def without_rounding(self) -> Firings:
        """The same value wherever the text so far is the same (a BOS token, a text given twice).

        The model computes the same there but for the rounding of another batch, which would otherwise
        decide which text comes first.
        """
        _, first, which = np.unique(self.prefixes, return_index=True, return_inverse=True)
        earliest = self.values[first][which]
        close = np.abs(self.values - earliest) <= _ROUNDING * np.abs(earliest)
        return Firings(self.text_ids, self.positions, np.where(close, earliest, self.values), self.prefixes)

    def strongest_of_each_text(self) -> Firings:
        """One token of each text: texts by strength, then in the order of the corpus."""
        settled = self.without_rounding()
        strength = np.abs(settled.values)
        order = np.lexsort((settled.positions, -strength, settled.text_ids))
        _, first = np.unique(settled.text_ids[order], return_index=True)
        best = order[first]  # one token of each text, texts ascending
        return settled.take(best[np.argsort(-strength[best], kind="stable")])
