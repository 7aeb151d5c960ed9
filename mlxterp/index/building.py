"""`build_index` and `build_indexes`: one pass over texts, shard by shard, that can stop at any moment and go on.

A shard is planned from the texts, encoded (here, or by workers elsewhere) and written; when all are there,
the summary is made from them. What is on disk depends on texts, model and SAE only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..activations.exclusions import prose, rule_for
from ..activations.faster_wing import note_faster_wing
from ..activations.forward import collect
from ..core import checks
from ..core.progress import hidden
from ..data.dataset import ListedTexts, Texts, check_readable, open_texts
from ..errors import FeatureIndexError, InputError, warn
from ..features.search import encode_activations
from .beginnings import Settling
from .derived import check_derived, derived_from
from .encode import EncodedShard, Reading, encode_shards
from .files import packed
from .folder import (
    DERIVED,
    PIECES,
    SUMMARY,
    IndexMeta,
    ShardRecord,
    clean,
    read_meta,
    remove_others,
    shard_path,
    write_meta,
)
from .plan import ShardPlan, shard_plans
from .previous import bound, check_texts, index_there, texts_between
from .ray_workers import encoded_by_ray
from .shard import Shard, write_shard
from .source import Source
from .summary import (
    check_summary,
    open_shard,
    packed_pieces,
    packed_summary,
    read_pieces,
    shards_of,
    summarize,
    write_figures,
)

_SHARD_TOKENS = 1 << 16
_SHARD_PAIRS = 1 << 22
_MANY_TEXTS = 200
"""So many are worth a note where another library would be faster."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """See `InterpretableModel.build_index`.

    Attributes:
        n_examples: Examples that are shown of a feature where nothing else is asked.
        exclude: Tokens that do not count: "bos", "sinks".
        seed: Decides which tokens co-activation is counted on.
        shard_tokens: Tokens of a shard, at most; None takes 65,536, or fewer for an SAE with many active features.
        verbose: Whether a bar is shown where the output is a terminal.
        workers: Number of processes, by Ray; None runs here.
    """

    n_examples: int = 20
    exclude: Iterable[str] | str = ("bos", "sinks")
    seed: int = 0
    shard_tokens: int | None = None
    verbose: bool = True
    workers: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_examples", checks.count(self.n_examples, "n_examples"))
        object.__setattr__(self, "seed", checks.seed(self.seed))
        for name in ("shard_tokens", "workers"):
            object.__setattr__(self, name, checks.count_or_none(getattr(self, name), name))


@dataclass(frozen=True, eq=False, slots=True)
class Begun:
    """An index that is being written."""

    source: Source
    folder: Path
    meta: IndexMeta


def build(source: Source, dataset: Any, folder: Path, options: BuildOptions) -> None:
    """Builds an index in a folder, or goes on with one that was interrupted there; what is damaged is made again.

    Raises:
        InputError: No texts, no tokens, or a setting that cannot be.
        FeatureIndexError: The folder holds something else, or an index of other texts, settings, SAE or model;
            nothing can be written there.
    """
    build_together([source], dataset, [folder], options)


def build_together(
    sources: Sequence[Source], dataset: Any, folders: Sequence[Path], options: BuildOptions
) -> None:
    """Builds an index of each source, of one model, in its folder: the model runs over the texts once.

    The pairs of all of them are held at a time, so that a shard is the smaller the more there are (unless
    `shard_tokens` is given), and memory stays that of one index.

    Raises:
        InputError, FeatureIndexError: As `build` says.
    """
    texts = _opened(sources[0], dataset)
    size = options.shard_tokens or _shard_tokens(sources)
    found = (_begun(*each, texts, options, size) for each in zip(sources, folders, strict=True))
    begun = [one for one in found if one is not None]
    if begun and (_number_of(texts) or _MANY_TEXTS) >= _MANY_TEXTS:
        note_faster_wing(sources[0].anatomy, sources[0].name)
    for some in _of_one_pass(begun, options):
        for one, meta in zip(some, _write_shards(some, texts, options), strict=True):
            finish(one.folder, meta, one.source.pieces)


def _begun(
    source: Source, folder: Path, texts: Texts, options: BuildOptions, shard_tokens: int
) -> Begun | None:
    """The index as far as it is there; None where it is complete."""
    meta = _fresh_meta(source, options, shard_tokens)
    found = index_there(folder, meta, source, texts, options.shard_tokens is not None)
    if found is not None:
        found = replace(found, appended_from=0, coming={})
        check_texts(texts, found, folder, whole=found.complete)
        meta = _repaired(source, folder, found, texts, options)
        if meta.complete:
            if meta != found:
                write_meta(folder, meta)
            return None
    write_meta(folder, meta)
    clean(folder)
    return Begun(source, folder, meta)


def _of_one_pass(begun: Sequence[Begun], options: BuildOptions) -> list[list[Begun]]:
    """Those that are written together: with shards of the same size, and without workers of their own."""
    if options.workers is not None:
        return [[one] for one in begun]
    sizes = dict.fromkeys(one.meta.shard_tokens for one in begun)
    return [[one for one in begun if one.meta.shard_tokens == size] for size in sizes]


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
    meta = bound(folder, meta)
    if meta.complete:
        meta = replace(meta, appended_from=len(meta.shards))
    else:
        check_texts(texts, meta, folder, whole=False)
    clean(folder)
    [meta] = _write_shards([Begun(source, folder, meta)], texts, options)
    finish(folder, meta, source.pieces)


def _opened(source: Source, dataset: Any) -> Texts:
    texts = open_texts(dataset, source.anatomy.model)
    check_readable(texts, source.anatomy.model)
    return texts


def _fresh_meta(source: Source, options: BuildOptions, shard_tokens: int) -> IndexMeta:
    model, sae = source.anatomy.model, source.sae
    rule = rule_for(model, source.component, options.exclude)
    described = {"fingerprint": sae.fingerprint, "d_hidden": sae.d_hidden, "described": repr(sae)}
    return IndexMeta(
        described,
        source.model_facts,
        source.component.name,
        rule,
        int(options.n_examples),
        int(shard_tokens),
        int(options.seed),
    )


def _shard_tokens(sources: Sequence[Source]) -> int:
    """So many that a shard's pairs fit into memory several times over, by the features that are active on prose."""
    rows = pairs = 0
    for source in sources:
        model, rows = source.anatomy.model, 0
        for part in collect(model, prose(model), source.component):
            features = encode_activations(source.sae, part, source.component)
            rows, pairs = rows + features.n, pairs + len(features.values)
    return int(np.clip(_SHARD_PAIRS * rows / max(pairs, 1), 2048, _SHARD_TOKENS))


