"""Named arrays in files of strangers: headers first, numbers only where they are asked for.

`open_safetensors`, `open_npz` and `torch_zip.open_torch_zip` give the arrays of a file as `StoredArray`s: name, shape
and type are known and fit the file, and nothing else was read. A file whose header claims more than the file holds,
or that unpacks to many times its size, is refused before any memory is asked for. NumPy only.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeGuard

import numpy as np

from ..errors import SAEError
from .files import strict_json

_SAFETENSORS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library."""
_MOST_UNPACKED, _SLACK = 20, 16 * 2**20
"""Weights compress by a third, at most a few times; zeros a thousand times."""
_MOST_HOLE, _LARGEST_HOLE = 15 / 16, 64 * 2**20


@dataclass(frozen=True, eq=False, slots=True)
class StoredArray:
    """An array that a file holds, not read yet."""

    shape: tuple[int, ...]
    dtype: str
    """As NumPy names it, or "bfloat16", which is read as float32."""
    load: Callable[[], np.ndarray]
    """Reads it; nobody else holds what it gives."""
    map: Callable[[], np.ndarray] | None = None
    """Looks at it where it lies, read-only: memory is used for what is touched, as long as there is some. The file
    must not be changed meanwhile. None where its numbers must be converted."""
    part: Callable[[Any], np.ndarray] | None = None
    """Reads what an index of NumPy asks for, such as some rows, and nothing else. None where files are compressed."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        found = self.load()
        return found if dtype is None else found.astype(dtype)

    @property
    def itemtype(self) -> str:
        """The type that its numbers are read as."""
        return "float32" if self.dtype == "bfloat16" else self.dtype

    @property
    def kind(self) -> str:
        """NumPy's letter: "f" float, "i" and "u" integers, "b" bool, "c" complex."""
        return np.dtype(self.itemtype).kind


def open_safetensors(path: Path) -> dict[str, StoredArray]:
    """Arrays of a safetensors file by name.

    Raises:
        ValueError: The header is damaged, does not fit the file, or names a type that cannot be read.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = read_head(file)
    header = strict_json(head[8:].decode("utf-8"))
    if not isinstance(header, dict):
        raise ValueError(f"its header is a {type(header).__name__}, expected an object")
    header.pop("__metadata__", None)
    begin, found, strange = len(head), {}, {}
    places = []
    whole = cache(lambda: np.memmap(path, np.uint8, "r"))  # one open file for all arrays
    for name, entry in header.items():
        kind, shape, start, end = _described(name, entry)
        places.append((start, end))
        if kind not in _SAFETENSORS:
            strange[name] = kind
            continue
        dtype = np.dtype(_SAFETENSORS[kind])
        if math.prod(shape) * dtype.itemsize != end - start:
            raise ValueError(f"{name} claims shape {shape} of {kind}, and {end - start} bytes")
        name_of = "bfloat16" if kind == "BF16" else dtype.name
        place = begin + start
        found[name] = StoredArray(
            shape, name_of, _from_place(path, place, dtype, shape, name_of),
            _mapped(whole, place, shape) if kind == "F32" and place % 4 == 0 else None,
            _part(path, whole, place, dtype, shape, name_of),
        )  # fmt: skip
    if strange:
        raise ValueError(
            f"numbers of type {sorted(set(map(str, strange.values())))} cannot be read ({strange})"
        )
    expected = 0
    for start, end in sorted(places):
        if start != expected or end < start:
            raise ValueError("its arrays overlap, or leave room between them")
        expected = end
    if begin + expected != size:
        raise ValueError(f"its arrays claim {expected} bytes, the file has {size - begin}")
    return found


def safetensors_head(header: Mapping[str, Any]) -> bytes:
    """What a safetensors file begins with: the header's length, and the header; data follows at a multiple of 8."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_head(file: IO[bytes], most: int = _LARGEST_HEADER) -> bytes:
    """What `safetensors_head` made, from the beginning of a file.

    Raises:
        ValueError: The header is longer than `most` bytes, or than the file.
    """
    size = file.read(8)
    length = int.from_bytes(size, "little")
    text = file.read(length) if length <= most else b""
    if len(size) < 8 or len(text) < length:
        raise ValueError(f"its header claims {length} bytes, which is more than a header or this file has")
    return size + text


def check_safetensors(path: Path) -> None:
    """Compares what a safetensors file claims with the file and the machine, before another reader opens it.

    The safetensors library ends in an exception that no `except Exception` catches where a file claims too much.

    Raises:
        ValueError: The header is damaged or does not fit the file.
        SAEError: The arrays are larger than the machine's memory.
    """
    check_holes(path)
    arrays = open_safetensors(path).values()
    check_memory(sum(math.prod(array.shape) * np.dtype(array.itemtype).itemsize for array in arrays), path)


