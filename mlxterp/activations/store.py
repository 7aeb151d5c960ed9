"""Activations on disk.

    <folder>/meta.json                                            what it is of, and digests of the rows' files
    <folder>/batch_0/rows.safetensors                             token, position, text of each row
    <folder>/batch_0/<component>/activations.safetensors          (n, width), memory-mapped
    <folder>/batch_1/…

`collect_activations` fills an `ActivationStore`, batch by batch, each moved into its place when it is
whole; `train_sae` reads it (`training.rows.StoreRows`). Files are read as numbers only. A batch's rows hold the
digests of its activations, and one of their own, so that a batch can be checked while the collection is not complete.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from ..core.activation_files import DTYPES, as_float32, as_stored, mapped_activations, write_activations
from ..core.digests import DIGEST, check_seal, digest_of_arrays, digest_of_file, same_file, sealed
from ..core.files import DRAFT, atomic_folder, atomic_write, strict_json
from ..core.integers import is_integer
from ..core.places import path_of
from ..core.public_names import PublicNames
from ..core.tensor_files import check_safetensors
from ..errors import SAEError, warn

META = "meta.json"
_FORMAT, _VERSION = "mlxterp-activations", 1
_ROWS = "rows.safetensors"
_BATCH = "batch"
_FILE = "activations.safetensors"
_AGAIN = "Run the same collect_activations again: it makes again what is damaged or missing."
_STAYS = "What is there already is whole; make room or choose another folder, then run the same again."
_DAMAGES = (
    SafetensorError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
)


class DamagedError(SAEError):
    """`meta.json` is not what was written there."""


class ActivationStore(PublicNames):
    """Activations of one or more components for the same tokens, in a folder.

    Rows are mixed within a batch, and the batches are of contexts in random order.
    """

    def __init__(self, path: Path, meta: dict[str, Any]):
        self.path, self.meta = path, {key: value for key, value in meta.items() if key != DIGEST}
        self._checked: set[tuple[int, str]] = set()

    @staticmethod
    def open(path: str | os.PathLike) -> ActivationStore:
        """The store in a folder.

        Raises:
            SAEError: There is none, it is damaged, or its collection was interrupted.
        """
        folder = path_of(path)
        meta = read_meta(folder)
        if meta is None:
            raise SAEError(f"There is no activation store in {folder}. collect_activations makes one.")
        if not meta["complete"]:
            raise SAEError(
                f"The collection in {folder} was interrupted ({written_batches(folder)} batches are there)."
                " Run the same collect_activations again: it goes on."
            )
        if DIGEST not in meta:
            warn(
                f"The activations in {folder} were written by mlxterp 0.1.0, without digests of their files, so damage"
                " to them would not be seen. The collect_activations that made them, called again, writes them."
            )
        store = ActivationStore(folder, meta)
        store._check_shapes()
        return store

    @property
    def components(self) -> tuple[str, ...]:
        """Paths of the components."""
        return tuple(self.meta["components"])

    @property
    def dtype(self) -> str:
        """ "float16", "bfloat16" or "float32"."""
        return self.meta["dtype"]

    @property
    def counts(self) -> list[int]:
        """Rows of each batch."""
        return list(self.meta["batches"])

    def __len__(self) -> int:
        return sum(self.counts)

    def __repr__(self) -> str:
        widths = ", ".join(f"{name} ({width})" for name, width in self.meta["components"].items())
        return f"ActivationStore({self.path}: {len(self)} tokens of {widths}, {self.dtype})"

    def width(self, component: str) -> int:
        """Numbers of each row.

        Raises:
            SAEError: The component is not in the store.
        """
        if component not in self.meta["components"]:
            raise SAEError(
                f"This store has no activations of {component!r}. It holds: {', '.join(self.components)}."
            )
        return int(self.meta["components"][component])

    def batch(self, index: int, component: str) -> np.ndarray:
        """Activations (n, width) of a batch, as stored: memory-mapped; bfloat16 comes as its bits (uint16).

        Raises:
            SAEError: The file is missing or damaged.
        """
        found = self._mapped(index, component)
        self._check_file(index, component)
        return found

    def _mapped(self, index: int, component: str) -> np.ndarray:
        width = self.width(component)
        path = self.path / f"batch_{index}" / component / _FILE
        try:
            return mapped_activations(path, self.dtype, (self.counts[index], width))
        except _DAMAGES as error:
            raise damaged(path, error) from error

    def _check_file(self, index: int, component: str) -> None:
        """Compares a file with its digest, when it is first used."""
        if "rows_sha256" not in self.meta or (index, component) in self._checked:
            return
        folder = self.path / f"batch_{index}"
        path = folder / _ROWS
        try:
            if (count := _count(path)) != self.counts[index]:
                raise ValueError(f"it holds {count} rows, and {META} says {self.counts[index]}")
            same_file(path, self.meta["rows_sha256"][index])
            if component:
                digests = _said(path)["files"]
                path = folder / component / _FILE
                same_file(path, digests[component])
        except _DAMAGES as error:
            raise damaged(path, error) from error
        self._checked.add((index, component))

    def read(self, index: int, component: str, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """float32, (n, width): rows of a batch."""
        return as_float32(self.batch(index, component)[rows], self.dtype)

    def tokens(self, index: int) -> dict[str, np.ndarray]:
        """ "tokens" (ids), "positions" (in their context) and "contexts" (numbers in the batch) of a batch's rows.

        Raises:
            SAEError: The file is missing or damaged.
        """
        self._check_file(index, "")
        path = self.path / f"batch_{index}" / _ROWS
        try:
            return load_file(path)
        except _DAMAGES as error:
            raise damaged(path, error) from error

    def check(self) -> None:
        """Reads every byte; raises SAEError where a file is missing, or is not what `meta.json` says."""
        self._checked.clear()
        for index in range(len(self.counts)):
            for component in self.components:
                self.batch(index, component)

    def _check_shapes(self) -> None:
        """Raises SAEError where a file is missing, or has another shape than `meta.json` says."""
        for index in range(len(self.counts)):
            for component in self.components:
                self._mapped(index, component)


# -- writing ------------------------------------------------------------------------------------


def read_meta(folder: Path) -> dict[str, Any] | None:
    """What `meta.json` says; None where there is none.

    Raises:
        DamagedError: It is damaged.
        SAEError: It is not that of an activation store, or of another version.
    """
    path = folder / META
    if not path.is_file():
        return None
    said = f"{path} is not the description of an activation store:"
    try:
        meta = strict_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DamagedError(f"{said} {error}. {_AGAIN}") from error
    if not isinstance(meta, dict) or meta.get("format") != _FORMAT:
        raise DamagedError(f"{said} it is something else. {_AGAIN}")
    try:
        sealed_by = check_seal(meta)
        if meta.get("version") != _VERSION:
            raise SAEError(
                f"{said} it has format version {meta.get('version')!r}, this mlxterp reads version {_VERSION}. Open it"
                " with the mlxterp that made it."
            )
        known = {"complete", "settings"} <= set(meta) and meta["dtype"] in DTYPES
        names = all(_is_name(name) and _is_count(width) for name, width in meta["components"].items())
        if not (known and names and all(_is_count(count) for count in meta["batches"])):
            raise ValueError("its fields are not those of a store of this version")
        if sealed_by and len(meta["rows_sha256"]) != len(meta["batches"]):
            raise ValueError("its digests are not of these batches")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, SAEError):
            raise
        raise DamagedError(f"{said} {error}. {_AGAIN}") from error
    return meta


def write_meta(
    folder: Path, components: Mapping[str, int], dtype: str, settings: Mapping[str, Any], batches: Sequence[int],
    complete: bool, facts: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Writes `meta.json` whole or not at all.

    Args:
        batches: Rows of each batch; the batches are there.
        settings: What another collection must agree on to go on with this one.
        facts: What is known of the rows: tokens left out, the model's name.

    Raises:
        SAEError: The disk is full or read-only.
    """
    meta = {
        "format": _FORMAT, "version": _VERSION, "complete": complete, "dtype": dtype,
        "components": dict(components), "rows": sum(batches), "batches": list(batches),
        "rows_sha256": [digest_of_file(folder / f"batch_{i}" / _ROWS) for i in range(len(batches))],
        "settings": dict(settings), **(facts or {}),
    }  # fmt: skip
    text = json.dumps(sealed(meta), indent=1) + "\n"
    with atomic_write(folder / META, DRAFT, SAEError, _STAYS) as draft:
        draft.write_text(text, encoding="utf-8")


