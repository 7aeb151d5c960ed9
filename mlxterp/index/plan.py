"""A data set cut into shards: which tokens each holds, and what the model has to see to compute them.

`shard_plans` is made from texts alone and always comes out the same, so an interrupted build goes on where it
was, and several workers can compute shards in any order. A text longer than the model's positions
runs in windows that overlap by half, as everywhere; it may lie in several shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.texts import text_bytes
from ..core.tokens import Tokenize
from ..data.corpus import Corpus
from ..data.dataset import Texts


@dataclass(frozen=True, eq=False, slots=True)
class Piece:
    """A text, or the part of a long one, that lies in a shard."""

    text: int
    """Number of the text, counted from the shard's first."""
    start: int
    """Position in the text of the piece's first token."""
    ids: np.ndarray
    """int32: token ids of the piece, after those that came before it in its window."""
    context: int
    """How many of `ids` came before: they are run, and belong to an earlier shard."""
    prefixes: np.ndarray
    """uint64, (tokens,): of each token of the piece, as `Corpus.prefixes` gives them."""

    @property
    def tokens(self) -> np.ndarray:
        """int32: the piece's own tokens."""
        return self.ids[self.context :]


@dataclass(frozen=True, eq=False, slots=True)
class ShardPlan:
    """What a shard is to hold."""

    number: int
    first_text: int
    """Number of the first text that has a piece here."""
    texts: tuple[str, ...]
    """Texts that begin here; the first of them has number first_text + 1 where a piece goes on from before."""
    pieces: tuple[Piece, ...]
    ends: bool
    """Whether its last text ends here."""
    windowed: int
    """How many of the texts that begin here are longer than the model's positions, and run in windows."""

    @property
    def n_tokens(self) -> int:
        """Tokens of all pieces."""
        return sum(len(piece.tokens) for piece in self.pieces)

    @property
    def continues(self) -> bool:
        """Whether the first piece goes on with a text of the shard before."""
        return bool(self.pieces) and self.pieces[0].text == 0 and self.pieces[0].start > 0

    def data_hash(self) -> str:
        """sha256 of the texts that begin here."""
        return hash_texts(self.texts)


def hash_texts(texts: Sequence[str]) -> str:
    """sha256 of texts and where they end."""
    digest = hashlib.sha256()
    for text in texts:
        data = text_bytes(text)
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def shard_plans(
    texts: Texts,
    tokenize: Tokenize,
    size: int | None,
    shard_tokens: int,
    first_text: int = 0,
    first_number: int = 0,
) -> Iterator[ShardPlan]:
    """Shards of at most `shard_tokens` tokens (a whole number of windows of a longer text may be more).

    Args:
        size: Positions of the model; longer texts run in windows. None: it takes any length.
        first_text: Texts before this one are left out.
        first_number: Number of the first shard.
    """
    open_shard = _OpenShard(first_number, first_text)
    for number, text in _from(texts, first_text):
        pieces = list(_pieces(np.asarray(tokenize(text), dtype=np.int32), size, shard_tokens))
        fits = open_shard.n_tokens + sum(len(ids) - context for _, ids, context, _ in pieces) <= shard_tokens
        if open_shard.n_tokens and not fits:
            yield open_shard.close()
            open_shard = _OpenShard(open_shard.number + 1, number)
        open_shard.texts.append(text)
        open_shard.windowed += bool(pieces) and size is not None and pieces[-1][0] + len(pieces[-1][3]) > size
        for i, piece in enumerate(pieces):
            if i:
                yield open_shard.close(ends=False)
                open_shard = _OpenShard(open_shard.number + 1, number)
            open_shard.add(number, *piece)
    if open_shard.texts or open_shard.pieces:
        yield open_shard.close()


class _OpenShard:
    """A shard that still grows."""

    def __init__(self, number: int, first_text: int):
        self.number, self.first_text = number, first_text
        self.texts: list[str] = []
        self.pieces: list[Piece] = []
        self.n_tokens = self.windowed = 0

    def add(self, number: int, start: int, ids: np.ndarray, context: int, prefixes: np.ndarray) -> None:
        self.pieces.append(Piece(number - self.first_text, start, ids, context, prefixes))
        self.n_tokens += len(ids) - context

    def close(self, ends: bool = True) -> ShardPlan:
        pieces = tuple(self.pieces)
        return ShardPlan(self.number, self.first_text, tuple(self.texts), pieces, ends, int(self.windowed))


def _from(texts: Texts, first: int) -> Iterator[tuple[int, str]]:
    if hasattr(texts, "__getitem__"):
        yield from ((i, texts[i]) for i in range(first, len(texts)))  # type: ignore[arg-type,index]
    else:
        yield from ((i, text) for i, text in enumerate(texts) if i >= first)  # type: ignore[arg-type]


def _pieces(
    ids: np.ndarray, size: int | None, shard_tokens: int
) -> Iterator[tuple[int, np.ndarray, int, np.ndarray]]:
    """(start, ids with what came before, how many came before, prefixes) of a text's pieces; none of an empty one."""
    if not len(ids):
        return
    prefixes = Corpus.from_token_ids([ids]).prefixes()
    if len(ids) <= shard_tokens or size is None or len(ids) <= size:
        yield 0, ids, 0, prefixes
        return
    stride = max(1, size // 2)
    windows = max(1, (shard_tokens - size) // stride + 1)  # of each piece
    first, covered = 0, 0
    while covered < len(ids):
        begin = first * stride
        end = min(begin + (windows - 1) * stride + size, len(ids))
        yield covered, ids[begin:end], covered - begin, prefixes[covered:end]
        first, covered = first + windows, end
