"""The package's version, which is written in one place: `pyproject.toml`."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

_NAME = "mlxterp"
_PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def version() -> str:
    """The installed package's version; that of the source tree where it is not installed; else "unknown"."""
    try:
        return metadata.version(_NAME)
    except metadata.PackageNotFoundError:
        return _of_the_source_tree()


def _of_the_source_tree() -> str:
    if not _PROJECT.is_file():
        return "unknown"
    project = tomllib.loads(_PROJECT.read_text(encoding="utf-8")).get("project", {})
    return project["version"] if project.get("name") == _NAME else "unknown"
