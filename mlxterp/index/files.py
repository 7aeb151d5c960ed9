"""Files of an index: written whole or not at all, and read as arrays that are checked where they are used.

A file of arrays is a safetensors file whose header also holds the sha256 of every 64 kB of its data. The sha256 of the
header stands in `index.json`, so all is bound to it, and a question compares only what it reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.digests import digest_of_bytes, digest_of_file
from ..core.files import DRAFT, atomic_write, strict_json
from ..core.tensor_files import read_head, safetensors_head
from ..errors import FeatureIndexError

BLOCK = 1 << 16
"""Bytes of data with a digest of their own."""
_DIGESTS = "sha256"
_HEADER_LIMIT = 1 << 26
_TYPES = {"U8": np.uint8, "I32": np.int32, "U32": np.uint32, "F32": np.float32, "F64": np.float64, "I64": np.int64,
          "U64": np.uint64}  # fmt: skip
_STAYS = (
    "What is there already is whole; make room or choose another folder, then run the same again: it goes on."
)


def write_atomically(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Writes a file beside its place and moves it there when it is on disk.

    Raises:
        FeatureIndexError: The disk is full, or nothing can be written there; what was there is unchanged.
    """
    with (
        atomic_write(path, DRAFT, FeatureIndexError, _STAYS) as draft,
        open(draft, "wb") as file,
    ):
        file.writelines(parts)


def damaged(path: Path, why: object) -> FeatureIndexError:
    """The error for a file that is not as it was written."""
    return FeatureIndexError(
        f"{path} is not a file of this index: {why}. Run the same build_index again: it makes again what is damaged or"
        " missing."
    )


def packed(arrays: Mapping[str, np.ndarray]) -> tuple[list[bytes | memoryview], str]:
    """What a file of these arrays consists of, and the digest that binds it; arrays lie aligned to 8 bytes."""
    codes = {np.dtype(kind).str.lstrip("<|"): code for code, kind in _TYPES.items()}
    arrays = {
        name: np.ascontiguousarray(array)
        for name, array in sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize)
    }
    header: dict[str, Any] = {}
    end = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": codes[array.dtype.str.lstrip("<|")],
            "shape": list(array.shape),
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    data = [array.reshape(-1).view(np.uint8).data for array in arrays.values() if array.size]
    header["__metadata__"] = {_DIGESTS: "".join(_digests(data))}
    head = safetensors_head(header)
    return [head, *data], digest_of_bytes(head)


def _digests(parts: Sequence[memoryview]) -> Iterator[str]:
    """sha256 of each block of the parts, one after the other."""
    digest, room = hashlib.sha256(), BLOCK
    for part in parts:
        at = 0
        while at < len(part):
            taken = part[at : at + room]
            digest.update(taken)
            at, room = at + len(taken), room - len(taken)
            if not room:
                yield digest.hexdigest()
                digest, room = hashlib.sha256(), BLOCK
    if room < BLOCK:
        yield digest.hexdigest()


