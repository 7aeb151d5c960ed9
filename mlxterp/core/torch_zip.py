"""PyTorch's `.pt` archives, read without executing anything in them and without PyTorch.

`open_torch_zip` unpickles the small description that such an archive holds, with a fixed list of names it may use,
and gives its tensors as `StoredArray`s, whose place and size were compared with what the archive really holds.
PyTorch's own reader trusts the sizes that the description claims.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .tensor_files import StoredArray, check_archive, widened

_LARGEST_DESCRIPTION = 64 * 2**20
_MOST_ENTRIES = 100_000
_DEEPEST = 8
_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip
_TYPES = {*_STORAGES.values(), "uint16", "uint32", "uint64"}
_ALIASES = {"double": "float64", "float": "float32", "half": "float16", "long": "int64", "int": "int32",
            "short": "int16"}  # fmt: skip
_NOT_READ = ("_rebuild_sparse_tensor", "_rebuild_sparse_csr_tensor", "_rebuild_qtensor", "_rebuild_nested_tensor",
             "_rebuild_meta_tensor_no_storage", "_rebuild_device_tensor_from_numpy")  # fmt: skip


class NeedsCodeError(ValueError):
    """The file holds Python objects that only code of whoever wrote it could make."""


@dataclass(frozen=True, slots=True)
class _Named:
    """A type, storage or place that a description names."""

    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """A run of numbers in the archive."""

    record: str
    dtype: str
    size: int
    """Numbers that the archive really holds."""


def is_torch_zip(path: Path) -> bool:
    """Whether the file is an archive, as PyTorch has written since 1.6."""
    return zipfile.is_zipfile(path)


def open_torch_zip(path: Path) -> dict[str, Any]:
    """The dictionary that the archive holds: arrays as `StoredArray`, numbers, strings and dictionaries as they are.

    Raises:
        NeedsCodeError: It holds objects that only code could make.
        ValueError, …: It is damaged; bytes of strangers fail in many ways.
    """
    with zipfile.ZipFile(path) as archive:
        check_archive(archive, path.stat().st_size)
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        described = [name for name in sizes if name.rpartition("/")[2] == "data.pkl"]
        if len(described) != 1:
            raise ValueError("it is an archive, but not one of PyTorch's: it holds no data.pkl")
        root = described[0].removesuffix("data.pkl")
        order = archive.read(f"{root}byteorder") if f"{root}byteorder" in sizes else b"little"
        if order.strip() != b"little":
            raise ValueError(f"its numbers are stored as {order[:20]!r}, expected little-endian")
        if sizes[described[0]] > _LARGEST_DESCRIPTION:
            raise ValueError(f"its description has {sizes[described[0]]} bytes, more than any state dict's")
        found = _Description(archive.read(described[0]), path, root, sizes).load()
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, expected a dictionary of tensors")
    return _plain(found, _DEEPEST, [_MOST_ENTRIES])


def _plain(found: Any, depth: int, left: list[int]) -> Any:
    left[0] -= 1
    if left[0] < 0:
        raise ValueError(f"it describes more than {_MOST_ENTRIES} entries")
    if isinstance(found, dict):
        if not depth:
            raise ValueError("its dictionaries are nested too deeply")
        return {str(name): _plain(value, depth - 1, left) for name, value in found.items()}
    return (
        found if isinstance(found, (StoredArray, str, int, float, bool, type(None))) else type(found).__name__
    )


_Unpickler: Any = pickle._Unpickler  # pyright: ignore[reportAttributeAccessIssue]
"""The one in Python: that in C asks for as much memory as a description claims entries."""


class _Description(_Unpickler):
    """Unpickles a description; whatever it names beyond a state dict is refused."""

    dispatch: ClassVar[dict[int, Any]] = dict(_Unpickler.dispatch)

    def __init__(self, data: bytes, path: Path, root: str, sizes: dict[str, int]):
        super().__init__(BytesIO(data))
        self._path, self._root, self._sizes = path, root, sizes

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _Named(_STORAGES[name])
        if module == "torch" and _ALIASES.get(name, name) in _TYPES:
            return _Named(_ALIASES.get(name, name))
        if (module, name) == ("torch.storage", "UntypedStorage"):
            return _Named("uint8")
        known = self._known().get((module, name))
        if known is not None:
            return known
        if module == "torch._utils" and name in _NOT_READ:
            raise ValueError(
                f"it holds a tensor of a kind that is not read ({name.removeprefix('_rebuild_')})"
            )
        raise NeedsCodeError(f"it names {module}.{name}"[:200])

    def _known(self) -> dict[tuple[str, str], Callable[..., Any] | type]:
        return {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v3"): self._typed_tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
            ("torch", "Size"): tuple,
            ("torch", "device"): _device,
            ("torch.serialization", "_get_layout"): _device,
            ("builtins", "set"): set,
            ("__builtin__", "set"): set,
            ("_codecs", "encode"): _bytes,
        }

    def load_build(self) -> None:
        """Passes over attributes of a dictionary (`_metadata` of a state dict)."""
        self.stack.pop()

    dispatch[pickle.BUILD[0]] = load_build

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, _, _ = pid
        record = f"{self._root}data/{key}"
        if not isinstance(dtype, _Named) or record not in self._sizes:
            raise ValueError(f"the numbers {key!r} of a tensor are not in it")
        return _Storage(record, dtype.name, self._sizes[record] // _itemsize(dtype.name))

    def _typed_tensor(
        self,
        storage: Any,
        offset: Any,
        shape: Any,
        stride: Any,
        gradient: Any,
        hooks: Any,
        dtype: Any,
        *rest: Any,
    ) -> StoredArray:
        size = self._sizes[storage.record] // _itemsize(dtype.name)
        return self._tensor(
            _Storage(storage.record, dtype.name, size), offset, shape, stride, gradient, hooks, *rest
        )

    def _tensor(
        self, storage: Any, offset: Any, shape: Any, stride: Any, gradient: Any = None, hooks: Any = None,
        special: Any = None,
    ) -> StoredArray:  # fmt: skip
        if not isinstance(storage, _Storage) or special:
            raise ValueError("it holds a tensor of a kind that is not read")
        shape, stride = tuple(shape), tuple(stride)
        if len(shape) != len(stride) or not all(
            type(n) is int and 0 <= n < 2**62 for n in (offset, *shape, *stride)
        ):
            raise ValueError(f"a tensor claims shape {shape} with strides {stride}")
        count = math.prod(shape)
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if count > storage.size or (count and last >= storage.size):
            raise ValueError(f"a tensor claims shape {shape}, more than the file holds")

        def load() -> np.ndarray:
            with zipfile.ZipFile(self._path) as archive:
                data = archive.read(storage.record)
            stored = "<u2" if storage.dtype == "bfloat16" else np.dtype(storage.dtype)
            numbers = np.frombuffer(data, stored, storage.size)
            steps = [step * numbers.itemsize for step in stride]
            part = np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps) if count else numbers[:0]
            return widened(np.array(part, order="C").reshape(-1), storage.dtype).reshape(shape)

        return StoredArray(shape, storage.dtype, load)


def _itemsize(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _parameter(data: Any, *_rest: Any) -> Any:
    return data


def _device(*names: Any) -> str:
    return ":".join(map(str, names))


def _bytes(text: str, encoding: str) -> bytes:
    return text.encode("latin1" if encoding == "latin1" else "utf-8")
