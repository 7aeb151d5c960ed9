"""What is made from an index's shards and summary so that pages are answered at once: four files.

    table.safetensors     figures of every feature, a column each (`figures`)
    tokens.safetensors    the features that fire on each token id (`token_table`)
    places.safetensors    where each token id stands in the texts (`token_places`)
    sample.safetensors    the sample of tokens that co-activation is counted on, by feature

`building` writes them with the summary. An index of format version 1 has none, and one that was made before 0.2
may lack some: they are made when one is first asked for, and kept in its folder, or in memory where nothing can be
written there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from threading import RLock

import numpy as np

from ..core.files import DRAFT, telling
from ..core.sparse import stable_order
from ..errors import FeatureIndexError, WriteError, warn
from . import figures, token_places, token_table
from .figures import Figures, TokenCounts
from .files import ArrayFile, packed, root_of
from .folder import DERIVED, PLACES, SAMPLE, TABLE, TOKENS, IndexMeta, read_meta, write_meta
from .shard import Shard
from .summary import Summary, shards_of, write_figures
from .sweep import feature_ranges
from .token_places import TokenPlaces, places_in
from .token_table import TokenTable, TokenTableWriter

ARRAYS = {
    TABLE: figures.COLUMNS, TOKENS: token_table.ARRAYS, PLACES: token_places.ARRAYS,
    SAMPLE: ("sample_rows", "sample_feature_indptr"),
}  # fmt: skip
_AGAIN = "What is there already is whole; make room, then ask again."


@contextmanager
def derived_from(
    shards: Sequence[Shard], meta: IndexMeta, summary: Summary, folder: Path | None
) -> Iterator[dict[str, dict[str, np.ndarray]]]:
    """The arrays of the four files; within the block, for some are kept on disk meanwhile.

    Args:
        folder: Where on disk: the index's folder; None takes the system's for temporary files.

    Raises:
        FeatureIndexError: A shard is damaged, or there is no room on disk.
    """
    prefix = "mlxterp-" if folder is None else DRAFT
    with telling(folder or tempfile.gettempdir(), FeatureIndexError, _AGAIN):
        room = tempfile.TemporaryDirectory(prefix=prefix, dir=folder, ignore_cleanup_errors=True)
    with room as place:
        with telling(place, FeatureIndexError, _AGAIN):
            table = Figures(summary, [record.first_text for record in meta.shards])
            tokens = TokenTableWriter(Path(place), shards)
            for firings in feature_ranges(shards, len(summary.count)):
                counts = TokenCounts.of(firings)
                table.add(firings, counts)
                tokens.add(firings.first, counts)
            found = {
                TABLE: table.arrays, TOKENS: tokens.arrays(), PLACES: places_in(shards, Path(place)),
                SAMPLE: by_feature(summary),
            }  # fmt: skip
        yield found


def by_feature(summary: Summary) -> dict[str, np.ndarray]:
    """The sample transposed: int32 sample_rows, the sampled tokens of each feature, ascending, and int64
    sample_feature_indptr (d_hidden + 1,), where each feature's start."""
    features, starts = np.asarray(summary.sample_features), summary.sample_indptr
    rows = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))
    indptr = np.concatenate([[0], np.cumsum(summary.sample_count)]).astype(np.int64)
    return {"sample_rows": rows[stable_order(features, len(summary.count))], "sample_feature_indptr": indptr}


class Derived:
    """The four files of an index, opened or made when they are first asked for."""

    def __init__(self, folder: Path, meta: IndexMeta, summary: Summary):
        self._folder, self._meta, self._summary = folder, meta, summary
        self._lock = RLock()

    @cached_property
    def table(self) -> Mapping[str, np.ndarray]:
        """The columns of `figures.COLUMNS`, by name."""
        return self._arrays(TABLE)

    @cached_property
    def tokens(self) -> TokenTable:
        """The features of each token id."""
        return TokenTable(self._arrays(TOKENS))

    @cached_property
    def places(self) -> TokenPlaces:
        """Where each token id stands."""
        return TokenPlaces(self._arrays(PLACES))

    def sampled(self, feature_id: int) -> np.ndarray:
        """int32: sampled tokens where a feature is active, ascending."""
        starts = self._sample["sample_feature_indptr"]
        return self._sample["sample_rows"][int(starts[feature_id]) : int(starts[feature_id + 1])]

    @cached_property
    def _sample(self) -> Mapping[str, np.ndarray]:
        arrays = self._arrays(SAMPLE)
        return {name: arrays[name] for name in ARRAYS[SAMPLE]}

    def _arrays(self, name: str) -> Mapping[str, np.ndarray]:
        with self._lock:
            if self._are_written:
                return opened(self._folder, name, self._meta.files[name])
            return self._made[name]

    @property
    def _are_written(self) -> bool:
        """Whether the folder has those of this index; after an interrupted `add` it may have those to come."""
        kept, coming = self._meta.files, self._meta.coming
        if not all(name in kept for name in DERIVED):
            return False
        return not any(name in coming and _is(self._folder / name, coming[name]) for name in DERIVED)

    @cached_property
    def _made(self) -> Mapping[str, Mapping[str, np.ndarray]]:
        shards = shards_of(self._folder, self._meta)
        if self._is_whole:
            try:
                return self._kept(shards)
            except WriteError:
                warn(
                    f"Nothing can be written to {self._folder}, an index of an older mlxterp. Its table of features is"
                    " kept in memory, and made again when it is next opened."
                )
        with derived_from(shards, self._meta, self._summary, None) as arrays:
            return {
                name: {key: np.array(array) for key, array in own.items()} for name, own in arrays.items()
            }

    def _kept(self, shards: Sequence[Shard]) -> Mapping[str, Mapping[str, np.ndarray]]:
        """Makes the files and writes them; `index.json`, last, is then of this format version."""
        with derived_from(shards, self._meta, self._summary, self._folder) as arrays:
            made = {name: packed(own) for name, own in arrays.items()}
            write_figures(self._folder, {name: parts for name, (parts, _) in made.items()})
        files = {name: digest for name, (_, digest) in made.items()}
        self._meta = replace(self._meta, files=self._meta.files | files)
        write_meta(self._folder, self._meta)
        return {name: opened(self._folder, name, files[name]) for name in DERIVED}

    @property
    def _is_whole(self) -> bool:
        """Whether the folder is as it was opened, and complete."""
        try:
            return self._meta.complete and not self._meta.coming and read_meta(self._folder) == self._meta
        except FeatureIndexError:
            return False


def check_derived(folder: Path, meta: IndexMeta) -> None:
    """Compares all of those files that an index has with their digests.

    Raises:
        FeatureIndexError: One is missing or damaged.
    """
    for name in DERIVED:
        if name in meta.files:
            opened(folder, name, meta.files[name]).check()


def opened(folder: Path, name: str, digest: str) -> ArrayFile:
    """One of the four files.

    Raises:
        FeatureIndexError: It is missing or damaged.
    """
    return ArrayFile(folder / name, ARRAYS[name], digest)


def _is(path: Path, digest: str) -> bool:
    try:
        return root_of(path) == digest
    except FeatureIndexError:
        return False
