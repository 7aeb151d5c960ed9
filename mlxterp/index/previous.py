"""What a folder holds already, before an index is built there: this very index as far as it is whole, or another one.

`building` asks, and goes on from what there is.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

from ..core.digests import digest_of_file
from ..data.dataset import ListedTexts, Texts
from ..errors import FeatureIndexError, warn
from .files import root_of
from .folder import META, PIECES, SUMMARY, DamagedError, IndexMeta, read_meta, remains, shard_path
from .plan import hash_texts
from .shard import Shard
from .source import Source


def index_there(
    folder: Path, fresh: IndexMeta, source: Source, texts: Texts, shard_tokens_given: bool
) -> IndexMeta | None:
    """The index that a folder holds already, if it is this one, as far as its files are whole.

    Args:
        shard_tokens_given: Else the folder's own number is kept: the default is measured, and another machine's
            rounding can change it.

    Raises:
        FeatureIndexError: It is another one, or something else.
    """
    try:
        found = read_meta(folder)
    except DamagedError as error:
        if not _remains(folder, fresh, texts):
            raise
        warn(f"The whole index is made again: {error}")
        return None
    if found is None:
        if folder.is_dir() and any(not p.name.startswith(".") for p in folder.iterdir()):
            if not _remains(folder, fresh, texts):
                raise FeatureIndexError(
                    f"{folder} holds something else. Choose another path or remove it first."
                )
            warn(f"{folder / META} is missing: the whole index is made again.")
        return None
    source.check(found, folder)
    if not shard_tokens_given:
        fresh = replace(fresh, shard_tokens=found.shard_tokens)
    differing = [
        f"{name} was {getattr(before, name)!r} and is {getattr(now, name)!r}"
        for before, now, names in ((found, fresh, ("n_examples", "shard_tokens", "seed")),
                                   (found.rule, fresh.rule, ("exclude", "bos")))
        for name in names if getattr(before, name) != getattr(now, name)
    ]  # fmt: skip
    if differing:
        raise FeatureIndexError(
            f"Another index is in {folder}: {'; '.join(differing)}. Give the same settings to go on with it, or choose"
            " another path."
        )
    return found


def _remains(folder: Path, fresh: IndexMeta, texts: Texts) -> bool:
    """Whether a folder holds what is left of this very index, as far as its first shard tells, and nothing else."""
    if not remains(folder):
        return False
    try:
        shard = Shard(shard_path(folder, 0), None)
        held = [shard.text(i) for i in range(shard.n_texts)]
        d_hidden = len(shard.indptr) - 1
    except FeatureIndexError:
        return True
    return held == texts_between(texts, 0, len(held)) and d_hidden == fresh.sae["d_hidden"]


def texts_between(texts: Texts, begin: int, end: int) -> list[str]:
    """Texts `begin` to `end` - 1 of a data set, or as many of them as there are; a stream is read up to there."""
    if isinstance(texts, ListedTexts):
        return [texts[i] for i in range(begin, min(end, len(texts)))]
    return list(itertools.islice(texts, begin, end))


def bound(folder: Path, meta: IndexMeta) -> IndexMeta:
    """The same with a digest for every file: those of an index of mlxterp 0.1.0 are taken from its files."""
    shards = tuple(
        record if record.file else replace(record, file=root_of(shard_path(folder, number)))
        for number, record in enumerate(meta.shards)
    )
    files = meta.files
    if meta.complete and SUMMARY not in files:
        files = {SUMMARY: root_of(folder / SUMMARY), PIECES: digest_of_file(folder / PIECES), **files}
    return replace(meta, shards=shards, files=files)


def check_texts(texts: Texts, meta: IndexMeta, folder: Path, whole: bool) -> None:
    """Raises FeatureIndexError where the texts are not those that an index began with."""
    given = iter(texts) if not isinstance(texts, ListedTexts) else (texts[i] for i in range(len(texts)))
    for number, shard in list(enumerate(meta.shards))[meta.appended_from :]:
        if hash_texts(tuple(itertools.islice(given, shard.texts))) != shard.data:
            remedy = (
                "Appending was interrupted: give the texts that were being appended, and it goes on."
                if meta.appended_from
                else "Choose another path; or append texts to it: FeatureIndex.open(path, model=…, sae=…).add(texts)."
            )
            raise FeatureIndexError(
                f"The index in {folder} holds other texts than the ones given (they differ in"
                f" texts {shard.begins} to {shard.begins + shard.texts - 1}, of shard {number}). {remedy}"
            )
    if whole and next(given, None) is not None:
        raise FeatureIndexError(
            f"The index in {folder} is complete with its {meta.n_texts} texts, and more are given. Append the others:"
            " FeatureIndex.open(path, model=…, sae=…).add(texts); or choose another path."
        )
