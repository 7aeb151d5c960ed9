"""Files that are written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import FeatureIndexError
from ..whole import written_whole

DRAFT = ".draft."
"""How names of files begin that are not whole yet."""


def write_whole(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Writes a file beside its place and moves it there when it is on disk.

    Raises:
        FeatureIndexError: The disk is full, or nothing can be written there; what was there is unchanged.
    """
    try:
        with written_whole(path, DRAFT) as draft, open(draft, "wb") as file:
            file.writelines(parts)
    except OSError as error:
        raise FeatureIndexError(
            f"Nothing can be written to {path}: {error}. What is there already is whole; make room or choose another"
            " folder, then run the same again: it goes on."
        ) from error


def remove_drafts(folder: Path) -> None:
    """Removes what an interrupted build has left half written."""
    if folder.is_dir():
        for path in folder.glob(f"{DRAFT}*"):
            path.unlink(missing_ok=True)
