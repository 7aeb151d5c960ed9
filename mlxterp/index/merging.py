"""Several indexes of one SAE and model become one: their shards side by side, their texts in the order given.

Texts of different parts that begin alike get the first one's features there, as if they had been built at once.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..activations.fingerprint import same_fingerprint
from ..backends.host.state import WeightsDigest
from ..core.files import atomic_folder
from ..core.sparse import SparseFeatures
from ..errors import FeatureIndexError, InputError
from .beginnings import settled_shards
from .building import finish
from .files import root_of
from .folder import IndexMeta, ShardRecord, read_meta, shard_path, write_meta
from .shard import Shard, rewrite_shard
from .summary import open_shard, read_pieces

_AGAIN = "Nothing of it is left there; make room or choose another path, and merge again."


def merge(parts: Sequence[Path], folder: Path) -> None:
    """Makes one index of all texts in a new folder; the parts are left as they are.

    Raises:
        FeatureIndexError: A part is not complete, or differs in SAE, model, component or rule; or the folder holds
            something.
    """
    if not parts:
        raise InputError("An empty list was given. Give at least one index.")
    if folder.exists() and (not folder.is_dir() or any(not p.name.startswith(".") for p in folder.iterdir())):
        raise FeatureIndexError(f"{folder} holds something already. Choose another path or remove it first.")
    described = [_meta(part) for part in parts]
    for part, own in zip(parts, described, strict=True):
        _check(described[0], own, part)
    with atomic_folder(folder, error=FeatureIndexError, remedy=_AGAIN) as draft:
        _fill(draft, parts, described)


def _fill(folder: Path, parts: Sequence[Path], described: Sequence[IndexMeta]) -> None:
    meta = replace(described[0], shards=(), complete=False, files={})
    pieces: dict[int, str] = {}
    settled = settled_shards(_whole_shards(parts, described), acts=bool(meta.model.get("acts")))
    for part, own in zip(parts, described, strict=True):
        before = meta.n_texts
        for record, (shard, by_feature) in zip(own.shards, settled, strict=False):
            written = _written(shard_path(folder, len(meta.shards)), record, shard, by_feature)
            moved = replace(written, first_text=record.first_text + before, begins=record.begins + before)
            meta = meta.with_shard(moved)
        pieces |= read_pieces(part, own)
    write_meta(folder, meta)
    finish(folder, meta, lambda ids: [pieces[i] for i in ids])


def _whole_shards(parts: Sequence[Path], described: Sequence[IndexMeta]) -> Iterator[Shard]:
    """All shards of all parts; damage is told where it lies."""
    for part, own in zip(parts, described, strict=True):
        for number, record in enumerate(own.shards):
            shard = open_shard(part, number, record)
            shard.check()
            yield shard


def _written(path: Path, record: ShardRecord, shard: Shard, by_feature: SparseFeatures) -> ShardRecord:
    """Writes a shard with these features, as it is where they are its own; returns what `index.json` says of it."""
    path.parent.mkdir(exist_ok=True)
    if _equal(by_feature, shard.by_feature):
        shutil.copyfile(shard.path, path)
        return replace(record, file=record.file or root_of(path))
    return replace(record, pairs=len(by_feature.values), file=rewrite_shard(path, shard, by_feature))


def _equal(some: SparseFeatures, others: SparseFeatures) -> bool:
    names = ("indptr", "indices", "values")
    return all(np.array_equal(getattr(some, name), getattr(others, name)) for name in names)


def _meta(part: Path) -> IndexMeta:
    meta = read_meta(part)
    if meta is None or not meta.complete:
        raise FeatureIndexError(
            f"There is no complete index in {part}. Run its build_index again: it goes on."
        )
    return meta


def _check(one: IndexMeta, other: IndexMeta, path: Path) -> None:
    facts = [
        {
            "SAE": meta.sae["fingerprint"], "model": meta.model["type"], "component": meta.component,
            "positions": meta.model["positions"], "exclude": meta.rule.exclude, "bos": meta.rule.bos,
            "what acts on the model": meta.model.get("acts", []),
        }
        for meta in (one, other)
    ]  # fmt: skip
    differing = [
        f"{key} is {facts[1][key]!r}, not {facts[0][key]!r}"
        for key in facts[0]
        if facts[0][key] != facts[1][key]
    ]
    if not _same_weights(one.model, other.model):
        differing.append("the model's weights are others")
    if differing:
        raise FeatureIndexError(
            f"The index in {path} does not go with the first one: {'; '.join(differing)}."
        )


def _same_weights(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two indexes are of the same model: by the digests of its weights, or by its probes."""
    kept, others = one.get("weights"), other.get("weights")
    digest = WeightsDigest.from_json(kept)
    same = None if digest is None else digest.equals(others)
    return same if same is not None else same_fingerprint(one["probe"], other["probe"])
