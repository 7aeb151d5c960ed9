"""MLX on a Linux CPU gets an optimised BLAS, or a sentence that says how."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux wheels are concerned"),
    pytest.mark.skipif(importlib.util.find_spec("mlx") is None, reason="mlx is not installed"),
    pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="a GPU is there"),
]


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout + done.stderr


def has_blas() -> bool:
    return "libopenblas" in run("import mlxterp; print(open('/proc/self/maps').read())")


def test_importing_mlxterp_first_loads_it_silently():
    if not has_blas():
        pytest.skip("no optimised BLAS is installed here")
    assert run("import mlxterp, mlx.core; print('ok')").strip() == "ok"


def test_importing_mlx_first_is_told_once():
    out = run("import mlx.core; import mlxterp; import importlib; importlib.reload(mlxterp.model)")
    assert out.count("imported before mlxterp") == 1


def test_its_absence_is_told_with_the_remedy():
    code = "import ctypes\ndef missing(*a, **k): raise OSError\nctypes.CDLL = missing\nimport mlxterp\n"
    assert "libopenblas0-pthread" in run(code)
