"""`LabelFile`: the names of one index's features, and the file that keeps them.

The names are `index.labels`, so that Python and the browser see the same. The file is a `FeatureRegistry`'s, written
whole at each change. What somebody else wrote there meanwhile is taken in first; a change of an entry that is not the
one its author saw is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..concepts import store
from ..concepts.explanations import Concept, checked_text
from ..concepts.registry import FeatureRegistry
from ..concepts.tables import said
from ..core.files import strict_json
from ..errors import InputError
from ..index import FeatureIndex
from ..index.folder import NAMES

NONE = "none"
"""The etag of a feature without a name."""
_LONGEST_NAME, _LONGEST_NOTE = 200, 10_000

Entry = dict[str, Any]


class ConflictError(Exception):
    """Somebody else has changed the entry."""


class ReadOnlyError(Exception):
    """Names are not to be changed."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of names that were read from a file.

    Attributes:
        added: Features that had no name.
        changed: Features that have another name now.
        same: Features that had this name.
        kept: Features that keep another name.
    """

    added: int
    changed: int
    same: int
    kept: tuple[int, ...]


class LabelFile:
    """Names of an index's features.

    Args:
        path: The file; None is `NAMES` in the index's folder, or none at all where that is a temporary folder.
        read_only: Names are shown, and not changed.

    Raises:
        InputError: The file holds something else.
        SAEError: It is of another SAE.
    """

    def __init__(self, index: FeatureIndex, path: Path | None = None, read_only: bool = False):
        self._index, self._lock = index, threading.RLock()
        self.path = path if path is not None else _own(index)
        self.read_only = read_only
        self._on_disk: dict[int, Entry] = {}
        self._seen: tuple[int, int, int] | None = None
        given = dict(index.labels)
        self._take_in()
        self._put({**self._entries(), **given})

    @property
    def writable(self) -> bool:
        """Whether names can be changed."""
        if self.read_only or self.path is None:
            return not self.read_only
        folder = self.path.parent
        return os.access(self.path if self.path.exists() else folder, os.W_OK) and os.access(folder, os.W_OK)

    def entry(self, feature: int) -> Entry | None:
        """What is said of a feature: its "name", "notes", ….; None where nobody did."""
        return self._index.labels.get(feature)

    def etag(self, feature: int) -> str:
        """Of its entry; `NONE` where there is none."""
        return _etag(self.entry(feature))

    def etags(self) -> dict[int, str]:
        """Of all entries; what others wrote is taken in first."""
        with self._lock:
            self._take_in()
            return {feature: _etag(entry) for feature, entry in self._index.labels.items()}

    def set(self, feature: int, name: Any, note: Any, seen: str) -> Entry:
        """Names a feature; returns its entry.

        Args:
            seen: The etag of the entry that this replaces.

        Raises:
            ConflictError: That is not the entry which is there.
            ReadOnlyError, InputError, WriteError: The name cannot be taken, or not be written.
        """
        name, note = _checked(name, "the name", _LONGEST_NAME), _checked(note, "the note", _LONGEST_NOTE)
        if not name:
            raise InputError("The name is empty. To take a name away, delete it.")
        with self._changing(feature, seen) as entries:
            before = dict(entries.get(feature, {}))
            if before.get("name") != name:
                before.pop("source", None)  # a person says so now
            entry = {**before, "name": name, "notes": note}
            entries[feature] = {key: value for key, value in entry.items() if value != "" or key == "name"}
        return self._index.labels[feature]

    def remove(self, feature: int, seen: str) -> None:
        """Takes a feature's name away; see `set`."""
        with self._changing(feature, seen) as entries:
            entries.pop(feature, None)

    def take(self, text: str, kind: str, replace: bool) -> Imported:
        """Takes the names of a file in; all of them, or none.

        Args:
            text: What the file holds: JSON as `FeatureRegistry` writes it, or CSV as `sae.concepts` does.
            kind: "json" or "csv".
            replace: Whether features with another name get the file's.

        Raises:
            InputError, SAEError: The file holds something else, or names of another SAE.
        """
        new = dict(self._read(text, kind))
        with self._changing() as entries:
            same = {f for f, entry in new.items() if entries.get(f, {}).get("name") == entry["name"]}
            other = {f for f in new if f in entries} - same
            added = {f for f in new if f not in entries}
            taken = added | (other if replace else set())
            entries.update({f: new[f] for f in taken})
        kept = () if replace else tuple(sorted(other))
        return Imported(len(added), len(other) if replace else 0, len(same), kept)

    def as_json(self) -> str:
        """The names as a registry's file."""
        return store.registry(dict(self._index.labels.items()), self._index.fingerprint)

    def as_csv(self) -> str:
        """The names as a table that `sae.concepts.load_concepts` reads."""
        return store.table({f: [Concept(entry["name"])] for f, entry in self._index.labels.items()})

    # -- the file -----------------------------------------------------------------------------

    @contextmanager
    def _changing(self, feature: int | None = None, seen: str | None = None) -> Iterator[dict[int, Entry]]:
        """Within the block all entries, to be changed; after it they are written."""
        if self.read_only:
            raise ReadOnlyError
        with self._lock:
            self._take_in()
            if feature is not None and self.etag(feature) != seen:
                raise ConflictError
            entries = self._entries()
            yield entries
            registry = FeatureRegistry(entries, self._index.fingerprint)
            if self.path is not None:
                registry.save(self.path)
                self._on_disk, self._seen = _copied(registry), _stamp(self.path)
            self._put(registry)

    def _entries(self) -> dict[int, Entry]:
        return _copied(self._index.labels)

    def _put(self, entries: Mapping[int, Entry]) -> None:
        """Changes the index's registry, which whoever assigned it may still hold."""
        labels = self._index.labels
        for feature in set(labels) - set(entries):
            del labels[feature]
        for feature, entry in entries.items():
            if labels.get(feature) != entry:
                labels[feature] = entry

    def _take_in(self) -> None:
        """Takes in what others wrote to the file since it was last looked at."""
        if self.path is None or (stamp := _stamp(self.path)) == self._seen:
            return
        found = FeatureRegistry.load(self.path, self._index.fingerprint) if stamp else FeatureRegistry()
        for feature in found:
            self._index.check_feature(feature)
        disk, entries = _copied(found), self._entries()
        for feature in {*disk, *self._on_disk}:
            if disk.get(feature) == self._on_disk.get(feature):
                continue
            if feature in disk:
                entries[feature] = disk[feature]
            else:
                entries.pop(feature, None)
        self._put(entries)
        self._on_disk, self._seen = disk, stamp

    def _read(self, text: str, kind: str) -> FeatureRegistry:
        if kind == "json":
            try:
                found = strict_json(text)
            except ValueError as error:
                raise InputError(f"The file is no JSON of names: {error}.") from error
            if isinstance(found, dict):
                return self._checked(FeatureRegistry(found, self._index.fingerprint))
        elif kind != "csv":
            raise InputError(f"format is {kind!r}; there are: json, csv.")
        with tempfile.TemporaryDirectory() as folder:
            path = store.write(Path(folder) / f"names.{kind}", text)
            names = said(path, self._index.d_hidden).names
        surest = {f: max(several, key=lambda one: one.confidence).name for f, several in names.items()}
        return FeatureRegistry(surest)

    def _checked(self, registry: FeatureRegistry) -> FeatureRegistry:
        for feature in registry:
            self._index.check_feature(feature)
        return registry


def _own(index: FeatureIndex) -> Path | None:
    """Where an index's names lie; None in a temporary folder, which is gone with the index."""
    temporary = index.path.parent == Path(tempfile.gettempdir()) and index.path.name.startswith("mlxterp-")
    return None if temporary else index.path / NAMES


def _copied(registry: Mapping[int, Entry]) -> dict[int, Entry]:
    return {feature: dict(entry) for feature, entry in registry.items()}


def _etag(entry: Entry | None) -> str:
    if entry is None:
        return NONE
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:16]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What tells one state of a file from another; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _checked(given: Any, what: str, longest: int) -> str:
    if not isinstance(given, str):
        raise InputError(f"{what} is {type(given).__name__}; expected text.")
    text = given.strip()
    if len(text) > longest:
        raise InputError(f"{what} has {len(text):,} characters; at most {longest:,} are kept.")
    return checked_text(text, what) if text else ""
