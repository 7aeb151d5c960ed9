"""Activations on disk.

    <folder>/meta.json
    <folder>/batch_0/rows.safetensors                             token, position, text of each row
    <folder>/batch_0/<component>/activations.safetensors          (n, width), memory-mapped
    <folder>/batch_1/…

`collect_activations` fills an `ActivationStore`, batch by batch, each moved into its place when it is
whole; `train_sae` reads it (`training.store_rows`). Files are read as numbers only.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from .core.public_names import PublicNames
from .errors import SAEError

META = "meta.json"
_FORMAT, _VERSION = "mlxterp-activations", 1
_TENSOR = "activations"
_ROWS = "rows.safetensors"
_FILE = "activations.safetensors"
_CODES = {
    "float16": ("F16", np.dtype("<f2")),
    "bfloat16": ("BF16", np.dtype("<u2")),
    "float32": ("F32", np.dtype("<f4")),
}
DTYPES = tuple(_CODES)
"""What activations can be stored as."""
_HEADER_LIMIT = 1 << 20


class ActivationStore(PublicNames):
    """Activations of one or more components for the same tokens, in a folder.

    Rows are mixed within a batch, and the batches are of contexts in random order.
    """

    def __init__(self, path: Path, meta: dict[str, Any]):
        self.path, self.meta = path, meta

    @staticmethod
    def open(path: str | os.PathLike) -> ActivationStore:
        """The store in a folder.

        Raises:
            SAEError: There is none, it is damaged, or its collection was interrupted.
        """
        folder = Path(path).expanduser()
        meta = read_meta(folder)
        if meta is None:
            raise SAEError(f"There is no activation store in {folder}. collect_activations makes one.")
        if not meta["complete"]:
            raise SAEError(
                f"The collection in {folder} was interrupted ({written_batches(folder)} batches are there)."
                " Run the same collect_activations again: it goes on."
            )
        store = ActivationStore(folder, meta)
        store.check()
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
        """Activations (n, width) of a batch, as stored: memory-mapped; bfloat16 comes as its bits (uint16)."""
        width = self.width(component)
        path = self.path / f"batch_{index}" / component / _FILE
        return _mapped(path, self.dtype, (self.counts[index], width))

    def read(self, index: int, component: str, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """float32, (n, width): rows of a batch."""
        return as_float32(self.batch(index, component)[rows], self.dtype)

    def tokens(self, index: int) -> dict[str, np.ndarray]:
        """ "tokens" (ids), "positions" (in their context) and "contexts" (numbers in the batch) of a batch's rows."""
        return load_file(self.path / f"batch_{index}" / _ROWS)

    def check(self) -> None:
        """Raises SAEError where a file is missing, or is not what `meta.json` says."""
        for index in range(len(self.counts)):
            for component in self.components:
                self.batch(index, component)


# -- writing ------------------------------------------------------------------------------------


def read_meta(folder: Path) -> dict[str, Any] | None:
    """What `meta.json` says; None where there is none.

    Raises:
        SAEError: It is not that of an activation store.
    """
    path = folder / META
    if not path.is_file():
        return None
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        known = (
            {"complete", "settings"} <= set(meta)
            and meta["format"] == _FORMAT
            and meta["version"] == _VERSION
            and meta["dtype"] in _CODES
        )
        names = all(_is_name(name) and _is_count(width) for name, width in meta["components"].items())
        if not (known and names and all(_is_count(count) for count in meta["batches"])):
            raise ValueError("its fields are not those of a store of this version")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SAEError(f"{path} is not the description of an activation store: {error}.") from error
    return meta


