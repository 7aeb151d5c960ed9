"""`build_index`: one pass over texts, shard by shard, that can stop at any moment and go on.

A shard is planned from the texts, encoded (here, or by workers elsewhere) and written; when all are there,
the summary is made from them. What is on disk depends on texts, model and SAE only.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset import ListedTexts, Texts, check_readable, open_texts
from ..errors import FeatureIndexError, InputError, warn
from ..features.collect import collect
from ..features.exclusions import Rule, prose, rule_for
from ..features.search import encode_activations
from ..progress import hidden
from .counting import EncodedShard, encode_shard
from .folder import (
    IndexMeta,
    ShardRecord,
    clean,
    read_meta,
    shard_path,
    write_meta,
)
from .plan import ShardPlan, hash_texts, shard_plans
from .ray_workers import encoded_by_ray
from .shard import Shard, write_shard
from .source import Source
from .summary import read_pieces, read_summary, summarize, write_pieces, write_summary

_SHARD_TOKENS = 1 << 16
_SHARD_PAIRS = 1 << 22
Encode = Callable[[Iterable[ShardPlan]], Iterator[tuple[ShardPlan, EncodedShard]]]


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """See `InterpretableModel.build_index`."""

    n_examples: int = 20
    exclude: Iterable[str] | str = ("bos", "sinks")
    seed: int = 0
    shard_tokens: int | None = None
    verbose: bool = True
    workers: int | None = None
    """Processes, by Ray; None runs here."""

    def __post_init__(self) -> None:
        for name in ("n_examples", "shard_tokens", "workers"):
            value = getattr(self, name)
            if value is not None and (not _is_integer(value) or value < 1):
                raise InputError(f"{name} is {value!r}; it must be an integer of at least 1.")
        if not _is_integer(self.seed) or not 0 <= self.seed < 2**63:
            raise InputError(f"seed is {self.seed!r}; it must be an integer of at least 0, below 2**63.")


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def build(source: Source, dataset: Any, folder: Path, options: BuildOptions) -> None:
    """Builds an index in a folder, or goes on with one that was interrupted there.

    Raises:
        InputError: No texts, no tokens, or a setting that cannot be.
        FeatureIndexError: The folder holds something else, or an index of other texts, settings, SAE or model;
            nothing can be written there.
    """
    texts = _opened(source, dataset)
    meta = _fresh_meta(source, options)
    found = _there(folder, meta, source, options.shard_tokens is not None)
    if found is not None and found.complete:
        _check_texts(texts, replace(found, appended_from=0), folder, whole=True)
        return
    if found is not None:
        meta = replace(found, appended_from=0)
        _check_texts(texts, meta, folder, whole=False)
        write_meta(folder, meta)
    else:
        write_meta(folder, meta)
    clean(folder)
    finish(folder, _write_shards(source, folder, meta, texts, options), source.pieces)


def extend(source: Source, folder: Path, dataset: Any, options: BuildOptions) -> None:
    """Appends texts to an index; after an interruption the same call goes on.

    Raises:
        FeatureIndexError: The index is of another SAE or model, or its own texts are not all there yet.
    """
    meta = read_meta(folder)
    if meta is None or not (meta.complete or meta.appended_from):
        raise FeatureIndexError(
            f"There is no complete index in {folder}. build_index makes and completes one."
        )
    source.check(meta, folder)
    texts = _opened(source, dataset)
    if meta.complete:
        meta = replace(meta, appended_from=len(meta.shards))
    else:
        _check_texts(texts, meta, folder, whole=False)
    clean(folder)
    finish(folder, _write_shards(source, folder, meta, texts, options), source.pieces)


def _opened(source: Source, dataset: Any) -> Texts:
    texts = open_texts(dataset, source.anatomy.model)
    check_readable(texts, source.anatomy.model)
    return texts


def _fresh_meta(source: Source, options: BuildOptions) -> IndexMeta:
    model, sae = source.anatomy.model, source.sae
    rule = rule_for(model, source.component, options.exclude)
    described = {"fingerprint": sae.fingerprint, "d_hidden": sae.d_hidden, "described": repr(sae)}
    shard_tokens = options.shard_tokens or _shard_tokens(source)
    return IndexMeta(
        described,
        source.model_facts,
        source.component.name,
        rule,
        int(options.n_examples),
        int(shard_tokens),
        int(options.seed),
    )


def _shard_tokens(source: Source) -> int:
    """So many that a shard's pairs fit into memory several times over, by the features that are active on prose."""
    model, sae = source.anatomy.model, source.sae
    rows = pairs = 0
    for part in collect(model, prose(model), source.component):
        features = encode_activations(sae, part, source.component)
        rows, pairs = rows + features.n, pairs + len(features.values)
    return int(np.clip(_SHARD_PAIRS * rows / max(pairs, 1), 2048, _SHARD_TOKENS))