def _repaired(
    source: Source, folder: Path, meta: IndexMeta, texts: Texts, options: BuildOptions
) -> IndexMeta:
    """The index with what was damaged made again, but for its summary; incomplete where that is to be made."""
    damaged = {}
    for number, record in enumerate(meta.shards):
        try:
            open_shard(folder, number, record).check()
        except FeatureIndexError as error:
            damaged[number] = error
    for number in list(damaged):
        warn(f"Shard {number} is made again: {damaged[number]}")
        plan = _plan_again(source, meta, texts, number)
        if plan is None:  # they have other tokens now
            warn(f"Shards {number} and all after it are made again.")
            return bound(folder, replace(meta, shards=meta.shards[:number], complete=False))
        settling = Settling(_shards(folder, meta.shards[:number]), bool(source.acts))
        for _, [shard] in _encoded([Begun(source, folder, meta)], [plan], options):
            shard = settling.settled(plan, shard)
            record = _written(folder, plan, shard, meta.shards[number].first_text - plan.first_text)
            changed = record != meta.shards[number]
            shards = (*meta.shards[:number], record, *meta.shards[number + 1 :])
            meta = replace(meta, shards=shards, complete=meta.complete and not changed)
    if meta.complete:
        try:
            check_summary(folder, int(meta.sae["d_hidden"]), meta.files.get(SUMMARY))
            read_pieces(folder, meta)
            check_derived(folder, meta)
        except FeatureIndexError as error:
            warn(f"The summary is made again: {error}")
            meta = replace(meta, complete=False)
    meta = replace(meta, complete=meta.complete and all(name in meta.files for name in DERIVED))
    return bound(folder, meta)


def _plan_again(source: Source, meta: IndexMeta, texts: Texts, number: int) -> ShardPlan | None:
    """The plan of one shard, from its texts alone; None where they make another one now."""
    record = meta.shards[number]
    first = max(i for i in range(number + 1) if meta.shards[i].begins == meta.shards[i].first_text)
    begin, end = meta.shards[first].first_text, record.begins + record.texts
    own = ListedTexts(texts_between(texts, begin, end))
    # What the shards of these texts hold is as good as the limit they were cut with, which a part of a merged index
    # may have of its own.
    size = max(shard.tokens for shard in meta.shards[first : number + 1])
    plans = shard_plans(own, source.anatomy.model.tokenize, meta.model["positions"], size, 0, first)
    plan = next((plan for plan in plans if plan.number == number), None)
    if plan is None or plan.n_tokens != record.tokens or plan.data_hash() != record.data:
        return None
    return plan


