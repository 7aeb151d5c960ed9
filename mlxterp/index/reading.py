"""Reading an index: shards by number, texts by number, the firings of a feature, windows around a token."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from ..core.ranking import Firings, TopN
from .examples import Window
from .excerpts import OUTSIDE, RankedFirings
from .folder import IndexMeta
from .shard import Shard
from .summary import open_shard

_FEW_RUNS = 64
"""Runs that are taken token by token: what looks at whole runs costs more to set up."""
_NEAR = 7
"""Bits of a token's number that are looked up by going on from piece to piece."""
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
        texts, begins, starts = self._layout
        rows, values, prefixes = [np.zeros(0, np.uint32)], [np.zeros(0, np.float32)], [np.zeros(0, np.uint64)]
        for shard in self.shards():
            own, activations = shard.firings(feature_id)
            rows.append(own)
            values.append(activations)
            prefixes.append(shard.prefixes.take(own))
        at = np.concatenate(rows, dtype=np.int64) + np.repeat(starts, [len(own) for own in rows[1:]])
        text_ids = texts[begins.searchsorted(at, side="right") - 1]
        positions = at - self.text_begins[text_ids]
        return Firings(text_ids, positions, np.concatenate(values), np.concatenate(prefixes))

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

    def in_one_text(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """bool: whether two tokens, by their numbers among all, belong to one text; for arrays of them."""
        texts = (np.searchsorted(self.text_begins, tokens, side="right") for tokens in (first, last))
        return np.equal(*texts)

    def by_shard(self, tokens: np.ndarray) -> Iterator[tuple[Shard, np.ndarray]]:
        """Tokens, by their ascending numbers among all, as shards and numbers in them."""
        starts = self._layout[2]
        numbers, begins = np.unique(np.searchsorted(starts, tokens, side="right") - 1, return_index=True)
        for number, own in zip(numbers.tolist(), np.split(tokens, begins[1:]), strict=False):
            yield self.shard(number), own - starts[number]

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
            every = self.firings(feature_id)
            rows = self.text_begins[every.text_ids] + every.positions
            ranked = RankedFirings(every, every.strongest_of_each_text(), rows)
            if len(ranked.every) <= _REMEMBERED:
                self._ranked = feature_id, ranked
        return ranked

    def spans(
        self, text_ids: np.ndarray, positions: np.ndarray, before: int, after: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """int64, the first token around each place of a text, and the one after the last; as all shards count them."""
        begin = self.text_begins[text_ids]
        at = begin + positions
        return np.maximum(begin, at - before), np.minimum(self.text_begins[text_ids + 1], at + after + 1)

    def tokens(self, low: Iterable[int], high: Iterable[int]) -> Iterator[np.ndarray]:
        """int32: the tokens from each number up to another, as all shards count them."""
        for first, stop in zip(low, high, strict=True):
            number = bisect.bisect_right(self.starts, first) - 1
            start = self.starts[number]
            found = self.shard(number).tokens[first - start : stop - start]
            while len(found) < stop - first:  # they go on in the next shard
                number += 1
                found = np.append(found, self.shard(number).tokens[: stop - first - len(found)])
            yield found

    def excerpts(
        self, rows: np.ndarray, low: np.ndarray, high: np.ndarray, before: int, after: int
    ) -> np.ndarray:
        """int32, (n, before + 1 + after): the tokens around many, read shard by shard; `OUTSIDE` where none is wanted.

        Args:
            rows, low, high: int64, (n,): numbers of the tokens, and of the first and last + 1 wanted around each, as
                `spans` gives them.
        """
        size = before + 1 + after
        ids = np.empty((len(rows), size), dtype=np.int32)
        apart = [np.zeros(0, np.int64)]
        for number, part in self._by_shard(low):
            tokens, start = self.shard(number).tokens, self.starts[number]
            ids[part] = _runs(tokens, rows[part] - before - start, size)
            apart.append(part[high[part] > start + len(tokens)])
        column, first, stop = np.arange(size), low - rows + before, high - rows + before
        cut = np.flatnonzero((first > 0) | (stop < size))
        outside = (column < first[cut, None]) | (column >= stop[cut, None])
        ids[cut] = np.where(outside, OUTSIDE, ids[cut])
        far = np.concatenate(apart)  # their tokens lie in several shards
        for row, found in zip(far.tolist(), self.tokens(low[far].tolist(), high[far].tolist()), strict=True):
            ids[row, first[row] : stop[row]] = found
        return ids

    def prefixes(self, rows: np.ndarray) -> np.ndarray:
        """uint64: hashes of the text up to and including each of some tokens.

        Args:
            rows: int64: numbers of the tokens, as all shards count them.
        """
        found = np.empty(len(rows), dtype=np.uint64)
        for number, part in self._by_shard(rows):
            found[part] = self.shard(number).prefixes[rows[part] - self.starts[number]]
        return found

    def texts_of(self, rows: np.ndarray) -> np.ndarray:
        """int64: the text of each of some tokens, as all shards count them."""
        texts, begins, _ = self._layout
        piece = self._near[rows >> _NEAR]
        left = np.flatnonzero(begins[piece + 1] <= rows)
        while len(left):  # a look at the next piece is less than a search among all
            piece[left] += 1
            left = left[begins[piece[left] + 1] <= rows[left]]
        return texts[piece]

    @cached_property
    def _near(self) -> np.ndarray:
        """int64: the piece of every 2^_NEAR-th token."""
        begins = self._layout[1]
        return begins.searchsorted(np.arange(0, begins[-1] + 1, 1 << _NEAR), side="right") - 1

    @cached_property
    def shared(self) -> np.ndarray:
        """int64, (texts,): so many tokens of a text may begin another one too; none of those after them does.

        Texts that begin alike are looked at 1, 2, 4, 8, … tokens on, until no two of them are alike.
        """
        lengths = np.diff(self.text_begins)
        found = np.zeros(len(lengths), dtype=np.int64)
        alike, depth = np.flatnonzero(lengths), 0
        while len(alike):
            longer = alike[lengths[alike] > depth]
            prefixes = self.prefixes(self.text_begins[longer] + depth)
            _, which, counts = np.unique(prefixes, return_inverse=True, return_counts=True)
            alike, depth = longer[counts[which] > 1], 2 * depth + 1
            found[alike] = np.minimum(lengths[alike], depth)
        return found

    def shared_rows(self, number: int) -> np.ndarray:
        """int64: tokens of a shard that may belong to a beginning that two texts share; see `shared`."""
        shard = self.shard(number)
        left = self.shared[shard.piece_text + self.first_texts[number]] - shard.piece_start
        counts = np.clip(left, 0, np.diff(shard.offsets))
        return np.repeat(shard.offsets[:-1] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())

    def _by_shard(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Numbers of shards, and which of some tokens lie in each."""
        number = (self._layout[2].searchsorted(rows, side="right") - 1).astype(np.min_scalar_type(len(self)))
        order = np.argsort(number, kind="stable")  # in linear time for numbers of 16 bits
        counts = np.bincount(number, minlength=len(self))
        for shard, (end, count) in enumerate(zip(np.cumsum(counts).tolist(), counts.tolist(), strict=True)):
            if count:
                yield shard, order[end - count : end]

    @cached_property
    def text_begins(self) -> np.ndarray:
        """int64, (texts + 1,): the number of each text's first token, and where the last ends."""
        texts, rows, _ = self._layout
        return rows[np.searchsorted(texts, np.arange(self._meta.n_texts + 1), side="left")]

    @cached_property
    def starts(self) -> list[int]:
        """The number of each shard's first token."""
        return self._layout[2].tolist()

    @cached_property
    def _layout(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of every piece of a text its text, ascending; its first token among all, and their number; and that of every
        shard's first token. int64."""
        starts = np.cumsum([0, *(shard.tokens for shard in self._meta.shards)])
        texts, rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for first, start, shard in zip(self.first_texts, starts, self.shards(), strict=False):
            texts.append(shard.piece_text + first)
            rows.append(shard.offsets[:-1] + start)
        return np.concatenate(texts), np.concatenate([*rows, starts[-1:]]), starts[:-1]

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


def _runs(tokens: np.ndarray, starts: np.ndarray, size: int) -> np.ndarray:
    """int32, (starts, size): tokens that follow each other; beyond the array the nearest stand for them."""
    if len(tokens) < size or len(starts) < _FEW_RUNS:
        return tokens.take(starts[:, None] + np.arange(size), mode="clip")
    within = np.clip(starts, 0, len(tokens) - size)
    found = np.lib.stride_tricks.sliding_window_view(tokens, size)[within]
    beyond = np.flatnonzero(within != starts)
    found[beyond] = tokens.take(starts[beyond, None] + np.arange(size), mode="clip")
    return found
