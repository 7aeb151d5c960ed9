"""Runs the kernels' C++ build on the CPU: an emulated threadgroup that complains about every fault.

What it finds is listed in `prelude_cpp.h`. A complaint is raised as `EmulationError`.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from mlxterp.backends.kernels import source


def program(target: Literal["cuda", "cpp"], k: int = 32) -> str:
    """A whole source file with both kernels; `k` is built into the CUDA one."""
    constants = source.select_constants(k)
    functions = [source.function(source.SELECT, target, constants), source.function(source.DECODE, target)]
    return "\n".join([source.header(target), *functions])


class EmulationError(Exception):
    """A fault of the kernel that a GPU might have let pass."""


@dataclass(frozen=True, eq=False)
class Selection:
    """What `select` left behind."""

    ids: np.ndarray
    values: np.ndarray
    reads: int
    """How often a score was read from device memory."""


class Emulator:
    """The kernels in a shared library; extra functions stand beside them under their own names."""

    def __init__(self, folder: Path, extra: str = "") -> None:
        compiler = shutil.which("g++")
        if compiler is None:
            pytest.skip("needs g++ to emulate a threadgroup")
        text, library = folder / "kernels.cpp", folder / "kernels.so"
        text.write_text(program("cpp") + extra, encoding="utf-8")
        command = [compiler, "-std=c++17", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-o"]
        done = subprocess.run([*command, str(library), str(text)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        self._library = ctypes.CDLL(str(library))

    def select(
        self,
        scores: np.ndarray,
        k: int,
        threads: int = 8,
        name: str = "mlxterp_select",
        constants: Mapping[str, int] | None = None,
    ) -> Selection:
        n, d = scores.shape
        ids, values = np.zeros((n, k), np.uint32), np.zeros((n, k), np.float32)
        chosen = source.select_constants(k) | dict(constants or {})
        numbers = [d, *(chosen[c] for c in source.SELECT.constants)]
        reads = self._call(name, n, threads, [scores.astype(np.float32)], [ids, values], numbers)
        return Selection(ids, values, reads[0])

    def decode(self, ids: np.ndarray, values: np.ndarray, table: np.ndarray, threads: int = 8) -> np.ndarray:
        out = np.zeros((len(ids), table.shape[1]), np.float32)
        inputs = [ids.astype(np.uint32), values.astype(np.float32), table.astype(np.float32)]
        self._call("mlxterp_decode", len(ids), threads, inputs, [out], [ids.shape[1], table.shape[1]])
        return out

    def _call(
        self,
        name: str,
        rows: int,
        threads: int,
        inputs: list[np.ndarray],
        outputs: list[np.ndarray],
        numbers: list[int],
    ) -> list[int]:
        function = self._library[name]
        function.restype = ctypes.c_char_p
        arrays = [np.ascontiguousarray(array) for array in inputs] + outputs
        reads = (ctypes.c_uint64 * len(arrays))()
        complaint = function(
            rows,
            threads,
            (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays)),
            (ctypes.c_uint64 * len(arrays))(*(array.size for array in arrays)),
            (ctypes.c_uint32 * len(numbers))(*numbers),
            reads,
        )
        if complaint:
            raise EmulationError(complaint.decode())
        return list(reads)


def best(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest of each row as NumPy says: NaN below -inf, among equals the lowest id."""
    rows = scores.astype(np.float64) + 0.0
    ranks = np.where(np.isnan(rows), -np.inf, rows)
    ids = np.stack([np.lexsort((np.isnan(row), -rank)) for row, rank in zip(rows, ranks, strict=True)])[:, :k]
    return ids.astype(np.uint32), np.take_along_axis(scores, ids, axis=1)


def assert_same(found: Selection, scores: np.ndarray, k: int) -> None:
    """Exactly the oracle's ids in the oracle's order; 0.0 and -0.0 count as one value."""
    ids, values = best(scores, k)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_array_equal(found.values, values)