def _write_shards(begun: Sequence[Begun], texts: Texts, options: BuildOptions) -> list[IndexMeta]:
    """Every shard that is not there yet, of indexes whose shards are of one size."""
    from tqdm.auto import tqdm

    last = min(range(len(begun)), key=lambda i: len(begun[i].meta.shards))  # the one with most to do
    source, first = begun[last].source, begun[last].meta
    known = first.shards[first.appended_from :]
    before = sum(shard.texts for shard in first.shards[: first.appended_from])
    first_number, first_text = _next(first)
    plans = shard_plans(
        texts, source.anatomy.model.tokenize, first.model["positions"], first.shard_tokens, first_text - before,
        first_number,
    )  # fmt: skip
    missing = (plan for plan in plans if plan.number >= len(first.shards))
    what = "Building index" if len(begun) == 1 else f"Building {len(begun)} indexes"
    bar = tqdm(
        total=_number_of(texts), initial=sum(s.texts for s in known), unit="text", desc=what,
        disable=hidden(options.verbose),
    )  # fmt: skip
    metas = [one.meta for one in begun]
    settling = [Settling(_shards(one.folder, one.meta.shards), bool(one.source.acts)) for one in begun]
    for plan, shards in _encoded(begun, missing, options, _Within(bar)):
        waiting = [i for i, one in enumerate(begun) if plan.number >= len(one.meta.shards)]
        for i, shard in zip(waiting, shards, strict=True):
            written = _written(begun[i].folder, plan, settling[i].settled(plan, shard), before)
            metas[i] = metas[i].with_shard(written)
            write_meta(begun[i].folder, metas[i])
        bar.set_postfix_str(f"{_rate(bar, metas[last], known)} tok/s, {metas[last].n_tokens} tokens")
    bar.close()
    return metas


def _shards(folder: Path, records: Sequence[ShardRecord]) -> Iterator[Shard]:
    return (open_shard(folder, number, record) for number, record in enumerate(records))


class _Within:
    """Moves a bar of texts while the tokens of their shards run."""

    def __init__(self, bar: Any):
        self._bar = bar
        self._shown = self._done = 0

    def to(self, texts: int) -> None:
        """So many texts of this shard have run."""
        self._bar.update(self._done + texts - self._shown)
        self._shown = self._done + texts

    def done(self, texts: int) -> None:
        """All the texts of this shard have run."""
        self.to(texts)
        self._done += texts


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


def _written(folder: Path, plan: ShardPlan, shard: EncodedShard, before: int) -> ShardRecord:
    """Writes a shard; returns what `index.json` says of it."""
    digest = write_shard(shard_path(folder, plan.number), plan, shard.by_feature)
    first = plan.first_text + before
    return ShardRecord(
        first, first + plan.continues, len(plan.texts), plan.n_tokens, len(shard.by_feature.values), shard.excluded,
        plan.data_hash(), plan.windowed, plan.ends, digest,
    )  # fmt: skip


def _encoded(
    begun: Sequence[Begun], plans: Iterable[ShardPlan], options: BuildOptions, moved: _Within | None = None
) -> Iterator[tuple[ShardPlan, list[EncodedShard]]]:
    """Each plan, with the shard of every index that has not so many."""
    if options.workers is not None:
        [one] = begun
        by_workers = encoded_by_ray(one.source, one.meta.rule, options.workers)(plans)
        run = ((plan, [shard]) for plan, shard in by_workers)
    else:
        run = ((plan, _read_by_all(begun, plan, moved)) for plan in plans)
    for plan, shards in run:
        if moved is not None:
            moved.done(len(plan.texts))
        yield plan, shards


def _read_by_all(begun: Sequence[Begun], plan: ShardPlan, moved: _Within | None) -> list[EncodedShard]:
    """The shard of every index that has not so many, from one pass."""

    def ran(share: float) -> None:
        if moved is not None:
            moved.to(int(share * len(plan.texts)))

    model = begun[0].source.anatomy.model
    several = [
        Reading(one.source.sae, one.source.component, one.meta.rule)
        for one in begun
        if len(begun) == 1 or plan.number >= len(one.meta.shards)
    ]
    return encode_shards(model, plan, several, ran)


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
    shards = shards_of(folder, meta)
    summary = summarize(shards, int(meta.sae["d_hidden"]), meta.seed)
    with derived_from(shards, meta, summary, folder) as derived:
        pieces, digest = packed_pieces(shards, pieces_of)
        made = {PIECES: ([pieces], digest), SUMMARY: packed_summary(summary)}
        made |= {name: packed(arrays) for name, arrays in derived.items()}
        files = {name: digest for name, (_, digest) in made.items()}
        if meta.appended_from:  # until the last write below, the index from before can be opened
            meta = replace(meta, coming=files)
            write_meta(folder, meta)
        write_figures(folder, {name: parts for name, (parts, _) in made.items()})
        write_meta(folder, replace(meta, complete=True, appended_from=0, files=files, coming={}))
    remove_others(folder, len(meta.shards))
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
