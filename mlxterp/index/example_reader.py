"""Examples of one feature, made as they are asked for: ranked, told apart, and written as in their texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

from ..core.ranking import Firings
from .examples import SAME, FeatureExample, Look, Window, distinct, of_quantile
from .excerpts import RankedFirings
from .reading import Reader
from .spelling import Place

BEFORE, AFTER = 16, 8
"""Tokens that are shown on both sides where nothing else is asked."""
_FEW = 20
"""Places that are read at once where few examples are wanted."""


class ExampleReader:
    """Reads examples of features.

    Args:
        spelled: Gives the text of the tokens of windows; see `Spelling.of`.
    """

    def __init__(
        self,
        reader: Reader,
        spelled: Callable[
            [Sequence[np.ndarray], Sequence[int], Callable[[int], Place]], Sequence[tuple[str, ...]]
        ],
    ):
        self._reader, self._spelled = reader, spelled

    def __call__(
        self, feature_id: int, n: int, quantile: int | None = None, before: int = BEFORE, after: int = AFTER,
        at_once: int | None = None,
    ) -> Iterator[FeatureExample]:  # fmt: skip
        """See `Answers.examples`.

        Args:
            at_once: How many are made at a time; None makes all when the first is asked for.
        """
        firings = self._reader.ranked(feature_id)
        ranked = firings.strongest if quantile is None else of_quantile(firings.strongest, quantile)
        rows = distinct(self._looks(ranked, min(n, _FEW) + 4), n)
        while part := list(islice(rows, at_once or n)):
            yield from self._made(feature_id, firings, ranked.take(np.array(part)), before, after)

    def _looks(self, ranked: Firings, size: int) -> Iterator[Look]:
        """What places are known by, read a few at a time."""
        first = 0
        while first < len(ranked):
            part = ranked.take(slice(first, first + size))
            low, high = self._reader.spans(part.text_ids, part.positions, SAME, SAME)
            around = (tokens.tobytes() for tokens in self._reader.tokens(low.tolist(), high.tolist()))
            yield from zip(
                part.prefixes.tolist(), np.minimum(part.positions, SAME).tolist(), around, strict=True
            )
            first, size = first + size, 2 * size

    def _made(
        self, feature_id: int, firings: RankedFirings, chosen: Firings, before: int, after: int
    ) -> list[FeatureExample]:
        low, high = self._reader.spans(chosen.text_ids, chosen.positions, before, after)
        tokens = list(self._reader.tokens(low.tolist(), high.tolist()))
        around = firings.activations(low, high)
        starts = np.maximum(chosen.positions - before, 0).tolist()
        where = list(zip(chosen.text_ids.tolist(), chosen.positions.tolist(), strict=True))
        texts = [self._reader.text(text_id) for text_id, _ in where]

        def place(row: int) -> Place:
            def wider(more: int) -> Window:
                return self._reader.window(feature_id, *where[row], before + more, after + more)

            return Place(Window(tokens[row], around[row], starts[row]), wider, texts[row])

        pieces_of = self._spelled(tokens, starts, place)
        rows = zip(texts, where, chosen.values.tolist(), pieces_of, around, starts, strict=True)
        return [
            FeatureExample(feature_id, text, text_id, position, value, pieces, activations, start)
            for text, (text_id, position), value, pieces, activations, start in rows
        ]
