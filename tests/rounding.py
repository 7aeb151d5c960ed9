"""`pytest --rounding SEED`: every matrix product of both wings, and NumPy's, with other last bits.

A BLAS may round equal rows differently, by the shape of the product and by where in it a row stands; which,
differs from processor to processor. Here every row of every product is multiplied by 1 ± 2⁻²³ to 2⁻²², by a hash
of the seed, the product's shape and the row's number. So the same product is the same twice, equal rows of
different batches are not, and what depends on rounding fails on every machine. Whole numbers stay: no BLAS rounds them.
Products in float64 are changed in their own last bits (2⁻⁵² to 2⁻⁵¹).

`disturb` is called by conftest, and in subprocesses by `tests/in_subprocesses/sitecustomize.py`.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np

VARIABLE = "MLXTERP_TEST_ROUNDING"
"""The seed, for the processes that tests start."""
_SIZES = np.array([-(2.0**-22), -1.5 * 2.0**-23, -(2.0**-23), 2.0**-23, 2.0**-22])
"""Multiples of what float32 can tell from 1."""
_OF_FLOAT64 = 2.0**-29
"""The last bits of float64, as a share of those of float32."""
_HELD = 1 << 16
"""Factors of products with more rows are made anew each time."""


def disturb(seed: int) -> None:
    """Disturbs every product from now on, of this process and of those that it starts; once and for good."""
    if hasattr(np.matmul, "rounded_by"):
        return
    factors = Factors(seed)
    os.environ[VARIABLE] = str(seed)
    beside = str(Path(__file__).resolve().parent / "in_subprocesses")
    if beside not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [beside, os.environ.get("PYTHONPATH")]))
    _disturb_numpy(factors)
    _when_imported("mlx.core", lambda module: _disturb_mlx(module, factors))
    _when_imported("torch", lambda module: _disturb_torch(module, factors))


class Factors:
    """What the rows of products are multiplied by."""

    def __init__(self, seed: int):
        self._seed = seed
        self._held = lru_cache(maxsize=1024)(self._make)

    def of(self, shape: Sequence[int], is_float64: bool = False) -> np.ndarray:
        """float64, (*shape[:-1], 1): for a product of that shape; a number's is one row."""
        shape = tuple(int(n) for n in shape)
        found = self._held(shape) if np.prod(shape[:-1], dtype=np.int64) <= _HELD else self._make(shape)
        return 1 + (found - 1) * _OF_FLOAT64 if is_float64 else found

    def _make(self, shape: tuple[int, ...]) -> np.ndarray:
        key = np.uint64(self._seed)
        for n in (len(shape), *shape):
            key = _hash(key + np.uint64(n))
        rows = int(np.prod(shape[:-1], dtype=np.int64))
        drawn = _hash(np.arange(rows, dtype=np.uint64) + key) % np.uint64(len(_SIZES))
        return (1 + _SIZES[drawn.astype(np.int64)]).reshape(shape[:-1] + (1,) * bool(shape))