def _there(folder: Path, fresh: IndexMeta, source: Source, shard_tokens_given: bool) -> IndexMeta | None:
    """The index that a folder holds already, if it is this one, as far as its files are whole.

    Args:
        shard_tokens_given: Else the folder's own number is kept: the default is measured, and another machine's
            rounding can change it.

    Raises:
        FeatureIndexError: It is another one, or something else.
    """
    found = read_meta(folder)
    if found is None:
        if folder.is_dir() and any(not p.name.startswith(".") for p in folder.iterdir()):
            raise FeatureIndexError(f"{folder} holds something else. Choose another path or remove it first.")
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
    return _as_far_as_whole(folder, found)


def _as_far_as_whole(folder: Path, meta: IndexMeta) -> IndexMeta:
    """The index without the first damaged shard and those after it; incomplete where anything has to be made again."""
    for number, record in enumerate(meta.shards):
        try:
            _check_shard(Shard(shard_path(folder, number)), number, record, folder)
        except FeatureIndexError as error:
            warn(f"Shard {number} and those after it are made again: {error}")
            return replace(meta, shards=meta.shards[:number], complete=False)
    if meta.complete:
        try:
            read_summary(folder, int(meta.sae["d_hidden"]))
            read_pieces(folder)
        except FeatureIndexError as error:
            warn(f"The summary is made again: {error}")
            return replace(meta, complete=False)
    return meta


def _check_shard(shard: Shard, number: int, record: ShardRecord, folder: Path) -> None:
    if shard.n_tokens != record.tokens or len(shard.values) != record.pairs:
        raise FeatureIndexError(
            f"Shard {number} in {folder} is not the one that index.json describes. Remove it and run the same"
            " build_index again: it makes what is missing."
        )


def _check_texts(texts: Texts, meta: IndexMeta, folder: Path, whole: bool) -> None:
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


def _write_shards(
    source: Source, folder: Path, meta: IndexMeta, texts: Texts, options: BuildOptions
) -> IndexMeta:
    """Every shard that is not there yet."""
    from tqdm.auto import tqdm

    known = meta.shards[meta.appended_from :]
    before = sum(shard.texts for shard in meta.shards[: meta.appended_from])
    first_number, first_text = _next(meta)
    plans = shard_plans(
        texts, source.anatomy.model.tokenize, meta.model["positions"], meta.shard_tokens, first_text - before,
        first_number,
    )  # fmt: skip
    missing = (plan for plan in plans if plan.number >= len(meta.shards))
    bar = tqdm(
        total=_number_of(texts), initial=sum(s.texts for s in known), unit="text", desc="Building index",
        disable=hidden(options.verbose),
    )  # fmt: skip
    moved = _Within(bar)
    encode = _encoded_here(source, meta.rule, moved)
    if options.workers is not None:
        encode = encoded_by_ray(source, meta.rule, options.workers)
    for plan, shard in encode(missing):
        write_shard(shard_path(folder, plan.number), plan, shard.by_feature)
        meta = meta.with_shard(_record(plan, shard, before))
        write_meta(folder, meta)
        moved.to(len(plan.texts))
        moved.shown = 0
        bar.set_postfix_str(f"{_rate(bar, meta, known)} tok/s, {meta.n_tokens} tokens")
    bar.close()
    return meta


