"""The version is written in one place, and told with and without an installation."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mlxterp

PACKAGE = Path(mlxterp.__file__).parent
TELL = "import sys; sys.path.insert(0, {folder!r}); import mlxterp; print(mlxterp.__version__)"
"""Run with `-I -S`: without this folder and without what is installed."""


def test_the_version_is_the_projects():
    project = PACKAGE.parent / "pyproject.toml"
    if not project.is_file():
        pytest.skip("the package was installed without its project file")
    assert mlxterp.__version__ == tomllib.loads(project.read_text())["project"]["version"]


@pytest.mark.parametrize(
    ("project", "told"),
    [
        ('[project]\nname = "mlxterp"\nversion = "7.8.9"\n', "7.8.9"),
        ('[project]\nname = "another"\nversion = "7.8.9"\n', "unknown"),
        ("[tool.ruff]\n", "unknown"),
        (None, "unknown"),
    ],
)
def test_a_tree_that_is_not_installed_tells_its_own(tmp_path, project, told):
    shutil.copytree(PACKAGE, tmp_path / "mlxterp", ignore=shutil.ignore_patterns("demo", "__pycache__"))
    if project is not None:
        (tmp_path / "pyproject.toml").write_text(project)
    told_there = subprocess.run(
        [sys.executable, "-I", "-S", "-c", TELL.format(folder=str(tmp_path))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told_there.stdout.strip() == told


def test_importing_the_package_does_not_look_the_version_up():
    code = "import sys, mlxterp; print([n for n in ('importlib.metadata', 'tomllib') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
