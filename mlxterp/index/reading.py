"""Reading an index: shards by number, texts by number, the firings of a feature, windows around a token."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from ..core.ranking import Firings, TopN
from .examples import Window
from .excerpts import OUTSIDE, Excerpts, RankedFirings
from .folder import IndexMeta
from .shard import Shard
from .summary import open_shard

_REMEMBERED = 1 << 20
"""Firings of a feature that are kept for the next question."""


class Reader:
    """The shards of an index, opened when they are needed."""

    def __init__(self, folder: Path, meta: IndexMeta):
        self._folder, self._meta = folder, meta
        self._open: dict[int, Shard] = {}
        self._ranked: tuple[int, RankedFirings | None] = -1, None

    @cached_property
    def _begins(self) -> list[int]:
        return [shard.begins for shard in self._meta.shards]

    @cached_property
    def first_texts(self) -> list[int]:
        """Number of the first text that has tokens in each shard."""
        return [shard.first_text for shard in self._meta.shards]

    def __len__(self) -> int:
        return len(self._meta.shards)

    def shard(self, number: int) -> Shard:
        """A shard."""
        if number not in self._open:
            self._open[number] = open_shard(self._folder, number, self._meta.shards[number])
        return self._open[number]

    def shards(self) -> list[Shard]:
        """All of them, in order."""
        return [self.shard(number) for number in range(len(self))]

    def text(self, text_id: int) -> str:
        """A text."""
        number = bisect.bisect_right(self._begins, text_id) - 1
        return self.shard(number).text(text_id - self._begins[number])

    def firings(self, feature_id: int) -> Firings:
        """Every token where a feature is active."""
        parts = [self._firings(number, feature_id) for number in range(len(self))]
        joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        return Firings(*joined)

    def _firings(self, number: int, feature_id: int) -> tuple[np.ndarray, ...]:
        shard = self.shard(number)
        rows, values = shard.firings(feature_id)
        return (*self.places(number, rows), values, shard.prefixes[rows])

    def strongest(self, d_hidden: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Text, position and activation (d_hidden, n) of every feature's strongest tokens; -1, -1 and 0 where fewer."""
        best = TopN(d_hidden, n)
        starts = np.cumsum([0, *(shard.tokens for shard in self._meta.shards)])
        for number, shard in enumerate(self.shards()):
            best.add(shard.by_feature, int(starts[number]))
        text_ids, positions = np.full_like(best.tokens, -1), np.full_like(best.tokens, -1)
        for number in range(len(self)):
            here = (best.tokens >= starts[number]) & (best.tokens < starts[number + 1])
            text_ids[here], positions[here] = self.places(number, best.tokens[here] - starts[number])
        return text_ids, positions, best.values

    def places(self, number: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Text and position of tokens of a shard."""
        shard = self.shard(number)
        pieces = shard.pieces_of(rows)
        text_ids = shard.piece_text[pieces] + self._meta.shards[number].first_text
        return text_ids, shard.piece_start[pieces] + (rows - shard.offsets[pieces])

    def token_ids(self, feature_id: int) -> np.ndarray:
        """int32: ids of the tokens where a feature is active."""
        return np.concatenate(
            [np.zeros(0, np.int32), *(s.tokens[s.firings(feature_id)[0]] for s in self.shards())]
        )

    def window(self, feature_id: int, text_id: int, position: int, before: int, after: int) -> Window:
        """Tokens around one of a text, and the feature's activations there."""
        parts = list(self._parts(feature_id, text_id, max(0, position - before), position + after + 1))
        return Window(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.activations for part in parts]),
            parts[0].start,
        )

    def ranked(self, feature_id: int) -> RankedFirings:
        """The firings of a feature by rank; the last one asked for is remembered, unless it fires very often."""
        known, ranked = self._ranked
        if known != feature_id or ranked is None:
            ranked = RankedFirings.of(self.firings(feature_id))
            if len(ranked.every) <= _REMEMBERED:
                self._ranked = feature_id, ranked
        return ranked

    def excerpts(self, text_ids: np.ndarray, positions: np.ndarray, before: int, after: int) -> Excerpts:
        """The tokens around places of texts."""
        ids = np.full((len(text_ids), before + 1 + after), OUTSIDE, dtype=np.int32)
        numbers = np.searchsorted(self._begins, text_ids, side="right") - 1
        for number in np.unique(numbers).tolist():
            rows = np.flatnonzero(numbers == number)
            cut = self._fill(ids, number, rows, text_ids[rows], positions[rows], before)
            for row in rows[cut].tolist():  # its text goes on in another shard
                window = self.window(0, int(text_ids[row]), int(positions[row]), before, after)
                first = before - (int(positions[row]) - window.start)
                ids[row, first : first + len(window.ids)] = window.ids
        return Excerpts(positions, ids, before)

    def _fill(
        self,
        ids: np.ndarray,
        number: int,
        rows: np.ndarray,
        text_ids: np.ndarray,
        positions: np.ndarray,
        before: int,
    ) -> np.ndarray:
        """Fills in rows of texts that begin in a shard; returns bool: whether a row's text lies beyond it, too."""
        shard, record = self.shard(number), self._meta.shards[number]
        pieces = np.searchsorted(shard.piece_text, text_ids - record.first_text)
        first, end = shard.offsets[pieces], shard.offsets[pieces + 1]
        at = (first + positions)[:, None] + np.arange(-before, ids.shape[1] - before)
        inside = (at >= first[:, None]) & (at < end[:, None])
        ids[rows] = np.where(inside, shard.tokens[np.where(inside, at, 0)], OUTSIDE)
        if record.ends:
            return np.zeros(len(rows), dtype=bool)
        return (pieces == len(shard.piece_text) - 1) & (at[:, -1] >= end)

    def _parts(self, feature_id: int, text_id: int, low: int, high: int) -> Iterator[Window]:
        """Tokens of a text from position `low` on, up to `high`: one window for each of its pieces."""
        for number in range(bisect.bisect_right(self._begins, text_id) - 1, len(self)):
            shard = self.shard(number)
            pieces = np.flatnonzero(shard.piece_text == text_id - self._meta.shards[number].first_text)
            if not len(pieces):
                return
            piece = int(pieces[0])  # a shard has one piece of a text
            first, start = int(shard.offsets[piece]), int(shard.piece_start[piece])
            end = start + int(shard.offsets[piece + 1]) - first
            begin, stop = max(low, start), min(high, end)
            if begin < stop:
                rows, values = shard.firings(feature_id)
                inside = slice(*np.searchsorted(rows, (first + begin - start, first + stop - start)).tolist())
                activations = np.zeros(stop - begin, dtype=np.float32)
                activations[rows[inside].astype(np.int64) - first - begin + start] = values[inside]
                yield Window(
                    np.asarray(shard.tokens[first + begin - start : first + stop - start]), activations, begin
                )
            if end >= high:
                return
