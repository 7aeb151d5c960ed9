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


def run(code: str, asked: str | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "MLXTERP_BLAS"}
    if asked is not None:
        environment["MLXTERP_BLAS"] = asked
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, env=environment
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


LOADED = """
from pathlib import Path
import mlxterp, mlx.core as mx
mx.eval(mx.ones((2, 2)) @ mx.ones((2, 2)))
print(Path("/proc/self/maps").read_text())
"""


@pytest.mark.parametrize("asked", ["none", "NONE", " none "])
def test_none_leaves_mlx_its_own_without_a_word(asked):
    out = run(LOADED, asked)
    assert "mlx_cpu.libs/libblas" in out and "/libopenblas" not in out and "Warning" not in out
    assert "Warning" not in run("import mlx.core; import mlxterp", asked)


def test_an_empty_choice_is_none_at_all():
    assert ("/libopenblas" in run(LOADED, "")) == has_blas()


def test_a_library_can_be_named_or_given_by_its_path():
    if not has_blas():
        pytest.skip("no optimised BLAS is installed here")
    path = next(line.split()[-1] for line in run(LOADED).splitlines() if "/libopenblas" in line)
    for asked in (path, "libopenblas.so.0"):
        assert path in run(LOADED, asked)


@pytest.mark.parametrize(
    ("asked", "problem"),
    [("openblass", "cannot be loaded"), ("/no/such.so", "cannot be loaded"), ("libm.so.6", "is no BLAS")],
)
def test_a_choice_that_is_no_blas_is_refused(asked, problem):
    out = run("import mlxterp", asked)
    assert "BackendError" in out and problem in out and repr(asked) in out and "'none'" in out
