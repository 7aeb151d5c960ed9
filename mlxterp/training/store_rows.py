"""An `ActivationStore` as a source of training rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..store import ActivationStore


class StoreRows:
    """`training.rows.Rows` of a store."""

    def __init__(self, store: ActivationStore, components: Sequence[str], block_rows: int, seed: int,
                 limit: int | None = None):  # fmt: skip
        self.names = tuple(components)
        self.widths = tuple(store.width(name) for name in components)
        self._store, self._seed = store, seed
        self._counts: dict[int, int] = {}
        left = len(store) if limit is None else limit
        for index in np.random.default_rng([seed, 5]).permutation(len(store.counts)).tolist():
            if left > 0:
                self._counts[index] = min(left, store.counts[index])
                left -= self._counts[index]
        self.total = sum(self._counts.values())
        mean = max(1, self.total // max(1, len(self._counts)))
        self._together = max(1, round(block_rows / mean))

    def blocks(self, epoch: int) -> int:
        return -(-len(self._counts) // self._together)

    def block(self, epoch: int, index: int) -> Iterator[tuple[np.ndarray, ...]]:
        order = np.random.default_rng([self._seed, 5, epoch]).permutation(sorted(self._counts)).tolist()
        for batch in order[index * self._together :][: self._together]:
            rows = slice(0, self._counts[batch])
            yield tuple(self._store.read(batch, name, rows) for name in self.names)

    def identity(self) -> dict[str, Any]:
        meta = self._store.meta
        return {name: meta[name] for name in ("components", "dtype", "batches", "settings")} | {
            "rows": self.total
        }

    def facts(self) -> dict[str, Any]:
        return {"excluded_tokens": self._store.meta.get("excluded", {})}
