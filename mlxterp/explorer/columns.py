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

_KINDS = {
    "count": "u4", "mean": "f4", "maximum": "f4", "n_texts": "u4", "top_tokens": "i4", "top_token_counts": "u4",
    "spark": "u1", "best_text": "i4", "best_position": "i4",
}  # fmt: skip
"""Columns of an index's table, and what they are sent as."""


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
    table = index.table()
    columns = {name: np.asarray(getattr(table, name)).astype(kind) for name, kind in _KINDS.items()}
    if table.decoder_norm is not None:
        columns["norm"] = table.decoder_norm.astype("f4")
    used = sorted(table.pieces)
    totals = index._derived.tokens.occurrences_of(used).tolist()
    facts = {
        "d": index.d_hidden, "tokens": index.n_tokens, "texts": index.n_texts,
        "pieces": {str(token): table.pieces[token] for token in used},
        "totals": dict(zip(map(str, used), totals, strict=True)),
    }  # fmt: skip
    return packed({**columns, **(more or {})}, facts)
