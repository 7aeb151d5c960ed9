"""Where each token id stands in an index's texts, so that words of several tokens are found without reading those.

Kept in `places.safetensors` (`derived`): four bytes for each token of the texts. `searching` asks it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..core.sparse import stable_order
from .files import part_of
from .shard import Shard
from .token_table import occurrences_in

ARRAYS = ("token_ids", "indptr", "place")
"""Arrays of `places.safetensors`."""
_NARROW = 1 << 30
"""Tokens whose numbers, and sums of a few, int32 holds."""


class TokenPlaces:
    """The places of every token id.

    Args:
        arrays: int32 token_ids (t,), ascending, of every token in the texts; int64 indptr (t + 1,); and, by token id
            and then ascending, int32 (int64 for more than 2^30 tokens) place, the number of a token among all.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self._arrays = arrays
        self._token_ids = np.asarray(arrays["token_ids"]).astype(np.int64)
        self._indptr = np.asarray(arrays["indptr"])

    def of(self, token: int) -> np.ndarray:
        """Where a token stands, ascending; empty where it never does."""
        row = int(self._token_ids.searchsorted(token))
        known = row < len(self._token_ids) and self._token_ids[row] == token
        start, stop = self._indptr[row : row + 2].tolist() if known else (0, 0)
        return part_of(self._arrays, "place", start, stop)

    def starts(self, form: Sequence[int]) -> np.ndarray:
        """int64: where some tokens stand one after the other, by the first of them, ascending.

        They may belong to several texts.
        """
        places = [self.of(token) for token in form]
        rarest = min(range(len(form)), key=lambda i: len(places[i]))
        found = places[rarest] - places[rarest].dtype.type(rarest)
        for i, here in enumerate(places):
            if i != rarest and len(found):
                wanted = found + found.dtype.type(i)
                found = found[here[np.minimum(here.searchsorted(wanted), len(here) - 1)] == wanted]
        return found.astype(np.int64)


def places_in(shards: Sequence[Shard], folder: Path) -> dict[str, np.ndarray]:
    """The arrays of the places of all tokens, the longest of them mapped from a folder.

    Args:
        folder: Where there is none of that name yet.
    """
    token_ids, count = occurrences_in(shards)
    indptr = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    n = int(indptr[-1])
    place = np.memmap(folder / "place", np.int32 if n <= _NARROW else np.int64, "w+", shape=(n,))
    room, first = indptr[:-1].copy(), 0
    for shard in shards:
        row = np.searchsorted(token_ids, shard.tokens)
        order = stable_order(row, len(token_ids))
        row = row[order]
        place[room[row] + np.arange(len(row)) - np.searchsorted(row, row)] = order + first
        room += np.bincount(row, minlength=len(room))
        first += shard.n_tokens
    return {"token_ids": token_ids, "indptr": indptr, "place": place}
