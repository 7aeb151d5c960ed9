"""Files that are written whole or not at all, and JSON that is read strictly."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_whole(target: Path, prefix: str | None = None) -> Iterator[Path]:
    """Within the block an empty file beside `target` to write into; after it, that is the target.

    Where the block raises, or the disk is full, what was there before is unchanged. Missing folders are made.

    Args:
        prefix: How the name of the file begins while it is not whole.

    Raises:
        OSError: Nothing can be written there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        prefix=prefix or f".{target.name[:50]}.", suffix=target.suffix, dir=target.parent
    )
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
        draft.chmod(0o644)  # mkstemp makes files that only their owner can read
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


_DEEPEST = 100


def strict_json(text: str | bytes) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: It is none, names a key twice, holds NaN or an infinity, or is nested more than 100 deep.
    """
    try:
        found = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if _depth(found) > _DEEPEST:
        raise ValueError("it is nested too deeply")
    return found


def _depth(found: Any) -> int:
    """How deep lists and objects are nested, counted without recursion."""
    deepest, level = 0, [found]
    while level := [outer for outer in level if isinstance(outer, (dict, list))]:
        deepest += 1
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
    return deepest


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = Counter(name for name, _ in pairs)
        raise ValueError(f"the key {names.most_common(1)[0][0]!r} comes twice")
    return found


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is not a number that JSON knows")