class ArrayFile(Mapping[str, np.ndarray]):
    """Arrays of a file that `packed` made, memory-mapped; what is asked for is compared with its digests once.

    Args:
        expected: Names of the arrays it must have.
        digest: What binds it; None where `index.json` is of mlxterp 0.1.0 and has none.

    Raises:
        FeatureIndexError: The file is missing, cut short, damaged, or holds something else.
    """

    def __init__(self, path: Path, expected: Sequence[str], digest: str | None):
        self.path = path
        try:
            with open(path, "rb") as file:
                head = read_head(file, _HEADER_LIMIT)
            header = strict_json(head[8:])
            said = (header.pop("__metadata__", None) or {}).get(_DIGESTS)
            if digest is not None and digest != _root(path, head, said):
                raise ValueError("its digest is not the one in index.json: it is damaged, or another file")
            self._entries = {name: _entry(header[name]) for name in expected}
            end = max(entry["data_offsets"][1] for entry in header.values())
            if path.stat().st_size != len(head) + end:
                raise ValueError("it was cut short, or something was added")
            leaves = said or ""
            self._blocks = [bytes.fromhex(leaves[i : i + 64]) for i in range(0, len(leaves), 64)]
            if said is not None and len(self._blocks) != -(-end // BLOCK):
                raise ValueError("its header contradicts itself")
            self._data = _memory_of(path, len(head)) if end else np.zeros(0, np.uint8)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged(path, f"{type(error).__name__}: {error}") from error
        self._checked = bytearray(len(self._blocks))
        self._whole: dict[str, tuple[np.ndarray, int, int]] = {}  # not compared yet

    def length(self, name: str) -> int:
        """How many entries an array has, along its first dimension."""
        return (*self._entries[name][1], 0)[0]

    def kind(self, name: str) -> str:
        """Code of an array's type, where it has one dimension; else ""."""
        kind, shape, _, _ = self._entries[name]
        return next(code for code, known in _TYPES.items() if known == kind) if len(shape) == 1 else ""

    def __getitem__(self, name: str) -> np.ndarray:
        kind, shape, begin, end = self._entries[name]
        self._check(begin, end)
        return self._data[begin:end].view(kind).reshape(shape)

    def part(self, name: str, start: int, stop: int) -> np.ndarray:
        """Entries start to stop of an array of one dimension; only these are compared."""
        if name not in self._whole:
            kind, _, begin, end = self._entries[name]
            self._whole[name] = self._data[begin:end].view(kind), begin, end
        array, begin, end = self._whole[name]
        size = array.itemsize
        self._check(begin + start * size, min(begin + stop * size, end))
        return array[start:stop]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def check(self) -> None:
        """Compares all of the file with its digests.

        Raises:
            FeatureIndexError: It is damaged.
        """
        self._check(0, len(self._data))

    def _check(self, begin: int, end: int) -> None:
        first, last = begin // BLOCK, -(-end // BLOCK)
        while end > begin and (block := self._checked.find(0, first, last)) >= 0:
            found = hashlib.sha256(self._data[block * BLOCK : (block + 1) * BLOCK].data).digest()
            if found != self._blocks[block]:
                raise damaged(
                    self.path, f"bytes after {block * BLOCK} of its data are not those that were written"
                )
            self._checked[block] = 1
            first = block + 1


def part_of(arrays: Mapping[str, np.ndarray], name: str, start: int, stop: int) -> np.ndarray:
    """Entries start to stop of an array of one dimension; of a file only these are compared with its digests."""
    return arrays.part(name, start, stop) if isinstance(arrays, ArrayFile) else arrays[name][start:stop]


def root_of(path: Path) -> str:
    """The digest that binds a file of arrays, from the file.

    Raises:
        FeatureIndexError: It is no such file.
    """
    try:
        with open(path, "rb") as file:
            head = read_head(file, _HEADER_LIMIT)
        metadata = strict_json(head[8:]).get("__metadata__") or {}
        return _root(path, head, metadata.get(_DIGESTS))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error


def _root(path: Path, head: bytes, said: str | None) -> str:
    """sha256 of the header, where that has digests of the data; else of the whole file, as mlxterp 0.1.0 wrote it."""
    return digest_of_file(path) if said is None else digest_of_bytes(head)


def _entry(entry: Mapping[str, Any]) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Type, shape, and where an array lies in the data."""
    kind = np.dtype(_TYPES[entry["dtype"]])
    begin, end = (int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(n) for n in entry["shape"])
    if min((0, *shape)) < 0 or end - begin != int(np.prod(shape, dtype=object)) * kind.itemsize or begin < 0:
        raise ValueError("its header contradicts itself")
    return kind, shape, begin, end


def _memory_of(path: Path, offset: int) -> np.ndarray:
    """The file from there on, mapped: slices of a plain array are made faster than those of np.memmap."""
    return np.asarray(np.memmap(path, dtype=np.uint8, mode="r", offset=offset))
