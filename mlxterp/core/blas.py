"""Gives MLX on a Linux CPU an optimised BLAS, before MLX is loaded.

The stock CPU wheel of MLX links the reference BLAS, which multiplies matrices some 20 times slower
than OpenBLAS or MKL. A library loaded with global symbols before `mlx.core` takes its place, with
equal results. Apple machines and NVIDIA GPUs are not concerned. Called once by `import mlxterp`.

The environment variable `MLXTERP_BLAS` chooses: "none" leaves MLX its own, a path or a library's name loads that.
"""

from __future__ import annotations

import ctypes
import glob
import importlib.util
import os
import sys
import warnings

from ..errors import BackendError, MlxterpWarning

VARIABLE = "MLXTERP_BLAS"
_NAMES = ("libopenblas.so.0", "libmkl_rt.so.2", "libopenblas.so", "libmkl_rt.so")
_REMEDY = (
    "Install one (Debian and Ubuntu: apt-get install libopenblas0-pthread; Fedora: dnf install openblas;"
    " anywhere: pip install mkl) and import mlxterp before mlx."
)


def preload_blas() -> str | None:
    """Loads the first optimised BLAS found, or what `MLXTERP_BLAS` says; returns its name, None where nothing is done.

    Raises:
        BackendError: What `MLXTERP_BLAS` names cannot be loaded, or is no BLAS.
    """
    asked = os.environ.get(VARIABLE, "").strip()
    if not _concerned() or asked.lower() == "none":
        return None
    if asked and "mlx.core" not in sys.modules:
        return _load(asked)
    if _loaded():
        return "loaded before"
    if "mlx.core" in sys.modules:
        warnings.warn(
            "mlx was imported before mlxterp, so its matrix products run on the reference BLAS, some 20"
            " times slower than they could. Put `import mlxterp` before `import mlx`.",
            MlxterpWarning,
            stacklevel=3,
        )
        return None
    for name in (*_NAMES, *_in_this_environment()):
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return name
    warnings.warn(
        f"No optimised BLAS was found, so MLX will multiply matrices some 20 times slower on this CPU than"
        f" it could. {_REMEDY}",
        MlxterpWarning,
        stacklevel=3,
    )
    return None


def _load(asked: str) -> str:
    try:
        library = ctypes.CDLL(os.path.expanduser(asked), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        problem = f"it cannot be loaded: {error}"
    else:
        if hasattr(library, "cblas_sgemm"):
            return asked
        problem = "it has no cblas_sgemm, so it is no BLAS"
    raise BackendError(
        f"{VARIABLE} is {asked!r}; {problem}. Give the path or name of a library (libopenblas.so.0), 'none' for MLX's"
        f" own, or unset {VARIABLE} to have one found."
    )


def _concerned() -> bool:
    if not sys.platform.startswith("linux") or os.path.exists("/dev/nvidiactl"):
        return False
    return importlib.util.find_spec("mlx") is not None


def _loaded() -> bool:
    """Whether the process has one already (NumPy's own has other symbol names and does not count)."""
    try:
        with open("/proc/self/maps") as maps:
            return any("/libopenblas" in line or "/libmkl_rt" in line for line in maps)
    except OSError:
        return False


def _in_this_environment() -> list[str]:
    """Libraries that pip and conda put beside the interpreter."""
    folders = {os.path.join(sys.prefix, "lib"), os.path.join(os.environ.get("CONDA_PREFIX", ""), "lib")}
    return [
        path
        for f in folders
        for name in ("libmkl_rt.so*", "libopenblas.so*")
        for path in glob.glob(f"{f}/{name}")
    ]
