"""The index by token: for every token id, the features that fire on it, how often, and how strongly in all.

Kept in `tokens.safetensors` (`derived`). `searching` asks it, so that a word is answered without reading firings.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from .figures import TokenCounts
from .files import part_of
from .fired import Fired
from .shard import Shard

ARRAYS = ("token_ids", "occurrences", "indptr", "feature", "count", "total")
"""Arrays of `tokens.safetensors`."""
_ENTRY = np.dtype([("token", "<i4"), ("feature", "<i4"), ("count", "<u4"), ("total", "<f8")])
_BATCH = 1 << 20


class TokenTable:
    """Token × feature, compressed by rows.

    Args:
        arrays: int32 token_ids (t,), ascending, of every token in the texts; int64 occurrences (t,), those that do not
            count included; int64 indptr (t + 1,); and, by token and then by feature, int32 feature, uint32 count of
            the firings, float64 total of the activations.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self._arrays = arrays
        self._token_ids = np.asarray(arrays["token_ids"]).astype(
            np.int64
        )  # of the type that is looked up in it
        self._occurrences, self._indptr = np.asarray(arrays["occurrences"]), np.asarray(arrays["indptr"])

    def occurrences_of(self, tokens: Sequence[int]) -> np.ndarray:
        """int64: how often each of these tokens, which all occur, stands in the texts."""
        return self._occurrences[self._token_ids.searchsorted(np.asarray(tokens, dtype=np.int64))]

    def fired(self, tokens: Collection[int]) -> Fired:
        """What fires on one of some tokens."""
        return Fired.on_any([self._of(row) for row in self._rows(tokens)])

    def _of(self, row: int) -> Fired:
        start, stop = self._indptr[row : row + 2].tolist()
        feature, count, total = (
            part_of(self._arrays, name, start, stop) for name in ("feature", "count", "total")
        )
        return Fired(feature, count, total, int(self._occurrences[row]))

    def _rows(self, tokens: Collection[int]) -> list[int]:
        """Rows of those tokens that occur, each once, ascending."""
        asked = np.array(sorted(set(tokens)), dtype=np.int64)
        rows = self._token_ids.searchsorted(asked)
        known = self._token_ids.take(rows, mode="clip") == asked
        return rows[known].tolist()


def occurrences_in(shards: Sequence[Shard]) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the tokens that occur, int32, ascending, and how often, int64."""
    count = np.zeros(0, dtype=np.int64)
    for shard in shards:
        found = np.bincount(shard.tokens)
        longer, shorter = (found, count) if len(found) > len(count) else (count, found)
        longer[: len(shorter)] += shorter
        count = longer
    used = np.flatnonzero(count)
    return used.astype(np.int32), count[used]


class TokenTableWriter:
    """Turns the token counts of features, as a sweep gives them, into a token table.

    They are kept in files meanwhile: memory does not grow with them.

    Args:
        folder: An empty folder, gone when the table has been written.
        shards: All of them.
    """

    def __init__(self, folder: Path, shards: Sequence[Shard]):
        self._folder = folder
        self._token_ids, self._occurrences = occurrences_in(shards)
        self._lengths = np.zeros(len(self._token_ids), dtype=np.int64)
        self._batches = 0

    def add(self, first: int, counts: TokenCounts) -> None:
        """Takes the counts of a range of features; ranges come in order.

        Args:
            first: The range's first feature.
        """
        for start in range(0, len(counts.token), _BATCH):
            part = slice(start, start + _BATCH)
            entries = np.empty(len(counts.token[part]), dtype=_ENTRY)
            entries["token"] = np.searchsorted(self._token_ids, counts.token[part])
            entries["feature"] = counts.feature[part] + first
            entries["count"], entries["total"] = counts.count[part], counts.total[part]
            np.save(self._folder / f"{self._batches}.npy", entries)
            self._lengths += np.bincount(entries["token"], minlength=len(self._lengths))
            self._batches += 1

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the table, mapped from the folder."""
        indptr = np.concatenate([[0], np.cumsum(self._lengths)]).astype(np.int64)
        kinds = {"feature": np.int32, "count": np.uint32, "total": np.float64}
        columns = {name: self._room(name, int(indptr[-1]), kind) for name, kind in kinds.items()}
        place = indptr[:-1].copy()
        for number in range(self._batches):
            path = self._folder / f"{number}.npy"
            entries = np.load(path)
            path.unlink()
            order = np.argsort(entries["token"], kind="stable")
            token = entries["token"][order]
            at = place[token] + np.arange(len(token)) - np.searchsorted(token, token)
            for name, column in columns.items():
                column[at] = entries[name][order]
            place += np.bincount(token, minlength=len(place))
        own = {"token_ids": self._token_ids, "occurrences": self._occurrences, "indptr": indptr}
        return own | columns

    def _room(self, name: str, length: int, kind: type) -> np.ndarray:
        if not length:
            return np.zeros(0, dtype=kind)
        return np.memmap(self._folder / name, dtype=kind, mode="w+", shape=(length,))
