"""Figures of every feature over the whole index, and a sample of tokens with all their features.

Made from the shards when they are all there, in their order, so it is the same however they came to be.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.digests import digest_of_bytes
from ..core.files import strict_json
from ..core.texts import shown_ids
from ..data.corpus import scatter
from ..data.text import token_after
from .files import ArrayFile, damaged, packed, root_of, write_atomically
from .folder import PIECES, SUMMARY, IndexMeta, ShardRecord, shard_path
from .shard import Shard

SAMPLE = 100_000
"""Tokens that co-activation is counted on."""
_NAMES = ("count", "total", "maximum", "sample_count", "sample_indptr", "sample_features")


class Summary:
    """Figures of every feature.

    Args:
        arrays: By name; one of a file is asked for, and so checked, when it is first used.
    """

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

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self._arrays = arrays

    def __getattr__(self, name: str) -> np.ndarray:
        if name not in _NAMES:
            raise AttributeError(name)
        array = self._arrays[name]
        setattr(self, name, array)
        return array


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
    sampled = np.bincount(features, minlength=d_hidden)
    return Summary(dict(zip(_NAMES, (count, total, maximum, sampled, indptr, features), strict=True)))


def packed_summary(summary: Summary) -> tuple[list[bytes | memoryview], str]:
    """What `summary.safetensors` consists of, and its digest."""
    return packed({name: getattr(summary, name) for name in _NAMES})


def packed_pieces(shards: Iterable[Shard], pieces_of: Callable[[list[int]], list[str]]) -> tuple[bytes, str]:
    """What `pieces.json` holds, the text of every token id that occurs, and its digest."""
    used = np.unique(np.concatenate([np.zeros(0, np.int32), *(np.unique(shard.tokens) for shard in shards)]))
    pieces = pieces_of(used.tolist())
    described = {str(token): piece for token, piece in zip(used.tolist(), pieces, strict=True)}
    data = json.dumps(described, ensure_ascii=True).encode()
    return data, digest_of_bytes(data)


def write_figures(folder: Path, files: Mapping[str, Iterable[bytes | memoryview]]) -> None:
    """Writes files of an index by name, each whole or not at all."""
    for name, parts in files.items():
        write_atomically(folder / name, parts)


def read_summary(folder: Path, d_hidden: int, digest: str | None) -> Summary:
    """What was written of a summary, memory-mapped; each array is checked when it is first used.

    Raises:
        FeatureIndexError: It is missing or damaged.
    """
    path = folder / SUMMARY
    arrays = ArrayFile(path, _NAMES, digest)
    lengths = {name: arrays.length(name) for name in _NAMES}
    if {lengths[name] for name in _NAMES[:4]} != {d_hidden} or not lengths["sample_indptr"]:
        raise damaged(path, f"it describes {lengths['count']} features, the index has {d_hidden}")
    found = Summary(arrays)
    if digest is None:
        _check_sample(path, found)
    return found


def check_summary(folder: Path, d_hidden: int, digest: str | None) -> str:
    """Compares all of a summary with its digests; returns the digest that binds it.

    Raises:
        FeatureIndexError: It is missing or damaged.
    """
    read_summary(folder, d_hidden, digest)
    ArrayFile(folder / SUMMARY, _NAMES, digest).check()
    return root_of(folder / SUMMARY)


def _check_sample(path: Path, summary: Summary) -> None:
    """Raises FeatureIndexError where numbers that no digest binds would lead out of the arrays."""
    indptr, features = summary.sample_indptr, summary.sample_features
    ascends = int(indptr[0]) == 0 and bool((np.diff(indptr) >= 0).all()) and int(indptr[-1]) == len(features)
    outside = int(features.min(initial=0)) < 0 or int(features.max(initial=0)) >= len(summary.count)
    if not ascends or outside or int(summary.count.min(initial=0)) < 0:
        raise damaged(path, "its arrays do not belong together")


def summary_of(folder: Path, meta: IndexMeta) -> Summary:
    """The summary of an index's shards; counted again where appending was interrupted after the new one was written.

    Raises:
        FeatureIndexError: It is missing or damaged, or a shard is.
    """
    d_hidden, digest = int(meta.sae["d_hidden"]), meta.files.get(SUMMARY)
    if SUMMARY not in meta.coming or root_of(folder / SUMMARY) != meta.coming[SUMMARY]:
        summary = read_summary(folder, d_hidden, digest)
        if digest is not None or int(summary.count.sum()) == sum(shard.pairs for shard in meta.shards):
            return summary
    return summarize(shards_of(folder, meta), d_hidden, meta.seed)


def shards_of(folder: Path, meta: IndexMeta) -> list[Shard]:
    """All shards of an index.

    Raises:
        FeatureIndexError: One is missing, damaged, or not the one that `index.json` describes.
    """
    return [open_shard(folder, number, record) for number, record in enumerate(meta.shards)]


def open_shard(folder: Path, number: int, record: ShardRecord) -> Shard:
    """A shard of an index.

    Raises:
        FeatureIndexError: It is missing, damaged, or not the one that `index.json` describes.
    """
    path = shard_path(folder, number)
    shard = Shard(path, record.file)
    if shard.n_tokens != record.tokens or shard.n_pairs != record.pairs or shard.n_texts != record.texts:
        raise damaged(path, "it is not the shard that index.json describes")
    return shard


def read_pieces(folder: Path, meta: IndexMeta) -> dict[int, str]:
    """The text of each token id, at least of those of the index's shards.

    Raises:
        FeatureIndexError: It is missing or damaged.
    """
    path = folder / PIECES
    known = {files[PIECES] for files in (meta.files, meta.coming) if PIECES in files}
    try:
        data = path.read_bytes()
        if known and digest_of_bytes(data) not in known:
            raise ValueError("its sha256 is not the one in index.json: it is damaged, or another file")
        described = strict_json(data)
        return {int(token): str(piece) for token, piece in described.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise damaged(path, f"it cannot be read ({error})") from error


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
