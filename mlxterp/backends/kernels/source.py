"""Assembles a kernel: prelude, an opening that names threads and sizes, and the body all targets share.

`header` and `jit_source` are what MLX wants for its own kernels (it writes the signature itself);
`function` is one kernel as source, CUDA for a compiler or C++ for the emulator in the tests.

The dialect of a body: ROW, TID and NTHREADS; THREADGROUP arrays and a THREADGROUP_COUNTER with
COUNTER_ADD, COUNTER_LOAD and COUNTER_STORE; BARRIER(), UNROLL, BITS and FLOAT; u32 and u64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

Target = Literal["metal", "cuda", "cpp"]


@dataclass(frozen=True)
class Kernel:
    """What a body needs to be called: the names and types it uses."""

    name: str
    inputs: Mapping[str, str]
    """Element type of each array read."""
    outputs: Mapping[str, str]
    """Element type of each array written."""
    sizes: Mapping[str, str]
    """Lengths, and where MLX keeps them."""
    constants: tuple[str, ...] = ()
    """Numbers known when the kernel is compiled."""


SELECT = Kernel(
    "select",
    inputs={"scores": "float"},
    outputs={"ids": "u32", "values": "float"},
    sizes={"d": "scores_shape[1]"},
    constants=("K", "WINDOW", "CAPACITY"),
)
DECODE = Kernel(
    "decode",
    inputs={"ids": "u32", "values": "float", "table": "float"},
    outputs={"out": "float"},
    sizes={"k": "ids_shape[1]", "width": "table_shape[1]"},
)

_THREADS = {
    "metal": {
        "ROW": "threadgroup_position_in_grid.x",
        "TID": "thread_position_in_threadgroup.x",
        "NTHREADS": "threads_per_threadgroup.x",
    },
    "cuda": {"ROW": "blockIdx.x", "TID": "threadIdx.x", "NTHREADS": "blockDim.x"},
}


def select_constants(k: int) -> dict[str, int]:
    """K, WINDOW and CAPACITY for the `k` largest of a row.

    The buffer holds 16 times the window where it fits into 16 KiB, so that a random row fills it
    every time 16 times as much has been read. CAPACITY is a power of two above WINDOW.
    """
    window = min(1024, 1 << (k - 1).bit_length())
    return {"K": k, "WINDOW": window, "CAPACITY": min(2048, max(256, 16 * window))}


def threads_for(cells: int) -> int:
    """Threads of a group whose row has that many cells: a power of two from 32 to 256, 8 cells each."""
    return min(256, max(32, 1 << ((cells + 7) // 8 - 1).bit_length()))


@cache
def header(target: Target) -> str:
    """Types and macros of the dialect."""
    return _read(f"prelude_{target}.h")


def body(kernel: Kernel) -> str:
    """The part that all targets share."""
    return _read(f"{kernel.name}.body")


def jit_source(kernel: Kernel, target: Literal["metal", "cuda"]) -> str:
    """What MLX puts between the braces of the function it writes."""
    return _opening(_THREADS[target] | dict(kernel.sizes)) + body(kernel)


def function(
    kernel: Kernel,
    target: Literal["cuda", "cpp"],
    constants: Mapping[str, int] | None = None,
    name: str | None = None,
    text: str | None = None,
) -> str:
    """One kernel as a C function, `mlxterp_` and its name unless `name` says otherwise.

    Args:
        constants: The kernel's, for CUDA; the emulator takes them when it is called.
        text: Stands in for the body.
    """
    name, text = name or f"mlxterp_{kernel.name}", text or body(kernel)
    if target == "cpp":
        return _emulated(kernel, name, text)
    arrays = [f"const {kind}* __restrict__ {array}" for array, kind in kernel.inputs.items()]
    arrays += [f"{kind}* __restrict__ {array}" for array, kind in kernel.outputs.items()]
    lengths = [f"const u32 {size}" for size in kernel.sizes]
    chosen = constants or {}
    fixed = "".join(f"constexpr u32 {constant} = {chosen[constant]};\n" for constant in kernel.constants)
    opening = _opening(_THREADS["cuda"]) + fixed
    return f'extern "C" __global__ void {name}({", ".join(arrays + lengths)}) {{\n{opening}{text}}}\n'


def _opening(names: Mapping[str, str]) -> str:
    return "".join(f"const u32 {name} = {value};\n" for name, value in names.items())


def _emulated(kernel: Kernel, name: str, text: str) -> str:
    """Arrays and numbers come in two lists, inputs before outputs and sizes before constants."""
    lines = []
    for place, (array, kind) in enumerate([*kernel.inputs.items(), *kernel.outputs.items()]):
        extra = f", reads + {place}" if array in kernel.inputs else ""
        which = "Input" if extra else "Output"
        lines.append(
            f'emulator::{which}<{kind}> {array}("{array}", arrays[{place}], lengths[{place}]{extra});\n'
        )
    numbers = enumerate([*kernel.sizes, *kernel.constants])
    lines.append(_opening({number: f"numbers[{place}]" for place, number in numbers}))
    return (
        f'extern "C" const char* {name}(u32 rows, u32 NTHREADS, void* const* arrays, const u64* lengths, '
        f"const u32* numbers, u64* reads) {{\n{''.join(lines)}"
        f"return emulator::run(rows, NTHREADS, [&](u32 ROW, u32 TID) {{\n{text}}});\n}}\n"
    )


@cache
def _read(name: str) -> str:
    return resources.files(__name__.rpartition(".")[0]).joinpath(name).read_text(encoding="utf-8")