def _described(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape, and where the numbers begin and end."""
    entry = entry if isinstance(entry, dict) else {}
    kind, shape, place = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not _are_sizes(shape):
        raise ValueError(f"{name} has shape {reprlib.repr(shape)}, expected a list of sizes")
    if not isinstance(kind, str) or not _are_sizes(place) or len(place) != 2:
        raise ValueError(f"{name} lies at {reprlib.repr(place)} as {reprlib.repr(kind)}, expected two places")
    return kind, tuple(shape), place[0], place[1]


def _are_sizes(given: Any) -> TypeGuard[list[int]]:
    return isinstance(given, list) and all(type(n) is int and 0 <= n < 2**62 for n in given)


def _from_place(
    path: Path, offset: int, dtype: np.dtype, shape: tuple[int, ...], name: str
) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        count = math.prod(shape)
        with open(path, "rb") as file:
            file.seek(offset)
            numbers = np.fromfile(file, dtype, count)
        if numbers.size != count:
            raise ValueError("it is shorter than it was when it was opened")
        return widened(numbers, name).reshape(shape)

    return load


def _mapped(whole: Callable[[], np.ndarray], offset: int, shape: tuple[int, ...]) -> Callable[[], np.ndarray]:
    def look() -> np.ndarray:
        end = offset + 4 * math.prod(shape)
        if whole().size < end:
            raise ValueError("it is shorter than it was when it was opened")
        return np.asarray(whole()[offset:end]).view("<f4").reshape(shape)

    return look


def _part(
    path: Path, whole: Callable[[], np.ndarray], offset: int, dtype: np.dtype, shape: tuple[int, ...], name: str
) -> Callable[[Any], np.ndarray]:  # fmt: skip
    """Reads what an index asks for: rows that follow each other at once, others where they lie."""

    def read(index: Any) -> np.ndarray:
        if isinstance(index, slice) and shape:
            start, stop, step = index.indices(shape[0])
            if step == 1:
                rows = (max(stop - start, 0), *shape[1:])
                first = offset + start * dtype.itemsize * math.prod(shape[1:])
                return _from_place(path, first, dtype, rows, name)()  # pages that are mapped count as memory
        end = offset + dtype.itemsize * math.prod(shape)
        if whole().size < end:
            raise ValueError("it is shorter than it was when it was opened")
        numbers = np.asarray(whole()[offset:end]).view(dtype).reshape(shape)
        return widened(np.array(numbers[index]), name)

    return read


def widened(numbers: np.ndarray, name: str) -> np.ndarray:
    """bfloat16, which NumPy has no type for, as float32: it is the upper half of one."""
    if name != "bfloat16":
        return numbers
    whole = numbers.astype("<u4")
    whole <<= 16
    return whole.view("<f4")


# -- archives ------------------------------------------------------------------------------------


def check_archive(archive: zipfile.ZipFile, size: int) -> None:
    """Refuses an archive that unpacks to far more than it is, or names an entry twice.

    Raises:
        ValueError: It is such a one.
    """
    entries = archive.infolist()
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > _MOST_UNPACKED * size + _SLACK:
        raise ValueError(
            f"its {size} bytes unpack to {unpacked}, more than {_MOST_UNPACKED} times as much, which weights do not:"
            " if it is meant so, save it uncompressed (numpy.savez, safetensors)"
        )
    if len({entry.filename for entry in entries}) < len(entries):
        raise ValueError("it names an entry twice")


def open_npz(path: Path) -> dict[str, StoredArray]:
    """Arrays of an npz file by name.

    Raises:
        ValueError, zipfile.BadZipFile: It is damaged, unpacks to far more than it is, or holds pickled objects.
    """
    found = {}
    with zipfile.ZipFile(path) as archive:
        check_archive(archive, path.stat().st_size)
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            if name == entry.filename:
                raise ValueError(f"it holds {name}, which is no array")
            with archive.open(entry) as member:
                shape, dtype = _npy_header(member)
                begin = member.tell()
            if dtype.hasobject:
                raise ValueError(f"{name} holds pickled Python objects, which are not read")
            claimed = math.prod(shape) * dtype.itemsize
            if begin + claimed != entry.file_size:
                raise ValueError(f"{name} claims {claimed} bytes, the file holds {entry.file_size - begin}")
            found[name] = StoredArray(shape, dtype.name, _from_npz(path, entry.filename))
    return found


def _npy_header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array is stored in version {version} of its format, expected 1.0 or 2.0")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(member)
    return shape, dtype


def _from_npz(path: Path, name: str) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        with zipfile.ZipFile(path) as archive, archive.open(name) as member:
            return np.lib.format.read_array(member, allow_pickle=False)

    return load


# -- limits --------------------------------------------------------------------------------------


def check_holes(path: Path) -> None:
    """Refuses a large file that is nearly all hole: it claims room on the disk that was never written.

    Raises:
        ValueError: It is such a one.
    """
    size = path.stat().st_size
    if size < _LARGEST_HOLE or not hasattr(os, "SEEK_HOLE"):
        return
    written, place = 0, 0
    with open(path, "rb") as file:
        for _ in range(10_000):
            try:
                begin = os.lseek(file.fileno(), place, os.SEEK_DATA)
                place = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            except OSError:  # no data after this place, or a file system without holes
                break
            written += place - begin
    if size - written > _MOST_HOLE * size and place:
        raise ValueError(f"of its {size} bytes only {written} were ever written, the rest is a hole")


def check_memory(claimed: int, path: Path) -> None:
    """Refuses what cannot fit into this machine.

    Args:
        claimed: Bytes that will be needed.

    Raises:
        SAEError: The machine has less memory.
    """
    has = _memory()
    if has is not None and claimed > has:
        raise SAEError(
            f"{path} holds numbers of {claimed / 2**30:.1f} GiB as float32, and this machine has {has / 2**30:.1f} GiB."
            " Load it on a larger machine, or take a narrower SAE."
        )


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
