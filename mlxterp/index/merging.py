"""Several indexes of one SAE and model become one: their shards side by side, their texts in the order given."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..activations.fingerprint import same_fingerprint
from ..backends.host.state import WeightsDigest
from ..core.files import atomic_folder
from ..errors import FeatureIndexError, InputError
from .building import finish
from .files import root_of
from .folder import IndexMeta, read_meta, shard_path, write_meta
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
    for part, own in zip(parts, described, strict=True):
        before = meta.n_texts
        for number, record in enumerate(own.shards):
            open_shard(part, number, record).check()  # damage is told where it lies
            copied = shard_path(folder, len(meta.shards))
            copied.parent.mkdir(exist_ok=True)
            shutil.copyfile(shard_path(part, number), copied)
            moved = replace(
                record, first_text=record.first_text + before, begins=record.begins + before,
                file=record.file or root_of(copied),
            )  # fmt: skip
            meta = meta.with_shard(moved)
        pieces |= read_pieces(part, own)
    write_meta(folder, meta)
    finish(folder, meta, lambda ids: [pieces[i] for i in ids])


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