def write_batch(
    folder: Path, index: int, values: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], dtype: str,
    excluded: Mapping[str, int], of: str = "",
) -> None:  # fmt: skip
    """Writes `batch_<index>` whole or not at all.

    Args:
        values: float32 (n, width) of each component.
        rows: What each row is, as arrays (n,).
        excluded: Tokens left out of this batch, by reason.
        of: Tells this collection from others (a digest of its settings).

    Raises:
        SAEError: The disk is full or read-only, or an activation is too large for float16.
    """
    stored = {name: as_stored(array, dtype, name) for name, array in values.items()}
    with atomic_folder(folder / f"batch_{index}", DRAFT, SAEError, _STAYS) as draft:
        digests = {}
        for name, array in stored.items():
            (draft / name).mkdir()
            digests[name] = write_activations(draft / name / _FILE, array, dtype)
        _write_rows(draft / _ROWS, rows, excluded, digests, of)


def written_batches(folder: Path) -> int:
    """How many batches are there, from the first one on."""
    number = 0
    while (folder / f"batch_{number}").is_dir():
        number += 1
    return number


def rows_and_exclusions(folder: Path, batches: Iterable[int]) -> tuple[list[int], dict[str, int]]:
    """Rows of each of these batches, and all tokens left out of them, by reason.

    Raises:
        SAEError: A batch's rows are missing or damaged.
    """
    counts, excluded = [], {}
    for index in batches:
        path = folder / f"batch_{index}" / _ROWS
        try:
            for reason, number in _said(path)["excluded"].items():
                excluded[reason] = excluded.get(reason, 0) + number
            counts.append(_count(path))
        except _DAMAGES as error:
            raise damaged(path, error) from error
    return counts, excluded


