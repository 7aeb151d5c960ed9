"""One shard of an index: some tokens of the corpus, and for every feature those where it is active.

A safetensors file, memory-mapped, that knows nothing of other shards: numbers of texts count from its
first one. Features are the rows (the transpose of what an SAE gives), so a question about a feature
reads a slice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..core.sparse import SparseFeatures
from .files import ArrayFile, damaged, packed, write_atomically
from .plan import ShardPlan

_ARRAYS = {
    "tokens": "I32", "prefixes": "U64", "offsets": "I64", "piece_text": "I64", "piece_start": "I64",
    "text_bytes": "U8", "text_ends": "I64", "indptr": "I64", "rows": "U32", "values": "F32",
}  # fmt: skip


class Shard:
    """A shard that is on disk. Arrays are memory-mapped, read-only, and checked when they are first used.

    Args:
        digest: What `index.json` says of the file; None for an index of mlxterp 0.1.0.

    Raises:
        FeatureIndexError: The file is missing or damaged; so does every later use of what is damaged.
    """

    tokens: np.ndarray
    """int32, (n,): token ids of all pieces."""
    prefixes: np.ndarray
    """uint64, (n,): as `Corpus.prefixes` gives them."""
    offsets: np.ndarray
    """int64, (pieces + 1,): where each piece starts in `tokens`."""
    piece_text: np.ndarray
    """int64, (pieces,): the text of each, counted from the shard's first."""
    piece_start: np.ndarray
    """int64, (pieces,): the position in its text of each piece's first token."""
    text_bytes: np.ndarray
    """uint8: the texts that begin here, UTF-8 (lone surrogates kept)."""
    text_ends: np.ndarray
    """int64, (texts,): where each ends in `text_bytes`."""
    indptr: np.ndarray
    """int64, (d_hidden + 1,): where each feature starts in `rows` and `values`."""
    rows: np.ndarray
    """uint32, (pairs,): tokens where the feature is active, ascending."""
    values: np.ndarray
    """float32, (pairs,): its activations there."""

    def __init__(self, path: Path, digest: str | None):
        self.path = path
        self._file = ArrayFile(path, tuple(_ARRAYS), digest)
        _check_lengths(self._file)
        if digest is None:
            self._check_offsets()

    def __getattr__(self, name: str) -> np.ndarray:
        if name not in _ARRAYS:
            raise AttributeError(name)
        array = self._file[name]
        setattr(self, name, array)  # it is compared once
        return array

    @property
    def n_tokens(self) -> int:
        """Tokens, those that were left out included."""
        return self._file.length("tokens")

    @property
    def n_pairs(self) -> int:
        """Active features of all tokens."""
        return self._file.length("values")

    @property
    def n_texts(self) -> int:
        """Texts that begin here."""
        return self._file.length("text_ends")

    @property
    def by_feature(self) -> SparseFeatures:
        """Row f: the tokens (numbers in the shard) where feature f is active."""
        return SparseFeatures(self.indptr, self.rows, self.values, self.n_tokens)

    def check(self) -> None:
        """Compares all of the file with its digests.

        Raises:
            FeatureIndexError: It is damaged.
        """
        self._file.check()

    def firings(self, feature_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (numbers in the shard) where a feature is active, ascending, and its activations."""
        start, end = self.indptr[feature_id : feature_id + 2].tolist()
        return self._file.part("rows", start, end), self._file.part("values", start, end)

    def _check_offsets(self) -> None:
        """Raises FeatureIndexError where numbers that no digest binds would lead out of the arrays."""
        ends = {
            "indptr": self.n_pairs,
            "offsets": self.n_tokens,
            "text_ends": self._file.length("text_bytes"),
        }
        fits = all(
            (int(array[-1]) if len(array) else 0) == end and _ascends(array)
            for array, end in ((getattr(self, name), end) for name, end in ends.items())
        )
        starts = int(self.piece_start.min(initial=0)) >= 0
        if not (
            fits and starts and _ascends(self.piece_text) and int(self.rows.max(initial=0)) <= self.n_tokens
        ):
            raise damaged(self.path, "its arrays do not belong together")

    def pieces_of(self, rows: np.ndarray) -> np.ndarray:
        """int64: the piece of each token."""
        if len(rows) > self.n_tokens:  # a look at every token is less than a search for every row
            return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))[rows]
        return np.searchsorted(self.offsets, rows, side="right") - 1

    def text(self, number: int) -> str:
        """A text that begins here; `number` counts those."""
        start = int(self.text_ends[number - 1]) if number else 0
        data = self.text_bytes[start : int(self.text_ends[number])]
        try:
            return str(data.data, "utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise damaged(self.path, error) from error


def write_shard(path: Path, plan: ShardPlan, by_feature: SparseFeatures) -> str:
    """Writes a shard, whole or not at all; returns its digest.

    Args:
        by_feature: Row f: the tokens where feature f is active, as they are counted in the plan.
    """
    pieces = plan.pieces
    blobs = [text.encode("utf-8", "surrogatepass") for text in plan.texts]
    arrays = {
        "tokens": _joined([piece.tokens for piece in pieces], np.int32),
        "prefixes": _joined([piece.prefixes for piece in pieces], np.uint64),
        "offsets": np.concatenate([[0], np.cumsum([len(piece.tokens) for piece in pieces])]).astype(np.int64),
        "piece_text": np.array([piece.text for piece in pieces], dtype=np.int64),
        "piece_start": np.array([piece.start for piece in pieces], dtype=np.int64),
        "text_bytes": np.frombuffer(b"".join(blobs), dtype=np.uint8),
        "text_ends": np.cumsum([len(blob) for blob in blobs], dtype=np.int64),
    }
    return _write(path, arrays, by_feature)


def rewrite_shard(path: Path, shard: Shard, by_feature: SparseFeatures) -> str:
    """Writes the tokens and texts of a shard with other features; returns the new file's digest."""
    return _write(path, {name: getattr(shard, name) for name in _ARRAYS}, by_feature)


def _write(path: Path, arrays: Mapping[str, np.ndarray], by_feature: SparseFeatures) -> str:
    rows = by_feature.indices.view(np.uint32)
    features = {"indptr": by_feature.indptr, "rows": rows, "values": by_feature.values}
    parts, digest = packed({**arrays, **features})
    write_atomically(path, parts)
    return digest


def _check_lengths(file: ArrayFile) -> None:
    """Raises FeatureIndexError where arrays of a shard do not belong together."""
    pieces, tokens, pairs = (file.length(name) for name in ("piece_text", "tokens", "rows"))
    expected = {"prefixes": tokens, "offsets": pieces + 1, "piece_start": pieces, "values": pairs}
    kinds = all(file.kind(name) == code for name, code in _ARRAYS.items())
    if not kinds or any(file.length(name) != length for name, length in expected.items()):
        raise damaged(file.path, "its arrays do not belong together")


def _ascends(array: np.ndarray) -> bool:
    return int(array.min(initial=0)) >= 0 and bool((np.diff(array) >= 0).all())


def _joined(arrays: Sequence[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, kind), *arrays]).astype(kind, copy=False)
