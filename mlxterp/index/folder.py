"""What lies in an index's folder, and what binds it to an SAE, a model and texts.

    <folder>/index.json               what it was built with, and its shards
    <folder>/shards/000000.safetensors
    <folder>/summary.safetensors      figures of every feature (once it is complete)
    <folder>/pieces.json              the text of each token id
    <folder>/table.safetensors        columns of all features: what a list of them shows
    <folder>/tokens.safetensors       the features that fire on each token id
    <folder>/places.safetensors       where each token id stands in the texts
    <folder>/sample.safetensors       the tokens that co-activation is counted on, by feature
    <folder>/map.safetensors          where features stand on a map, if one was saved (`DecoderMap.save`)
    <folder>/names.json               names that people gave in the explorer

`index.json` is written again whenever a shard is whole, so what is there can be used at any moment. It binds the other
files by their digests, and has one of its own contents; what mlxterp 0.1.0 wrote has none. The files of `DERIVED` are
new in format version 2; `derived` makes them for an index that was written without.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..activations.exclusions import Rule
from ..core.digests import check_seal, sealed
from ..core.files import remove_drafts, strict_json
from ..core.integers import is_integer
from ..errors import FeatureIndexError
from .files import write_atomically

META, SHARDS, SUMMARY, PIECES = "index.json", "shards", "summary.safetensors", "pieces.json"
TABLE, TOKENS, PLACES, SAMPLE = DERIVED = (
    "table.safetensors", "tokens.safetensors", "places.safetensors", "sample.safetensors",
)  # fmt: skip
MAP, NAMES = "map.safetensors", "names.json"
_FORMAT, VERSION, _READ = "mlxterp-index", 2, (1, 2)
_SHARD_NAME = re.compile(r"\d{6,}\.safetensors")


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """What `index.json` says of a shard."""

    first_text: int
    """Number of the first text that has tokens here."""
    begins: int
    """Number of the first text that begins here."""
    texts: int
    """How many begin here."""
    tokens: int
    pairs: int
    excluded: dict[str, int]
    """Tokens that were left out, by reason."""
    data: str
    """sha256 of the texts that begin here."""
    windowed: int
    """Texts that begin here and run in windows."""
    ends: bool
    """Whether its last text ends here."""
    file: str | None = None
    """Digest of its file (`files.packed`); None of an index of mlxterp 0.1.0."""


@dataclass(frozen=True, slots=True)
class IndexMeta:
    """What `index.json` says."""

    sae: dict[str, Any]
    """Its "fingerprint", "d_hidden", and what a reader wants to know of it."""
    model: dict[str, Any]
    """Its "name", "type", "probe" (lengths of its activations on fixed tokens) and "positions"."""
    component: str
    rule: Rule
    n_examples: int
    shard_tokens: int
    seed: int
    shards: tuple[ShardRecord, ...] = ()
    complete: bool = False
    appended_from: int = 0
    """Shards that were there when the texts last given began to be added."""
    files: dict[str, str] = field(default_factory=dict)
    """Digests of `SUMMARY`, `PIECES` and `DERIVED`, of the shards that were there when it was last complete."""
    coming: dict[str, str] = field(default_factory=dict)
    """The same of those that appending is about to write."""

    @property
    def bound(self) -> bool:
        """Whether every file has a digest."""
        return all(shard.file for shard in self.shards) and (SUMMARY in self.files or not self.complete)

    @property
    def n_texts(self) -> int:
        """Texts, those without tokens included."""
        return sum(shard.texts for shard in self.shards)

    @property
    def n_tokens(self) -> int:
        """Tokens of all texts."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def excluded(self) -> dict[str, int]:
        """Tokens left out, by reason."""
        return {reason: sum(s.excluded.get(reason, 0) for s in self.shards) for reason in self.rule.exclude}

    @property
    def windowed(self) -> int:
        """Texts longer than the model's positions, which ran in overlapping windows."""
        return sum(shard.windowed for shard in self.shards)

    @property
    def n_counted(self) -> int:
        """Tokens that count."""
        return self.n_tokens - sum(self.excluded.values())

    def before_appending(self) -> IndexMeta:
        """The complete index that texts were being appended to."""
        return replace(self, shards=self.shards[: self.appended_from], complete=True, appended_from=0)

    def with_shard(self, record: ShardRecord) -> IndexMeta:
        """The same with one more shard."""
        return replace(self, shards=(*self.shards, record), complete=False)


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard lies."""
    return folder / SHARDS / f"{number:06d}.safetensors"


class DamagedError(FeatureIndexError):
    """`index.json` is not what was written there."""


def write_meta(folder: Path, meta: IndexMeta) -> None:
    """Writes `index.json`, whole or not at all."""
    described = {"format": _FORMAT, "version": VERSION, **asdict(meta), "rule": meta.rule.to_json()}
    write_atomically(folder / META, [json.dumps(sealed(described), indent=1).encode()])


def read_meta(folder: Path) -> IndexMeta | None:
    """What `index.json` says; None where there is none.

    Raises:
        DamagedError: It is damaged.
        FeatureIndexError: It is no index, or was written by another version of mlxterp.
    """
    path = folder / META
    if not path.is_file():
        return None
    try:
        described = strict_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path} is not the description of an index: {error}. {_AGAIN}") from error
    if not isinstance(described, dict) or described.get("format") != _FORMAT:
        raise DamagedError(f"{path} is not the description of an index: it is something else. {_AGAIN}")
    try:
        check_seal(described)
        whole = ""
    except ValueError as error:
        whole = str(error)
    version = described.get("version")
    if version not in _READ:
        message = (
            f"The index in {folder} has format version {version!r}, this mlxterp reads versions"
            f" {' and '.join(map(str, _READ))}. Build it again (build_index with another path), or open it with the"
            " mlxterp that made it."
        )
        raise (
            DamagedError(f"{message} Or {path} is damaged: {whole}") if whole else FeatureIndexError(message)
        )
    if whole:
        raise DamagedError(f"{path} is damaged: {whole} {_AGAIN}")
    try:
        return _meta(described)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"{path} is damaged ({type(error).__name__}: {error}). {_AGAIN}") from error


_AGAIN = "Run the same build_index again: it builds the index anew."


def remains(folder: Path) -> bool:
    """Whether a folder holds shards of an index, and nothing but its files: what is damaged can be made again."""
    shards = _names(folder / SHARDS) if (folder / SHARDS).is_dir() else set()
    only = _names(folder) <= {META, SHARDS, SUMMARY, PIECES, MAP, NAMES, *DERIVED} and all(
        map(_SHARD_NAME.fullmatch, shards)
    )
    return only and bool(shards)


def _names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if not p.name.startswith(".")}


def remove_others(folder: Path, shards: int) -> None:
    """Removes shards of an earlier index beyond the first ones."""
    for name in _names(folder / SHARDS):
        if _SHARD_NAME.fullmatch(name) and int(name.partition(".")[0]) >= shards:
            (folder / SHARDS / name).unlink(missing_ok=True)


def _meta(described: Mapping[str, Any]) -> IndexMeta:
    shards = tuple(
        ShardRecord(
            _count(record["first_text"]),
            _count(record["begins"]),
            _count(record["texts"]),
            _count(record["tokens"]),
            _count(record["pairs"]),
            {str(k): _count(v) for k, v in record["excluded"].items()},
            str(record["data"]),
            _count(record["windowed"]),
            bool(record["ends"]),
            record.get("file"),
        )
        for record in described["shards"]
    )
    sae, model = dict(described["sae"]), dict(described["model"])
    _count(sae["d_hidden"])
    for value in (sae["fingerprint"], model["type"]):
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not a name")
    return IndexMeta(
        sae, model, str(described["component"]), Rule.from_json(described["rule"]), _count(described["n_examples"]),
        _count(described["shard_tokens"]), _count(described["seed"]), shards, bool(described["complete"]),
        _count(described["appended_from"]), dict(described.get("files", {})), dict(described.get("coming", {})),
    )  # fmt: skip


def _count(value: Any) -> int:
    if not is_integer(value) or value < 0:
        raise ValueError(f"{value!r} is not a number of anything")
    return value


def clean(folder: Path) -> None:
    """Removes what an interrupted build has left half written."""
    remove_drafts(folder)
    remove_drafts(folder / SHARDS)
