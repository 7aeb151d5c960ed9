"""Contexts: texts cut to what a model sees at once, mixed, and handed out in blocks.

Training and `collect_activations` run a model over these. A block is the same whenever it is asked for.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..core.progress import hidden
from ..core.tokens import Tokenize
from ..errors import InputError, warn
from .corpus import Corpus
from .dataset import ListedTexts, StreamedTexts, Texts, mixed_order


class ListedContexts:
    """Contexts of texts that can each be reached: tokenized once, in random order.

    Args:
        length: Longer texts are cut; what is left over at a text's end is a context too.
        block_tokens: Tokens of a block, about.
        limit: At most so many tokens, of texts chosen at random; the last context is cut.
        progress: Show a bar while texts are tokenized.
    """

    def __init__(self, texts: ListedTexts, tokenize: Tokenize, length: int, block_tokens: int, seed: int,
                 limit: int | None = None, progress: bool = True):  # fmt: skip
        from tqdm.auto import tqdm

        rows: list[Sequence[int]] = []
        tokens = 0
        order = mixed_order(len(texts), seed).tolist()
        for index in tqdm(order, desc="Tokenizing", unit="text", disable=hidden(progress)):
            for context in _cut(tokenize(texts[index]), length):
                rows.append(context[: None if limit is None else limit - tokens])
                tokens += len(rows[-1])
            if limit is not None and tokens >= limit:
                break
        rows = [row for row in rows if len(row)]
        if not rows:
            raise InputError(
                "There are no tokens: the dataset is empty, or all its texts are. Give more texts."
            )
        if limit is not None and tokens < limit:
            warn(f"tokens={limit} asked for, {tokens} are there: training on {tokens}.")
        self.tokens = tokens
        """Of all contexts."""
        self.longest = max(map(len, rows))
        """Tokens of the longest context."""
        self._all = Corpus.from_token_ids(rows)
        self._seed, self._block_tokens = seed, block_tokens
        self._known: dict[int, list[np.ndarray]] = {}

    def blocks(self, epoch: int) -> int:
        """How many blocks an epoch has."""
        return len(self._of(epoch))

    def block(self, epoch: int, index: int) -> Corpus:
        """The contexts of a block."""
        return Corpus.from_token_ids([self._all.ids(int(i)).tolist() for i in self._of(epoch)[index]])

    def identity(self) -> dict[str, Any]:
        """What tells these contexts from others, as JSON."""
        digest = hashlib.sha256(np.ascontiguousarray(self._all.tokens).data)
        digest.update(self._all.offsets.data)
        return {"contexts": len(self._all), "tokens": self.tokens, "hash": digest.hexdigest()[:16]}

    def _of(self, epoch: int) -> list[np.ndarray]:
        """Numbers of the contexts in each block of an epoch."""
        if epoch not in self._known:
            order = np.random.default_rng([self._seed, 4, epoch]).permutation(len(self._all))
            ends = np.cumsum(self._all.lengths[order])
            number = max(1, round(self.tokens / self._block_tokens))
            cuts = np.searchsorted(ends, np.arange(1, number) * (self.tokens / number))
            self._known[epoch] = [part for part in np.split(order, cuts) if len(part)]
        return self._known[epoch]


class StreamedContexts:
    """Contexts of texts that come one after the other; mixed within a block only.

    Args:
        limit: Tokens of an epoch, at most: a stream does not say how long it is.
    """

    def __init__(self, texts: StreamedTexts, tokenize: Tokenize, length: int, block_tokens: int, limit: int):
        self._texts, self._tokenize, self._length = texts, tokenize, length
        self._block_tokens = block_tokens
        self.tokens = limit
        self._next = 0
        self._open: Iterator[Sequence[int]] | None = None

    def blocks(self, epoch: int) -> int:
        """How many blocks an epoch has, if the stream is long enough."""
        return -(-self.tokens // self._block_tokens)

    def block(self, epoch: int, index: int) -> Corpus | None:
        """The contexts of a block; None where the stream has ended before."""
        if self._open is None or index < self._next:
            self._open, self._next = self._contexts(), 0
        rows: list[Sequence[int]] = []
        while self._next <= index:
            rows = list(self._one_block(self._next))
            self._next += 1
        return Corpus.from_token_ids(rows) if rows else None

    def identity(self) -> dict[str, Any]:
        """What tells these contexts from others, as JSON: their beginning."""
        first = list(itertools.islice(self._contexts(), 8))
        digest = hashlib.sha256(repr([list(map(int, row)) for row in first]).encode())
        return {"contexts": None, "tokens": self.tokens, "hash": digest.hexdigest()[:16]}

    def _contexts(self) -> Iterator[Sequence[int]]:
        for text in self._texts:
            yield from _cut(self._tokenize(text), self._length)

    def _one_block(self, index: int) -> Iterator[Sequence[int]]:
        assert self._open is not None
        left = min(self._block_tokens, self.tokens - index * self._block_tokens)
        for context in self._open:
            yield context[:left]
            left -= len(context)
            if left <= 0:
                return


Contexts = ListedContexts | StreamedContexts


def open_contexts(
    texts: Texts,
    tokenize: Tokenize,
    length: int,
    block_tokens: int,
    seed: int,
    limit: int | None,
    progress: bool,
) -> Contexts:
    """Contexts of texts, whichever they are.

    Raises:
        InputError: There are none; or a stream came without a limit.
    """
    if isinstance(texts, ListedTexts):
        return ListedContexts(texts, tokenize, length, block_tokens, seed, limit, progress)
    if limit is None:
        raise InputError(
            "A streamed data set does not say how long it is, and the learning rate follows the run's length."
            " Say how much to use: SAETrainConfig(tokens=…), or collect_activations(…, tokens=…)."
        )
    return StreamedContexts(texts, tokenize, length, block_tokens, limit)


def _cut(tokens: Sequence[int], length: int) -> Iterator[Sequence[int]]:
    for i in range(0, len(tokens), length):
        yield tokens[i : i + length]