def write_meta(
    folder: Path, components: Mapping[str, int], dtype: str, settings: Mapping[str, Any], batches: Sequence[int],
    complete: bool, facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Writes `meta.json` whole or not at all; returns what is in it.

    Args:
        settings: What another collection must agree on to go on with this one.
        facts: What is known of the rows: tokens left out, the model's name.

    Raises:
        SAEError: The disk is full or read-only.
    """
    meta = {
        "format": _FORMAT, "version": _VERSION, "complete": complete, "dtype": dtype,
        "components": dict(components), "rows": sum(batches), "batches": list(batches),
        "settings": dict(settings), **(facts or {}),
    }  # fmt: skip
    text = json.dumps(meta, indent=1) + "\n"

    def write(draft: Path) -> None:
        (draft / META).write_text(text, encoding="utf-8")

    _whole(folder, write, lambda draft: os.replace(draft / META, folder / META))
    return meta


def write_batch(
    folder: Path, index: int, values: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], dtype: str,
    excluded: Mapping[str, int],
) -> None:  # fmt: skip
    """Writes `batch_<index>` whole or not at all.

    Args:
        values: float32 (n, width) of each component.
        rows: What each row is, as arrays (n,).
        excluded: Tokens left out of this batch, by reason.

    Raises:
        SAEError: The disk is full or read-only, or an activation is too large for float16.
    """
    stored = {name: as_stored(array, dtype, name) for name, array in values.items()}

    def write(draft: Path) -> None:
        for name, array in stored.items():
            (draft / name).mkdir()
            _write_tensor(draft / name / _FILE, array, _CODES[dtype][0])
        save_file(dict(rows), draft / _ROWS, metadata={"excluded": json.dumps(dict(excluded))})

    _whole(folder, write, lambda draft: os.replace(draft, folder / f"batch_{index}"))


def written_batches(folder: Path) -> int:
    """How many batches are there, from the first one on."""
    number = 0
    while (folder / f"batch_{number}").is_dir():
        number += 1
    return number


def counted(folder: Path, batches: int) -> tuple[list[int], dict[str, int]]:
    """Rows of each of the first batches, and all tokens left out of them, by reason."""
    counts, excluded = [], {}
    for index in range(batches):
        with safe_open(folder / f"batch_{index}" / _ROWS, framework="numpy") as file:
            counts.append(file.get_slice("tokens").get_shape()[0])
            for reason, number in json.loads(file.metadata()["excluded"]).items():
                excluded[reason] = excluded.get(reason, 0) + number
    return counts, excluded


def as_stored(array: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """float32 as it is stored; bfloat16 as its bits, rounded to the nearest."""
    if dtype == "float32":
        return np.ascontiguousarray(array, dtype="<f4")
    if dtype == "float16":
        peak = float(np.abs(array).max(initial=0))
        if peak > float(np.finfo(np.float16).max):
            raise SAEError(
                f"An activation of {name} is {peak:.3g}, too large for float16. Use dtype='bfloat16'."
            )
        return np.ascontiguousarray(array, dtype="<f2")
    bits = np.ascontiguousarray(array, dtype="<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def as_float32(stored: np.ndarray, dtype: str) -> np.ndarray:
    """What `as_stored` made, as float32."""
    if dtype == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(stored, dtype=np.float32)


def _whole(folder: Path, write: Any, move: Any) -> None:
    draft = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft.", dir=folder))
        write(draft)
        for path in draft.rglob("*"):
            if path.is_file():
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
        draft.chmod(0o755)  # mkdtemp makes folders that only their owner can enter
        move(draft)
    except OSError as error:
        raise SAEError(
            f"Nothing can be written to {folder}: {error}. What is there already is whole; make room or choose another"
            " folder, then run the same again."
        ) from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


def _write_tensor(path: Path, array: np.ndarray, code: str) -> None:
    """A safetensors file of one tensor; the library's own writer for NumPy has no bfloat16."""
    entry = {"dtype": code, "shape": list(array.shape), "data_offsets": [0, array.nbytes]}
    header = json.dumps({_TENSOR: entry}).encode()
    header += b" " * (-len(header) % 8)  # data starts at a multiple of 8
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(array.data)


def _mapped(path: Path, dtype: str, shape: tuple[int, int]) -> np.ndarray:
    """The one tensor of a safetensors file, without reading it.

    Raises:
        SAEError: The file is missing, cut short, or holds something else.
    """
    code, kind = _CODES[dtype]
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _HEADER_LIMIT:
                raise ValueError("its header is too long")
            entry = json.loads(file.read(length))[_TENSOR]
        begin, end = entry["data_offsets"]
        size = shape[0] * shape[1] * kind.itemsize
        if entry["dtype"] != code or entry["shape"] != list(shape) or (begin, end) != (0, size):
            raise ValueError(f"it holds {entry['dtype']} {entry['shape']}, expected {code} {list(shape)}")
        if path.stat().st_size != 8 + length + size:
            raise ValueError("it was cut short")
        if 0 in shape:
            return np.zeros(shape, dtype=kind)
        return np.memmap(path, dtype=kind, mode="r", offset=8 + length, shape=shape)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SAEError(
            f"{path} is not as the store describes it: {error}. Collect these activations again."
        ) from error


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"[\w][\w.\-]*", name) is not None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
