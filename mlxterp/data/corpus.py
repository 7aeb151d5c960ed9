"""Many texts as token ids, and the batches in which a model runs them.

A `Corpus` is made once from texts; `activations.forward` runs it. Texts are sorted by length so that a
batch holds little padding, and a text longer than the model's positions runs in windows that
overlap by half: every token comes back exactly once, from the window where it has most context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.texts import NO_TOKENIZER, TokenText
from ..core.tokens import TokenBatch, Tokenize
from ..errors import InputError, NoTokenizerError, warn
from .dataset import texts_of

_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, eq=False, slots=True)
class CorpusBatch:
    """Texts, or windows of long texts, that run together."""

    tokens: TokenBatch
    """(rows, longest) token ids, right-padded."""
    text_ids: np.ndarray
    """int64, (rows,): the text of each row."""
    starts: np.ndarray
    """int64, (rows,): position in the text of a row's first token; 0 but for windows."""
    fresh: np.ndarray
    """int64, (rows,): first column that no earlier window of the text has covered."""

    def kept(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row, column, and position in its text of every token that counts here."""
        columns = np.arange(self.tokens.ids.shape[1])
        mask = (columns >= self.fresh[:, None]) & (columns < self.tokens.lengths[:, None])
        rows, columns = np.nonzero(mask)
        return rows, columns, self.starts[rows] + columns


@dataclass(frozen=True, eq=False, slots=True)
class Corpus:
    """Token ids of texts, one after the other."""

    tokens: np.ndarray
    """int32, (n,): all token ids."""
    offsets: np.ndarray
    """int64, (texts + 1,): where each text starts; the last entry is n."""
    texts: tuple[str, ...] | None = None
    """The texts themselves, where they were given as text."""

    @staticmethod
    def from_texts(texts: Any, tokenize: Tokenize | None) -> Corpus:
        """Tokenizes each text; nothing is added or removed.

        Args:
            texts: Whatever `dataset.texts_of` takes. Texts that were given as token ids need no tokenizer.

        Raises:
            InputError: Not a list of strings, an empty list, or a text without tokens.
            NoTokenizerError: The model has no tokenizer.
        """
        texts = texts_of(texts)
        if tokenize is None and not all(isinstance(text, TokenText) for text in texts):
            raise NoTokenizerError(NO_TOKENIZER)
        rows = [
            text.ids if isinstance(text, TokenText) else tokenize(text)  # type: ignore[misc]
            for text in texts
        ]
        return Corpus._of_rows(rows, tuple(texts))

    @staticmethod
    def from_token_ids(rows: Sequence[Sequence[int] | np.ndarray]) -> Corpus:
        """Texts given as lists of token ids.

        Raises:
            InputError: There are none, or one is empty.
        """
        if len(rows) == 0:
            raise InputError("An empty list was given. Give at least one list of token ids.")
        return Corpus._of_rows(rows, None)

    @staticmethod
    def _of_rows(rows: Sequence[Sequence[int] | np.ndarray], texts: tuple[str, ...] | None) -> Corpus:
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        empty = np.flatnonzero(lengths == 0)
        if empty.size:
            raise InputError(
                f"Text {int(empty[0])} of {len(rows)} has no tokens. Leave empty texts out:"
                " [text for text in texts if text]."
            )
        tokens = np.concatenate([np.asarray(row, dtype=np.int32) for row in rows])
        return Corpus(tokens, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), texts)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64, (texts,): tokens of each text."""
        return np.diff(self.offsets)

    def ids(self, text_id: int) -> np.ndarray:
        """int32, (length,): token ids of one text."""
        return self.tokens[self.offsets[text_id] : self.offsets[text_id + 1]]

    def prefixes(self) -> np.ndarray:
        """uint64, (n,): a hash of each token's text up to and including it.

        Equal where all tokens from the text's start on are equal, so where a causal model computes
        the same; that in fact rounding differs with the batch can then be told from a difference.
        """
        positions = np.arange(len(self.tokens)) - np.repeat(self.offsets[:-1], self.lengths)
        powers = np.cumprod(np.full(int(self.lengths.max()), _ODD), dtype=np.uint64)  # modulo 2^64
        total = np.cumsum(scatter(self.tokens) * powers[positions], dtype=np.uint64)
        before = np.concatenate([np.zeros(1, np.uint64), total])[self.offsets[:-1]]
        return scatter(total - np.repeat(before, self.lengths)) + scatter(positions)

    def batches(
        self, batch_tokens: int = 2048, max_positions: int | None = None, quiet: bool = False
    ) -> Iterator[CorpusBatch]:
        """All texts, shortest first, in batches of rows x longest <= `batch_tokens`.

        A single text longer than that is a batch of its own. One `MlxterpWarning` says how many
        texts are longer than `max_positions` and run in windows, unless `quiet`.

        Raises:
            InputError: `batch_tokens` or `max_positions` is below 1.
        """
        if batch_tokens < 1 or (max_positions is not None and max_positions < 1):
            raise InputError(
                f"batch_tokens={batch_tokens}, max_positions={max_positions}: both must be at least 1."
            )
        long = 0 if max_positions is None else int((self.lengths > max_positions).sum())
        if long and not quiet:
            warn(
                f"{long} of {len(self)} texts are longer than the model's {max_positions} positions and run"
                " in overlapping windows: their later tokens see only part of the text before them."
            )
        windows = self._windows(max_positions)
        order = np.argsort(windows[:, 2] - windows[:, 1], kind="stable")
        return (self._batch(windows[group]) for group in _groups(windows, order, batch_tokens))

    def _windows(self, size: int | None) -> np.ndarray:
        """int64, (windows, 4): text, start, end and first fresh position of each, by text."""
        size = int(self.lengths.max()) if size is None else size
        stride = max(1, size // 2)
        rows: list[tuple[int, int, int, int]] = []
        for text, length in enumerate(self.lengths.tolist()):
            start, covered = 0, 0
            while covered < length:
                end = min(start + size, length)
                rows.append((text, start, end, covered))
                start, covered = start + stride, end
        return np.array(rows, dtype=np.int64)

    def _batch(self, windows: np.ndarray) -> CorpusBatch:
        text_ids, starts, ends, fresh = windows.T
        begin = self.offsets[text_ids]
        rows = [self.tokens[a:b].tolist() for a, b in zip(begin + starts, begin + ends, strict=True)]
        return CorpusBatch(TokenBatch.from_rows(rows), text_ids, starts, fresh - starts)


def scatter(x: np.ndarray) -> np.ndarray:
    """A random-looking uint64 for each whole number (splitmix64)."""
    x = x.astype(np.uint64) + _ODD
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _groups(windows: np.ndarray, order: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    group: list[int] = []
    for i in order.tolist():
        length = int(windows[i, 2] - windows[i, 1])  # the longest so far: lengths ascend
        if group and (len(group) + 1) * length > batch_tokens:
            yield np.array(group)
            group = []
        group.append(i)
    if group:
        yield np.array(group)
