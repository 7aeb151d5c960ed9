"""`ColumnPlan`: many vectors at positions of several sources, laid out so that a gradient meets them in few products.

Vectors of one source are put into blocks: a block is of one position and has places for equally many vectors, so one
batched product of (blocks, rows, width) and (blocks, width, size) takes all of a source. NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...core.frozen import Key, SourceVectors

_OVERHEAD = 8
"""Vectors that a block costs beside its own."""


@dataclass(frozen=True, eq=False, slots=True)
class Blocks:
    """The vectors of one source.

    Attributes:
        key: The source.
        positions: int64, (blocks,).
        vectors: float32, (blocks, width, size): 0 in places without a vector.
        places: int64, (vectors,): block * size + place of each vector.
        numbers: int64, (vectors,): which of all columns each vector is.
    """

    key: Key
    positions: np.ndarray
    vectors: np.ndarray
    places: np.ndarray
    numbers: np.ndarray


class ColumnPlan:
    """Blocks of all sources.

    Attributes:
        blocks: One entry for each source.
    """

    def __init__(self, columns: Sequence[SourceVectors]):
        starts = np.cumsum([0, *(len(column.positions) for column in columns)])
        self._width = int(starts[-1])
        by_key: dict[Key, list[int]] = {}
        for number, column in enumerate(columns):
            by_key.setdefault(column.key, []).append(number)
        self.blocks = [
            _blocks(
                key,
                np.concatenate([columns[i].positions for i in own]).astype(np.int64),
                np.concatenate([columns[i].vectors for i in own]),
                np.concatenate([np.arange(starts[i], starts[i + 1]) for i in own]),
            )
            for key, own in by_key.items()
        ]

    def gathered(self, products: Sequence[np.ndarray]) -> np.ndarray:
        """float32, (rows, columns): the products of each entry of `blocks`, (blocks, rows, size), as columns."""
        found = np.zeros((products[0].shape[1] if products else 0, self._width), np.float32)
        for block, product in zip(self.blocks, products, strict=True):
            flat = product.transpose(1, 0, 2).reshape(product.shape[1], -1)
            found[:, block.numbers] = flat[:, block.places]
        return found


def _blocks(key: Key, positions: np.ndarray, vectors: np.ndarray, numbers: np.ndarray) -> Blocks:
    order = np.argsort(positions, kind="stable")
    positions, vectors, numbers = positions[order], vectors[order], numbers[order]
    held, first, counts = np.unique(positions, return_index=True, return_counts=True)
    size = _size(counts)
    blocks_of = -(-counts // size)
    block_starts = np.cumsum(blocks_of) - blocks_of
    rank = np.arange(len(positions)) - np.repeat(first, counts)
    places = np.repeat(block_starts, counts) * size + rank
    n = int(blocks_of.sum())
    laid = np.zeros((n * size, vectors.shape[1]), np.float32)
    laid[places] = vectors
    return Blocks(
        key, np.repeat(held, blocks_of), np.ascontiguousarray(laid.reshape(n, size, -1).transpose(0, 2, 1)),
        places, numbers,
    )  # fmt: skip


def _size(counts: np.ndarray) -> int:
    """How many places a block has, so that all blocks together cost least."""
    if not len(counts):
        return 1
    sizes = np.unique(counts)
    cost = [int((-(-counts // size)).sum()) * (int(size) + _OVERHEAD) for size in sizes]
    return int(sizes[int(np.argmin(cost))])