@np.errstate(over="ignore")
def _hash(x: Any) -> Any:
    """A random-looking uint64 (splitmix64)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


# -- NumPy ----------------------------------------------------------------------------------------


def _disturb_numpy(factors: Factors) -> None:
    """`np.matmul` and its kin; `@` of arrays cannot be reached."""

    def wrapped(original: Callable) -> Callable:
        def product(*arguments: Any, out: Any = None, **options: Any) -> Any:
            found = original(*arguments, **options)
            if isinstance(found, (np.ndarray, np.floating)) and found.dtype.kind == "f":
                factor = factors.of(found.shape, found.dtype == np.float64)
                other = (found * factor).astype(found.dtype)
                found = np.where(found == np.floor(found), found, other)[()]
            if out is None:
                return found
            out[...] = found
            return out

        cast(Any, product).rounded_by = factors
        return product

    for name in ("matmul", "dot", "tensordot", "inner", "einsum"):
        setattr(np, name, wrapped(getattr(np, name)))


# -- MLX ------------------------------------------------------------------------------------------

_MLX = (
    "matmul", "addmm", "inner", "tensordot", "einsum", "vecdot", "gather_mm", "gather_qmm", "quantized_matmul",
    "segmented_mm", "block_masked_mm", "qqmm", "gather_qqmm",
)  # fmt: skip


def _disturb_mlx(mx: Any, factors: Factors) -> None:
    def disturbed(found: Any) -> Any:
        if not mx.issubdtype(found.dtype, mx.floating):
            return found
        is_float64 = found.dtype == mx.float64
        kind = mx.float64 if is_float64 else mx.float32
        factor = mx.array(
            factors.of(found.shape, is_float64).astype(np.float64 if is_float64 else np.float32)
        )
        return mx.where(found == mx.floor(found), found, (found.astype(kind) * factor).astype(found.dtype))

    def wide(x: Any) -> Any:
        """Products of 16 bits are summed in 32, so that the last bits of the sum can be reached."""
        is_narrow = isinstance(x, mx.array) and x.dtype in (mx.bfloat16, mx.float16)
        return x.astype(mx.float32) if is_narrow else x

    def wrapped(original: Callable, widens: bool) -> Callable:
        def product(*arguments: Any, **options: Any) -> Any:
            if not widens or not any(wide(x) is not x for x in arguments):
                found = original(*arguments, **options)
                return disturbed(found) if isinstance(found, mx.array) else found
            narrow = mx.result_type(*(x for x in arguments if isinstance(x, mx.array)))
            return disturbed(original(*map(wide, arguments), **options)).astype(narrow)

        return product

    for name in _MLX:
        if hasattr(mx, name):
            setattr(mx, name, wrapped(getattr(mx, name), name in ("matmul", "addmm", "inner")))
    for name in ("__matmul__", "__rmatmul__", "__imatmul__"):
        if hasattr(mx.array, name):
            setattr(mx.array, name, wrapped(getattr(mx.array, name), True))
    mx.fast.scaled_dot_product_attention = wrapped(mx.fast.scaled_dot_product_attention, False)


# -- torch ----------------------------------------------------------------------------------------

_TORCH = (
    "mm", "mm.out", "bmm", "bmm.out", "addmm", "addmm.out", "addmm_", "addmv", "addmv.out", "addmv_", "baddbmm",
    "baddbmm.out", "baddbmm_", "addbmm", "addbmm.out", "addbmm_", "_addmm_activation", "dot", "vdot",
    "_scaled_dot_product_flash_attention_for_cpu",
)  # fmt: skip
_library: Any = None
"""Holds the kernels, which go with it."""


def _disturb_torch(torch: Any, factors: Factors) -> None:
    """Takes the place of the CPU kernels, below autograd: the products of backward passes are disturbed too."""
    global _library
    _library = torch.library.Library("aten", "IMPL")
    on_cpu = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)

    def disturbed(found: Any) -> Any:
        if not found.is_floating_point():
            return found
        is_float64 = found.dtype == torch.float64
        kind = torch.float64 if is_float64 else torch.float32
        factor = torch.from_numpy(factors.of(found.shape, is_float64)).to(kind)
        factor = torch.where(found == found.floor(), 1.0, factor)
        return found.mul_(factor) if found.dtype == kind else found.copy_(found.to(kind) * factor)

    def wide(x: Any) -> Any:
        is_narrow = isinstance(x, torch.Tensor) and x.dtype in (torch.bfloat16, torch.float16)
        return x.float() if is_narrow else x

    def wrapped(name: str) -> Callable:
        kernel = torch.library.get_kernel(f"aten::{name}", "CPU")
        in_place = name.endswith((".out", "_"))

        def product(*arguments: Any, **options: Any) -> Any:
            is_narrow = not in_place and any(wide(x) is not x for x in arguments)
            if is_narrow and not name.startswith("_scaled"):
                narrow = next(x.dtype for x in arguments if isinstance(x, torch.Tensor))
                return disturbed(kernel.call_boxed(on_cpu, *map(wide, arguments), **options)).to(narrow)
            found = kernel.call_boxed(on_cpu, *arguments, **options)
            disturbed(found[0] if isinstance(found, tuple) else found)
            return found

        return product

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that kernels are replaced
        for name in _TORCH:
            _library.impl(name, wrapped(name), "CPU", allow_override=True)


# -- modules that are not imported yet -------------------------------------------------------------


def _when_imported(name: str, then: Callable[[ModuleType], None]) -> None:
    if name in sys.modules:
        then(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Watcher(name, then))


class _Watcher(importlib.abc.MetaPathFinder):
    """Finds one module as the others do, and hears when it has been loaded."""

    def __init__(self, name: str, then: Callable[[ModuleType], None]):
        self._name, self._then = name, then

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != self._name:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Then(spec.loader, self._then)
                return spec
        return None


class _Then(importlib.abc.Loader):
    """A loader that does something more at the end."""

    def __init__(self, loader: Any, then: Callable[[ModuleType], None]):
        self._loader, self._then = loader, then

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        module.__loader__ = self._loader
        if spec is not None:
            spec.loader = self._loader
        self._loader.exec_module(module)
        self._then(module)