class _Within:
    """Moves a bar of texts while a shard's tokens run."""

    def __init__(self, bar: Any):
        self._bar = bar
        self.shown = 0
        """Texts of this shard that the bar has."""

    def to(self, texts: int) -> None:
        """The bar has so many of the shard's texts."""
        self._bar.update(texts - self.shown)
        self.shown = texts


def _next(meta: IndexMeta) -> tuple[int, int]:
    """The first shard that has to be planned, and its first text.

    A text of several shards is planned from its beginning.
    """
    number = len(meta.shards)
    if number == meta.appended_from:
        return number, sum(shard.texts for shard in meta.shards)
    if meta.shards[-1].ends:
        return number, meta.shards[-1].begins + meta.shards[-1].texts
    number = max(i for i, shard in enumerate(meta.shards) if shard.begins == shard.first_text)
    return number, meta.shards[number].first_text


def _rate(bar: Any, meta: IndexMeta, known: tuple[ShardRecord, ...]) -> str:
    seconds = bar.format_dict["elapsed"] or 1e-9
    return f"{(meta.n_tokens - sum(shard.tokens for shard in known)) / seconds:,.0f}"


def _number_of(texts: Texts) -> int | None:
    return len(texts) if isinstance(texts, ListedTexts) else None


def _record(plan: ShardPlan, shard: EncodedShard, before: int) -> ShardRecord:
    first = plan.first_text + before
    return ShardRecord(
        first, first + plan.continues, len(plan.texts), plan.n_tokens, len(shard.by_feature.values), shard.excluded,
        plan.data_hash(), plan.windowed, plan.ends,
    )  # fmt: skip


def _encoded_here(source: Source, rule: Rule, moved: _Within) -> Encode:
    def encode(plans: Iterable[ShardPlan]) -> Iterator[tuple[ShardPlan, EncodedShard]]:
        for plan in plans:
            texts = len(plan.texts)
            yield plan, encode_shard(
                source.anatomy.model, plan, source.sae, source.component, rule,
                lambda share, texts=texts: moved.to(int(share * texts)),
            )  # fmt: skip

    return encode


def finish(folder: Path, meta: IndexMeta, pieces_of: Callable[[list[int]], list[str]]) -> None:
    """Makes the summary of shards that are all there, and says what a user should know.

    Args:
        pieces_of: The texts of token ids.
    """
    if not meta.n_tokens:
        raise InputError("There are no tokens: the data set is empty, or all its texts are. Give more texts.")
    if not meta.n_counted:
        raise InputError(
            f"No token counts: all were left out {meta.excluded}. Give longer texts, or build with exclude=()."
        )
    shards = [Shard(shard_path(folder, number)) for number in range(len(meta.shards))]
    for number, (shard, record) in enumerate(zip(shards, meta.shards, strict=True)):
        _check_shard(shard, number, record, folder)
    write_pieces(folder, shards, pieces_of)
    write_summary(folder, summarize(shards, int(meta.sae["d_hidden"]), meta.seed))
    write_meta(folder, replace(meta, complete=True, appended_from=0))
    with_tokens = sum(int((np.asarray(shard.piece_start) == 0).sum()) for shard in shards)
    if with_tokens < meta.n_texts:
        warn(
            f"{meta.n_texts - with_tokens} of {meta.n_texts} texts have no tokens: no feature is active there."
        )
    if meta.windowed:
        warn(
            f"{meta.windowed} of {meta.n_texts} texts are longer than the model's {meta.model['positions']} positions"
            " and ran in overlapping windows: their later tokens see only part of the text before them."
        )
