"""One shard of an index: some tokens of the corpus, and for every feature those where it is active.

A safetensors file, memory-mapped, that knows nothing of other shards: numbers of texts count from its
first one. Features are the rows (the transpose of what an SAE gives), so a question about a feature
reads a slice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FeatureIndexError
from ..sparse import SparseFeatures
from .files import write_whole
from .plan import ShardPlan

_HEADER_LIMIT = 1 << 24
_TYPES = {"U8": np.uint8, "I32": np.int32, "U32": np.uint32, "F32": np.float32, "F64": np.float64, "I64": np.int64,
          "U64": np.uint64}  # fmt: skip
_ARRAYS = {
    "tokens": "I32", "prefixes": "U64", "offsets": "I64", "piece_text": "I64", "piece_start": "I64",
    "text_bytes": "U8", "text_ends": "I64", "indptr": "I64", "rows": "U32", "values": "F32",
}  # fmt: skip


class Shard:
    """A shard that is on disk. Arrays are memory-mapped and read-only."""

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

    def __init__(self, path: Path):
        self.path = path
        arrays = _mapped(path)
        for name in _ARRAYS:
            setattr(self, name, arrays[name])

    @property
    def n_tokens(self) -> int:
        """Tokens, those that were left out included."""
        return len(self.tokens)

    @property
    def by_feature(self) -> SparseFeatures:
        """Row f: the tokens (numbers in the shard) where feature f is active."""
        return SparseFeatures(self.indptr, self.rows, self.values, self.n_tokens)

    def firings(self, feature_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (numbers in the shard) where a feature is active, ascending, and its activations."""
        start, end = int(self.indptr[feature_id]), int(self.indptr[feature_id + 1])
        return self.rows[start:end], self.values[start:end]

    def pieces_of(self, rows: np.ndarray) -> np.ndarray:
        """int64: the piece of each token."""
        return np.searchsorted(self.offsets, rows, side="right") - 1

    def text(self, number: int) -> str:
        """A text that begins here; `number` counts those."""
        start = int(self.text_ends[number - 1]) if number else 0
        data = self.text_bytes[start : int(self.text_ends[number])].tobytes()
        return data.decode("utf-8", "surrogatepass")


def write_shard(path: Path, plan: ShardPlan, by_feature: SparseFeatures) -> None:
    """Writes a shard, whole or not at all.

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
        "indptr": by_feature.indptr,
        "rows": by_feature.indices.view(np.uint32),
        "values": by_feature.values,
    }
    write_arrays(path, arrays)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """A safetensors file, whole or not at all; arrays go straight to disk, aligned to 8 bytes."""
    codes = {np.dtype(kind).str.lstrip("<|"): code for code, kind in _TYPES.items()}
    arrays = {
        name: np.ascontiguousarray(array)
        for name, array in sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize)
    }
    header: dict[str, Any] = {}
    end = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": codes[array.dtype.str.lstrip("<|")],
            "shape": list(array.shape),
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    parts = [len(text).to_bytes(8, "little") + text, *(array.data for array in arrays.values() if array.size)]
    write_whole(path, parts)


def read_arrays(path: Path, expected: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays that `write_arrays` wrote, memory-mapped.

    Raises:
        FeatureIndexError: The file is missing, cut short, or holds something else.
    """
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _HEADER_LIMIT:
                raise ValueError("its header is too long")
            header = json.loads(file.read(length))
        data = _memory_of(path, 8 + length) if _has_data(header) else None
        found = {name: _array(header[name], data) for name in expected}
        size = max(entry["data_offsets"][1] for entry in header.values())
        if path.stat().st_size != 8 + length + size:
            raise ValueError("it was cut short")
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FeatureIndexError(
            f"{path} is not a file of this index: {type(error).__name__}: {error}. Remove it and run the same"
            " build_index again: it makes what is missing."
        ) from error


def _memory_of(path: Path, offset: int) -> np.ndarray:
    """The file from there on, mapped: slices of a plain array are made faster than those of np.memmap."""
    return np.asarray(np.memmap(path, dtype=np.uint8, mode="r", offset=offset))


def _has_data(header: Mapping[str, Any]) -> bool:
    return any(entry["data_offsets"][1] for entry in header.values())


def _array(entry: Mapping[str, Any], data: np.ndarray | None) -> np.ndarray:
    kind = np.dtype(_TYPES[entry["dtype"]])
    begin, end = (int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(n) for n in entry["shape"])
    if min((0, *shape)) < 0 or end - begin != int(np.prod(shape, dtype=object)) * kind.itemsize or begin < 0:
        raise ValueError("its header contradicts itself")
    if data is None or begin == end:
        return np.zeros(shape, dtype=kind)
    if end > len(data):
        raise ValueError("it was cut short")
    return data[begin:end].view(kind).reshape(shape)


def _mapped(path: Path) -> dict[str, np.ndarray]:
    arrays = read_arrays(path, tuple(_ARRAYS))
    pairs, pieces, texts = len(arrays["rows"]), len(arrays["piece_text"]), arrays["text_ends"]
    fits = (
        all(arrays[name].dtype == _TYPES[code] and arrays[name].ndim == 1 for name, code in _ARRAYS.items())
        and len(arrays["values"]) == pairs == int(arrays["indptr"][-1])
        and len(arrays["offsets"]) == pieces + 1 == len(arrays["piece_start"]) + 1
        and len(arrays["tokens"]) == len(arrays["prefixes"]) == int(arrays["offsets"][-1])
        and (int(texts[-1]) if len(texts) else 0) == len(arrays["text_bytes"])
    )
    if not fits:
        raise FeatureIndexError(
            f"{path} is not a shard of an index: its arrays do not belong together. Remove it and run the same"
            " build_index again: it makes what is missing."
        )
    return arrays


def _joined(arrays: Sequence[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, kind), *arrays]).astype(kind, copy=False)
