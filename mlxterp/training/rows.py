"""Where training's rows come from, and the mixing buffer that makes batches of them.

A source gives rows block by block, the same ones every time it is asked for the same block, so that a
run can go on where it was interrupted. `ArrayRows` and `StoreRows` are here; a model that runs while the SAE trains
is another (`activations.rows`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..activations.store import ActivationStore

_SAMPLED_ROWS = 64


class Rows(Protocol):
    """Activations of one or more components: the same tokens in each."""

    names: tuple[str, ...]
    widths: tuple[int, ...]
    total: int
    """Rows of an epoch; a source that leaves some out while it runs gives fewer."""

    def blocks(self, epoch: int) -> int:
        """How many blocks an epoch has."""
        ...

    def block(self, epoch: int, index: int) -> Iterator[tuple[np.ndarray, ...]]:
        """Rows of a block, piece by piece: float32 (rows, width) of each component."""
        ...

    def identity(self) -> dict[str, Any]:
        """What a run that goes on must find again, as JSON."""
        ...

    def facts(self) -> dict[str, Any]:
        """What an SAE's metadata should tell of the rows, as JSON."""
        ...


class ArrayRows:
    """Rows of arrays (n, width) in memory or memory-mapped, in random order.

    Args:
        limit: Use at most so many rows, chosen at random.
    """

    def __init__(self, arrays: Sequence[np.ndarray], names: Sequence[str], block_rows: int, seed: int,
                 limit: int | None = None):  # fmt: skip
        self.names = tuple(names)
        self.widths = tuple(int(array.shape[1]) for array in arrays)
        self._arrays, self._seed = arrays, seed
        rows = np.arange(len(arrays[0]), dtype=np.uint32 if len(arrays[0]) < 1 << 32 else np.int64)
        np.random.default_rng([seed, 0]).shuffle(rows)
        self._rows = rows[:limit]
        self._orders: dict[int, np.ndarray] = {0: self._rows}
        self._block_rows = max(1, block_rows)
        self.total = len(self._rows)

    def blocks(self, epoch: int) -> int:
        return -(-self.total // self._block_rows)

    def block(self, epoch: int, index: int) -> Iterator[tuple[np.ndarray, ...]]:
        rows = self._order(epoch)[index * self._block_rows :][: self._block_rows]
        rows = np.sort(rows)  # a memory map reads faster in order; the buffer mixes them again
        with np.errstate(over="ignore"):  # what becomes infinite is reported by name
            yield tuple(np.asarray(array[rows], dtype=np.float32) for array in self._arrays)

    def identity(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        some = np.linspace(0, len(self._arrays[0]) - 1, _SAMPLED_ROWS).astype(np.int64)
        for array in self._arrays:
            digest.update(np.ascontiguousarray(array[some]).data)
        shapes = [list(array.shape) for array in self._arrays]
        return {"arrays": shapes, "rows": self.total, "sample": digest.hexdigest()[:16]}

    def facts(self) -> dict[str, Any]:
        return {}

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            mixed = np.random.default_rng([self._seed, 0, epoch]).permutation(self._rows)
            self._orders = {0: self._rows, epoch: mixed}
        return self._orders[epoch]


class MixingBuffer:
    """Batches of mixed rows, block after block; the next block is computed while this one is used.

    The rows of a block are permuted. What one block leaves over comes first in the next.
    """

    def __init__(self, rows: Rows, epochs: int, seed: int):
        self._rows, self._epochs, self._seed = rows, epochs, seed
        self._held: tuple[np.ndarray, ...] = tuple(np.zeros((0, w), np.float32) for w in rows.widths)
        self._carry = self._held
        self._at = 0
        self._now: tuple[int, int] | None = None  # epoch and block that are held
        self._coming = self._start(self._after(None))

    def take(self, n: int) -> tuple[np.ndarray, ...]:
        """The next n rows of each component; fewer, or none, at the end."""
        self._fill(n)
        taken = tuple(held[self._at : self._at + n] for held in self._held)
        self._at += len(taken[0])
        if self._coming is not None:
            self._coming.pull()
        return taken

    def peek(self, n: int) -> tuple[np.ndarray, ...]:
        """The next n rows, which will come again."""
        self._fill(n)
        return tuple(held[self._at : self._at + n] for held in self._held)

    def held(self) -> tuple[np.ndarray, ...]:
        """The rows at hand, used and unused."""
        return self._held

    def state(self) -> dict[str, np.ndarray]:
        """Where it is: enough to go on with the very same rows."""
        epoch, block = self._now or (-1, -1)
        place = {"cursor": np.array([epoch, block, self._at], dtype=np.int64)}
        return place | {f"carry.{i}": carry for i, carry in enumerate(self._carry)}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes on from what `state` gave.

        Raises:
            KeyError, ValueError: It is not of this buffer.
        """
        epoch, block, at = (int(number) for number in state["cursor"])
        self._carry = tuple(np.array(state[f"carry.{i}"]) for i in range(len(self._rows.widths)))
        if epoch >= 0 and not (epoch < self._epochs and 0 <= block < self._rows.blocks(epoch)):
            raise ValueError(f"there is no block {block} in epoch {epoch}")
        if [carry.shape[1:] for carry in self._carry] != [(width,) for width in self._rows.widths]:
            raise ValueError("the rows that are left over are not as wide as the component")
        self._held, self._at, self._now = self._carry, 0, None
        self._coming = self._start((epoch, block) if epoch >= 0 else self._after(None))
        if epoch >= 0:
            self._next_block()
        if not 0 <= at <= len(self._held[0]):
            raise ValueError(f"there is no row {at} in a block of {len(self._held[0])}")
        self._at = at

    def _fill(self, n: int) -> None:
        while len(self._held[0]) - self._at < n and self._coming is not None:
            self._next_block()

    def _next_block(self) -> None:
        assert self._coming is not None
        coming, self._now = self._coming, self._coming.place
        self._carry = tuple(held[self._at :].copy() for held in self._held)
        block = coming.finish()
        order = np.random.default_rng([self._seed, 1, *coming.place]).permutation(len(block[0]))
        self._held, self._at = (), 0  # two blocks are enough to hold at a time
        mixed = []
        for carry, rows in zip(self._carry, block, strict=True):
            held = np.empty((len(carry) + len(rows), rows.shape[1]), dtype=np.float32)
            held[: len(carry)] = carry
            np.take(rows, order, axis=0, out=held[len(carry) :], mode="clip")
            mixed.append(held)
        self._held = tuple(mixed)
        self._coming = self._start(self._after(coming.place))

    def _after(self, place: tuple[int, int] | None) -> tuple[int, int] | None:
        epoch, block = place or (0, -1)
        while block + 1 >= self._rows.blocks(epoch):
            epoch, block = epoch + 1, -1
            if epoch >= self._epochs:
                return None
        return epoch, block + 1

    def _start(self, place: tuple[int, int] | None) -> _Coming | None:
        return None if place is None else _Coming(self._rows, place)


class _Coming:
    """A block on its way."""

    def __init__(self, rows: Rows, place: tuple[int, int]):
        self.place = place
        self._widths = rows.widths
        self._pieces: list[tuple[np.ndarray, ...]] = []
        self._source = rows.block(*place)

    def pull(self) -> bool:
        """Computes one more piece; False where there is none."""
        piece = next(self._source, None)
        if piece is not None:
            self._pieces.append(piece)
        return piece is not None

    def finish(self) -> tuple[np.ndarray, ...]:
        while self.pull():
            pass
        if not self._pieces:
            return tuple(np.zeros((0, width), dtype=np.float32) for width in self._widths)
        if len(self._pieces) == 1:
            return self._pieces[0]
        return tuple(np.concatenate(column) for column in zip(*self._pieces, strict=True))


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
