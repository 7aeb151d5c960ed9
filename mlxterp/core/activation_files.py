"""Activations as one tensor of a safetensors file: float16, bfloat16 or float32, written at once and memory-mapped.

A store (`store.ActivationStore`) keeps them so. The safetensors library's own writer for NumPy has no bfloat16.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from ..errors import SAEError
from .files import strict_json
from .tensor_files import read_head, safetensors_head, widened

_TENSOR = "activations"
_HEADER_LIMIT = 1 << 20
_CODES = {
    "float16": ("F16", np.dtype("<f2")),
    "bfloat16": ("BF16", np.dtype("<u2")),
    "float32": ("F32", np.dtype("<f4")),
}
DTYPES = tuple(_CODES)
"""What activations can be stored as."""


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
    return np.asarray(widened(stored, dtype), dtype=np.float32)


def write_activations(path: Path, array: np.ndarray, dtype: str) -> str:
    """Writes what `as_stored` made; returns the file's sha256."""
    entry = {"dtype": _CODES[dtype][0], "shape": list(array.shape), "data_offsets": [0, array.nbytes]}
    head, data = safetensors_head({_TENSOR: entry}), array.reshape(-1).view(np.uint8).data
    with open(path, "wb") as file:
        file.write(head)
        file.write(data)
    found = hashlib.sha256(head)
    found.update(data)
    return found.hexdigest()


def mapped_activations(path: Path, dtype: str, shape: tuple[int, int]) -> np.ndarray:
    """What `write_activations` wrote, without reading it; bfloat16 comes as its bits.

    Raises:
        OSError, ValueError, KeyError, TypeError: The file is missing, cut short, or holds something else.
    """
    code, kind = _CODES[dtype]
    with open(path, "rb") as file:
        head = read_head(file, _HEADER_LIMIT)
    entry = strict_json(head[8:])[_TENSOR]
    begin, end = entry["data_offsets"]
    size = shape[0] * shape[1] * kind.itemsize
    if entry["dtype"] != code or entry["shape"] != list(shape) or (begin, end) != (0, size):
        raise ValueError(f"it holds {entry['dtype']} {entry['shape']}, expected {code} {list(shape)}")
    if path.stat().st_size != len(head) + size:
        raise ValueError("it was cut short")
    if 0 in shape:
        return np.zeros(shape, dtype=kind)
    return np.memmap(path, dtype=kind, mode="r", offset=len(head), shape=shape)
