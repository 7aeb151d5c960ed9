"""What `source` assembles is taken by the compilers it is meant for, as far as they are here."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mlxterp.backends.kernels import source
from mlxterp.backends.kernels.source import DECODE, SELECT, Kernel
from tests.backends.kernels.emulator import program

METAL_STAND_IN = """
#include <atomic>
#include <cstdint>
#include <cstring>
typedef unsigned int uint;
typedef std::uint64_t ulong;
struct uint3 { uint x, y, z; };
#define threadgroup
#define device
#define constant
template <class To, class From> To as_type(From from) { To to; std::memcpy(&to, &from, 4); return to; }
namespace metal {
typedef std::atomic<uint> atomic_uint;
constexpr auto memory_order_relaxed = std::memory_order_relaxed;
using std::atomic_fetch_add_explicit;
using std::atomic_load_explicit;
using std::atomic_store_explicit;
enum class mem_flags { mem_threadgroup };
inline void threadgroup_barrier(mem_flags) {}
}
"""
"""Enough of Metal's words for a C++ compiler to check everything but address spaces."""

CUDA_STAND_IN = """
#include <cstdint>
struct Shape {
    int32_t length[8];
    __device__ int operator[](int i) const { return length[i]; }
};
"""


def as_mlx_writes_it(kernel: Kernel, gpu: str) -> str:
    """The function that MLX puts around a source: arrays, shapes and thread places it finds named there."""
    text = source.jit_source(kernel, "metal" if gpu == "metal" else "cuda")
    types = {"float": "float", "u32": "uint32_t"}
    parameters = []
    for name, kind in kernel.inputs.items():
        parameters.append(f"const {'device ' * (gpu == 'metal')}{types[kind]}* {name}")
        if f"{name}_shape" in text:
            parameters.append(f"const {'constant int*' if gpu == 'metal' else 'Shape'} {name}_shape")
    parameters += [f"{types[kind]}* {name}" for name, kind in kernel.outputs.items()]
    constants = source.select_constants(32) if kernel.constants else {}
    if gpu == "cuda":
        fixed = "".join(f"constexpr int {name} = {value};\n" for name, value in constants.items())
        return f"__global__ void jit_{kernel.name}({', '.join(parameters)}) {{\n{fixed}{text}\n}}\n"
    places = re.findall(r"thread\w+_in_grid|thread\w+_in_threadgroup|threads_per_threadgroup", text)
    parameters += [f"uint3 {place}" for place in dict.fromkeys(places)]
    fixed = "".join(f"constexpr int {name} = {value};\n" for name, value in constants.items())
    return f"void jit_{kernel.name}({', '.join(parameters)}) {{\n{fixed}{text}\n}}\n"


def compiled(command: list[str], text: str, path: Path) -> str:
    """What the compiler complains about, "" for nothing."""
    path.write_text(text, encoding="utf-8")
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, cwd=path.parent)
    return done.stderr if done.returncode else ""


def nvcc() -> str:
    compiler = shutil.which("nvcc")
    if compiler is None:
        pytest.skip("needs nvcc to compile for CUDA")
    return compiler


@pytest.mark.parametrize("k", [1, 64, 3000])
def test_the_cuda_build_compiles_for_sm_90(tmp_path, k):
    command = [nvcc(), "-arch=sm_90", "-cubin"]
    assert compiled(command, program("cuda", k), tmp_path / "kernels.cu") == ""


def test_what_mlx_makes_of_the_cuda_source_compiles(tmp_path):
    functions = "".join(as_mlx_writes_it(kernel, "cuda") for kernel in (SELECT, DECODE))
    text = f"{CUDA_STAND_IN}{source.header('cuda')}namespace mlx::core::cu {{\n{functions}}}\n"
    assert compiled([nvcc(), "-arch=sm_90", "-cubin"], text, tmp_path / "jit.cu") == ""


def test_what_mlx_makes_of_the_metal_source_is_well_formed(tmp_path):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++ to check the Metal source")
    functions = "".join(as_mlx_writes_it(kernel, "metal") for kernel in (SELECT, DECODE))
    command = [compiler, "-std=c++17", "-fsyntax-only", "-Wall", "-Werror", "-Wno-unknown-pragmas"]
    text = METAL_STAND_IN + source.header("metal") + functions
    assert compiled(command, text, tmp_path / "jit.cpp") == ""


@pytest.mark.parametrize("kernel", [SELECT, DECODE])
@pytest.mark.parametrize("gpu", ["metal", "cuda"])
def test_the_place_of_each_thread_and_every_size_are_named_in_the_source_mlx_searches(kernel, gpu):
    text = source.jit_source(kernel, gpu)
    for name, place in (source._THREADS[gpu] | dict(kernel.sizes)).items():
        assert f"const u32 {name} = {place};" in text
