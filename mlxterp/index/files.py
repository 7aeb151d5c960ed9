"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ..errors import FeatureIndexError

DRAFT = ".draft."
"""How names of files begin that are not whole yet."""


def write_whole(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Writes a file beside its place and moves it there when it is on disk.

    Raises:
        FeatureIndexError: The disk is full, or nothing can be written there; what was there is unchanged.
    """
    draft: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(prefix=DRAFT, dir=path.parent)
        with open(handle, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(draft, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(draft, path)
        draft = None
    except OSError as error:
        raise FeatureIndexError(
            f"Nothing can be written to {path}: {error}. What is there already is whole; make room or choose another"
            " folder, then run the same again: it goes on."
        ) from error
    finally:
        if draft is not None:
            Path(draft).unlink(missing_ok=True)


def remove_drafts(folder: Path) -> None:
    """Removes what an interrupted build has left half written."""
    if folder.is_dir():
        for path in folder.glob(f"{DRAFT}*"):
            path.unlink(missing_ok=True)