def bind_batches(folder: Path, widths: Mapping[str, int], of: str) -> None:
    """Gives batches of mlxterp 0.1.0 their digests; the others are left as they are.

    Raises:
        SAEError: A file is damaged, or nothing can be written.
    """
    for index in range(written_batches(folder)):
        path = folder / f"batch_{index}" / _ROWS
        try:
            said = _said(path)
            if DIGEST in said:
                continue
            files = {name: digest_of_file(path.parent / name / _FILE) for name in widths}
            rows = load_file(path)
        except _DAMAGES as error:
            raise damaged(path, error) from error
        with atomic_write(path, DRAFT, SAEError, _STAYS) as draft:
            _write_rows(draft, rows, said["excluded"], files, of)


def _write_rows(
    path: Path, rows: Mapping[str, np.ndarray], excluded: Mapping[str, int], files: Mapping[str, str], of: str
) -> None:
    said = {"excluded": dict(excluded), "files": dict(files), "arrays": digest_of_arrays(rows), "of": of}
    # One key: several would stand in another order each time.
    save_file(dict(rows), path, metadata={_BATCH: json.dumps(sealed(said))})


def damaged_batches(
    folder: Path, widths: Mapping[str, int], dtype: str, meta: Mapping[str, Any]
) -> list[int]:
    """Numbers of the batches that are missing between others, or not as they were written; all are read."""
    numbers = [int(p.name[6:]) for p in folder.glob("batch_*") if p.name[6:].isdecimal()]
    said = dict(enumerate(meta.get("rows_sha256", [])))
    last = max([*numbers, *said], default=-1)
    return [i for i in range(last + 1) if not _is_whole(folder / f"batch_{i}", widths, dtype, said.get(i))]


def _is_whole(batch: Path, widths: Mapping[str, int], dtype: str, digest: str | None) -> bool:
    path = batch / _ROWS
    try:
        for component, width in widths.items():  # sizes first: a file may claim more than can be read
            mapped_activations(batch / component / _FILE, dtype, (_count(path), width))
        if digest is not None:
            same_file(path, digest)
        rows, said = load_file(path), _said(path)
        if check_seal(said) and said["arrays"] != digest_of_arrays(rows):
            return False
        for component in widths if DIGEST in said else ():
            same_file(batch / component / _FILE, said["files"][component])
    except (SAEError, *_DAMAGES):
        return False
    return True


def collections_in(folder: Path) -> set[str]:
    """The collections that the readable batches belong to, by what `write_batch` was told."""
    found = set()
    for path in folder.glob(f"batch_*/{_ROWS}"):
        with suppress(*_DAMAGES):
            said = _said(path)
            found.add(str(said["of"]) if check_seal(said) else "")
    return found


def _count(path: Path) -> int:
    """Rows of a batch, by the header of its file.

    Raises:
        ValueError: Its arrays are of different lengths.
    """
    with safe_open(path, framework="numpy") as file:
        shapes = {tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    if len(shapes) != 1 or len(shape := shapes.pop()) != 1:
        raise ValueError("its arrays are not one number for each row")
    return int(shape[0])


def _said(path: Path) -> dict[str, Any]:
    """What the header of a batch's rows says: tokens left out, and digests (mlxterp 0.1.0 wrote none)."""
    check_safetensors(path)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
    if _BATCH in metadata:
        return strict_json(metadata[_BATCH])
    return {"excluded": strict_json(metadata["excluded"])}


def damaged(path: Path, why: object) -> SAEError:
    """The error for a file that is not as it was written."""
    return SAEError(f"{path} is not as the store describes it: {why}. {_AGAIN}")


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"[\w][\w.\-]*", name) is not None


def _is_count(value: Any) -> bool:
    return is_integer(value) and value >= 0
