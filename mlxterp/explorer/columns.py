"""The table of all features as one binary file: the list of features is sorted and filtered in the browser.

u32 (little-endian)    length of the header
header                 JSON, padded with spaces to four bytes: what there is, and where each column begins
columns                arrays, each at a multiple of four bytes after the header
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..index import FeatureIndex

TOP_TOKENS, BINS = 5, 12


def packed(columns: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> bytes:
    """A table's bytes.

    Args:
        columns: Of 1- or 4-byte numbers; the larger kinds come first.
        facts: What the header says beside them.
    """
    places, parts, offset = {}, [], 0
    for name, column in sorted(columns.items(), key=lambda item: -item[1].dtype.itemsize):
        data = np.ascontiguousarray(column.astype(column.dtype.newbyteorder("<"))).tobytes()
        places[name] = [column.dtype.str.lstrip("<>|="), list(column.shape), offset]
        data += b"\0" * (-len(data) % 4)
        parts.append(data)
        offset += len(data)
    header = json.dumps({**facts, "columns": places}, ensure_ascii=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 4)
    return b"".join([struct.pack("<I", len(header)), header, *parts])


def etag_of(data: bytes) -> str:
    """The name of these bytes, as HTTP has it."""
    return f'"{hashlib.sha256(data).hexdigest()[:24]}"'


def table_of(index: FeatureIndex, more: Mapping[str, np.ndarray] | None = None) -> bytes:
    """The table of an index's features.

    Args:
        more: Further columns.
    """
    columns, totals = derived(index)
    used = np.unique(columns["top_tokens"])
    used = used[used >= 0].tolist()
    facts = {
        "d": index.d_hidden, "tokens": index.n_tokens, "texts": index.n_texts,
        "pieces": {str(token): index._piece(token) for token in used},
        "totals": {str(token): int(totals[token]) for token in used},
    }  # fmt: skip
    return packed({**columns, **(more or {})}, facts)


def derived(index: FeatureIndex) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns counted from the shards; and how often each token id occurs."""
    summary, d = index.summary, index.d_hidden
    count = np.asarray(summary.count)
    maximum = np.asarray(summary.maximum)
    ids, numbers, n_texts, heights, totals = _counted(index, np.abs(maximum))
    largest = np.maximum(heights.max(axis=1, keepdims=True), 1)
    texts, positions, _ = index.strongest_tokens(1)
    columns = {
        "count": count.astype(np.uint32), "mean": (summary.total / np.maximum(count, 1)).astype(np.float32),
        "maximum": maximum.astype(np.float32), "n_texts": n_texts.astype(np.uint32), "top_tokens": ids,
        "top_token_counts": numbers, "spark": np.ceil(255 * np.sqrt(heights / largest)).astype(np.uint8),
        "best_text": texts[:, 0].astype(np.int32), "best_position": positions[:, 0].astype(np.int32),
    }  # fmt: skip
    assert all(len(column) == d for column in columns.values())
    return columns, totals


def _counted(index: FeatureIndex, scale: np.ndarray) -> tuple[np.ndarray, ...]:
    d = index.d_hidden
    keys, counts = [], []
    n_texts, heights = np.zeros(d, np.int64), np.zeros(d * BINS, np.int64)
    totals = np.zeros(1, np.int64)
    for shard in index._reader.shards():
        features = np.repeat(np.arange(d, dtype=np.int64), np.diff(shard.indptr))
        rows, values = np.asarray(shard.rows), np.asarray(shard.values)
        tokens = np.asarray(shard.tokens)
        here = np.bincount(tokens, minlength=len(totals))
        here[: len(totals)] += totals
        totals = here
        found, n = np.unique(features << 32 | tokens[rows].astype(np.int64), return_counts=True)
        keys.append(found)
        counts.append(n)
        text = shard.piece_text[shard.pieces_of(rows)]
        first = np.append(True, (features[1:] != features[:-1]) | (text[1:] != text[:-1]))[: len(features)]
        n_texts += np.bincount(features[first], minlength=d)
        bins = np.clip(
            (np.abs(values) / np.maximum(scale[features], 1e-9) * BINS).astype(np.int64), 0, BINS - 1
        )
        heights += np.bincount(features * BINS + bins, minlength=d * BINS)
    key, where = np.unique(np.concatenate(keys), return_inverse=True)
    number = np.bincount(where, weights=np.concatenate(counts), minlength=len(key)).astype(np.int64)
    feature, token = key >> 32, (key & 0xFFFFFFFF).astype(np.int32)
    order = np.lexsort((token, -number, feature))
    rank = np.arange(len(order)) - np.searchsorted(feature[order], feature[order])
    kept = order[rank < TOP_TOKENS]
    ids, numbers = np.full((d, TOP_TOKENS), -1, np.int32), np.zeros((d, TOP_TOKENS), np.uint32)
    ids[feature[kept], rank[rank < TOP_TOKENS]] = token[kept]
    numbers[feature[kept], rank[rank < TOP_TOKENS]] = number[kept]
    return ids, numbers, n_texts, heights.reshape(d, BINS), totals
