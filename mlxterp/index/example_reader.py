"""Examples of one feature, made as they are asked for: ranked, told apart, and written as in their texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

import numpy as np

from ..core.ranking import Firings
from .examples import SAME, FeatureExample, Window, distinct, of_quantile
from .excerpts import Excerpts, RankedFirings
from .reading import Reader
from .spelling import Place

BEFORE, AFTER = 16, 8
"""Tokens that are shown on both sides where nothing else is asked."""
_FEW = 20
"""Places that are read at once where few examples are wanted."""


class ExampleReader:
    """Reads examples of features.

    Args:
        spelled: Gives the text of the tokens of places.
    """

    def __init__(self, reader: Reader, spelled: Callable[[Sequence[Place]], Sequence[tuple[str, ...]]]):
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
        read: list[Excerpts] = []
        around = self._around(ranked, min(n, _FEW) + 4, max(SAME, before), max(SAME, after), read)
        rows = distinct(ranked.prefixes.tolist(), around, n)
        while part := list(islice(rows, at_once or n)):
            windows = Excerpts.windows(read, part, before, after)
            yield from self._made(feature_id, firings, ranked.take(np.array(part)), windows, before, after)

    def _around(
        self, ranked: Firings, size: int, before: int, after: int, read: list[Excerpts]
    ) -> Iterator[bytes]:
        """What the tokens around each firing are known by, a few at a time, which are added to `read`."""
        first = 0
        while first < len(ranked):
            part = slice(first, first + size)
            read.append(self._reader.excerpts(ranked.text_ids[part], ranked.positions[part], before, after))
            yield from read[-1].same_where()
            first, size = first + size, 2 * size

    def _made(
        self, feature_id: int, firings: RankedFirings, chosen: Firings, windows: Sequence[Window], before: int,
        after: int,
    ) -> list[FeatureExample]:  # fmt: skip
        where = list(zip(chosen.text_ids.tolist(), chosen.positions.tolist(), strict=True))
        places = [
            Place(window, partial(self._window, feature_id, *at, before, after), self._reader.text(at[0]))
            for at, window in zip(where, windows, strict=True)
        ]
        around = firings.activations(chosen.text_ids, windows)
        rows = zip(places, self._spelled(places), where, chosen.values.tolist(), around, strict=True)
        return [
            FeatureExample(feature_id, place.text, *at, value, pieces, activations, place.shown.start)
            for place, pieces, at, value, activations in rows
        ]

    def _window(
        self, feature_id: int, text_id: int, position: int, before: int, after: int, more: int
    ) -> Window:
        return self._reader.window(feature_id, text_id, position, before + more, after + more)
