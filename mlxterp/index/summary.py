"""Figures of every feature over the whole index, and a sample of tokens with all their features.

Made from the shards when they are all there, in their order, so it is the same however they came to be.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.texts import shown_ids
from ..corpus import scatter
from ..errors import FeatureIndexError
from ..text import token_after
from .files import write_whole
from .folder import PIECES, SUMMARY, IndexMeta, shard_path
from .shard import Shard, read_arrays, write_arrays

SAMPLE = 100_000
"""Tokens that co-activation is counted on."""
_NAMES = ("count", "total", "maximum", "sample_count", "sample_indptr", "sample_features")


@dataclass(frozen=True, eq=False, slots=True)
class Summary:
    """Figures of every feature."""

    count: np.ndarray
    """int64, (d_hidden,): tokens where the feature is active."""
    total: np.ndarray
    """float64, (d_hidden,): sum of its activations."""
    maximum: np.ndarray
    """float32, (d_hidden,): its activation of largest magnitude; 0 where it is never active."""
    sample_count: np.ndarray
    """int64, (d_hidden,): sampled tokens where the feature is active."""
    sample_indptr: np.ndarray
    """int64, (sampled + 1,): where each sampled token starts in `sample_features`."""
    sample_features: np.ndarray
    """int32: features active on each sampled token, ascending."""

    @property
    def n_sampled(self) -> int:
        """Tokens of the sample."""
        return len(self.sample_indptr) - 1


def summarize(shards: Iterable[Shard], d_hidden: int, seed: int) -> Summary:
    """Reads every shard twice: once for the figures, once for the sample's tokens."""
    shards = list(shards)
    count = np.zeros(d_hidden, dtype=np.int64)
    total = np.zeros(d_hidden, dtype=np.float64)
    maximum = np.zeros(d_hidden, dtype=np.float32)
    for shard in shards:
        active, starts = _active(shard)
        count += np.diff(shard.indptr)
        if not len(active):
            continue
        values = np.asarray(shard.values)
        total[active] += np.add.reduceat(values, starts, dtype=np.float64)
        for reduce in (np.maximum, np.minimum):
            found = reduce.reduceat(values, starts)
            maximum[active] = np.where(np.abs(found) > np.abs(maximum[active]), found, maximum[active])
    indptr, features = _sample(shards, seed)
    return Summary(count, total, maximum, np.bincount(features, minlength=d_hidden), indptr, features)


def write_summary(folder: Path, summary: Summary) -> None:
    """Writes `summary.safetensors`."""
    write_arrays(folder / SUMMARY, {name: getattr(summary, name) for name in _NAMES})


def read_summary(folder: Path, d_hidden: int) -> Summary:
    """What `write_summary` wrote, memory-mapped.

    Raises:
        FeatureIndexError: It is missing or damaged.
    """
    arrays = read_arrays(folder / SUMMARY, _NAMES)
    sizes = {len(arrays[name]) for name in _NAMES[:4]}
    if sizes != {d_hidden}:
        raise FeatureIndexError(
            f"{folder / SUMMARY} describes {sizes} features, the index has {d_hidden}. Remove it and run the same"
            " build_index again."
        )
    return Summary(**arrays)


def summary_of(folder: Path, meta: IndexMeta) -> Summary:
    """The summary of an index's shards; counted again where appending was interrupted after the new one was written.

    Raises:
        FeatureIndexError: It is missing or damaged, or a shard is.
    """
    summary = read_summary(folder, int(meta.sae["d_hidden"]))
    if int(summary.count.sum()) == sum(shard.pairs for shard in meta.shards):
        return summary
    shards = [Shard(shard_path(folder, number)) for number in range(len(meta.shards))]
    return summarize(shards, int(meta.sae["d_hidden"]), meta.seed)


def write_pieces(folder: Path, shards: Iterable[Shard], pieces_of: Callable[[list[int]], list[str]]) -> None:
    """Writes the text of every token id that occurs."""
    used = np.unique(np.concatenate([np.zeros(0, np.int32), *(np.unique(shard.tokens) for shard in shards)]))
    pieces = pieces_of(used.tolist())
    described = {str(token): piece for token, piece in zip(used.tolist(), pieces, strict=True)}
    write_whole(folder / PIECES, [json.dumps(described, ensure_ascii=True).encode()])


def read_pieces(folder: Path) -> dict[int, str]:
    """What `write_pieces` wrote.

    Raises:
        FeatureIndexError: It is missing or damaged.
    """
    try:
        described = json.loads((folder / PIECES).read_text(encoding="utf-8"))
        return {int(token): str(piece) for token, piece in described.items()}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise FeatureIndexError(
            f"{folder / PIECES} cannot be read: {error}. Run the same build_index again: it makes what is missing."
        ) from error


def token_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token where it follows another one: a leading space is kept."""
    if tokenizer is None:
        return [shown_ids([i]) for i in ids]
    anchor = next((i for i in ids if tokenizer.decode([i]).strip().isalpha()), None)
    if anchor is None:
        return [tokenizer.decode([i]) for i in ids]
    return [token_after(tokenizer, [anchor], i) for i in ids]


def _active(shard: Shard) -> tuple[np.ndarray, np.ndarray]:
    """Features with firings in a shard, and where each starts."""
    active = np.flatnonzero(np.diff(shard.indptr))
    return active, np.asarray(shard.indptr[active])


def _sample(shards: Sequence[Shard], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of at most `SAMPLE` tokens, chosen by a hash of each token's text up to it."""
    chosen = _chosen(shards, seed)
    counts, features = [], []
    for shard, rows in zip(shards, chosen, strict=True):
        place = np.full(shard.n_tokens, -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        hits = np.flatnonzero(place[shard.rows] >= 0)
        ids = np.searchsorted(shard.indptr, hits, side="right") - 1
        row = place[shard.rows[hits]]
        order = np.argsort(row, kind="stable")  # features ascend within a row, as the pairs do
        counts.append(np.bincount(row, minlength=len(rows)))
        features.append(ids[order].astype(np.int32))
    counts = np.concatenate([np.zeros(0, np.int64), *counts])
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return indptr, np.concatenate([np.zeros(0, np.int32), *features])


def _chosen(shards: Sequence[Shard], seed: int) -> list[np.ndarray]:
    """Tokens of each shard, ascending, whose hashes are the smallest of all; among equals the earlier."""
    salt = scatter(np.array([seed]))[0]
    best = np.zeros(0, dtype=np.uint64)
    for shard in shards:
        best = np.concatenate([best, scatter(shard.prefixes ^ salt)])
        if len(best) > SAMPLE:
            best = np.partition(best, SAMPLE - 1)[:SAMPLE]
    limit = best.max(initial=0)
    at_limit = int((best == limit).sum())
    found = []
    for shard in shards:
        hashes = scatter(shard.prefixes ^ salt)
        equal = np.flatnonzero(hashes == limit)[:at_limit]
        at_limit -= len(equal)
        found.append(np.sort(np.concatenate([np.flatnonzero(hashes < limit), equal])))
    return found
