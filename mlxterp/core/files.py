"""Files and folders that are written whole or not at all, and JSON that is read strictly.

Whatever goes wrong while something is written (no room, no permission) leaves through here, as one kind of error that
names the place and what to do: `WriteError`, which is also the error of the room that writes.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..errors import (
    FeatureIndexError,
    IndexWriteError,
    InputError,
    InputWriteError,
    MlxterpError,
    SAEError,
    SAEWriteError,
    WriteError,
)
from .integers import as_integer, is_truth_value

DRAFT = ".draft."
"""How names begin of what is not whole yet, in folders of artefacts."""
AGAIN = "What was there before is unchanged. Make room or choose another path, then try again."

_KINDS: dict[type[MlxterpError], type[WriteError]] = {
    InputError: InputWriteError, SAEError: SAEWriteError, FeatureIndexError: IndexWriteError
}  # fmt: skip


@contextmanager
def telling(
    target: Path | str, error: type[MlxterpError] = InputError, remedy: str = AGAIN
) -> Iterator[None]:
    """Turns what the system or safetensors raises within the block into an error that names `target`.

    Args:
        error: The kind that the user is told: InputError, SAEError or FeatureIndexError.
        remedy: What is still there, and what to do next.

    Raises:
        WriteError: Of that kind too.
    """
    try:
        yield
    except WriteError:
        raise
    except (OSError, SafetensorError) as reason:
        raise _KINDS[error](
            f"Nothing can be written to {target}. It cannot be written: {reason}. {remedy}"
        ) from reason


@contextmanager
def atomic_write(
    target: Path, prefix: str | None = None, error: type[MlxterpError] = InputError, remedy: str = AGAIN
) -> Iterator[Path]:
    """Within the block an empty file beside `target` to write into; after it, that is the target.

    Where the block raises, or the disk is full, what was there before is unchanged. Missing folders are made. A link
    stays one: what it leads to is written.

    Args:
        prefix: How the name of the file begins while it is not whole.
        error, remedy: See `telling`.

    Raises:
        WriteError: Nothing can be written there.
    """
    with telling(target, error, remedy):
        target = _file_at(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=prefix or f".{target.name[:50]}.", suffix=target.suffix, dir=target.parent
        )
        os.close(handle)
        draft = Path(name)
        try:
            yield draft
            _settle(draft)
            os.replace(draft, target)
        finally:
            draft.unlink(missing_ok=True)


@contextmanager
def atomic_folder(
    target: Path, prefix: str | None = None, error: type[MlxterpError] = InputError, remedy: str = AGAIN
) -> Iterator[Path]:
    """Within the block an empty folder beside `target` to fill; after it, that is the target.

    A folder that was at `target` is replaced. Where the block raises, or the disk is full, it is unchanged, and
    nothing else is left. Missing folders above are made.

    Args:
        prefix: How the name of the folder begins while it is not whole.
        error, remedy: See `telling`.

    Raises:
        WriteError: Nothing can be written there.
    """
    with telling(target, error, remedy):
        target = Path(os.path.realpath(target))
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=prefix or f".{target.name[:50]}.", dir=target.parent))
        try:
            yield draft
            for path in draft.rglob("*"):
                if path.is_file():
                    _settle(path)
            draft.chmod(0o755)  # mkdtemp makes folders that only their owner can enter
            _put_in_place(draft, target)
        except WriteError as inner:  # of a file within, under a name that nobody will see
            raise (inner.__cause__ or inner) from None
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def remove_drafts(folder: Path) -> None:
    """Removes what an interrupted call has left half written in a folder of an artefact."""
    if folder.is_dir():
        for path in folder.glob(f"{DRAFT}*"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):  # what stays harms nothing
                    path.unlink(missing_ok=True)


_DEEPEST = 100


def strict_json(text: str | bytes) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: It is none, names a key twice, holds NaN or an infinity, or is nested more than 100 deep. (1e999 is
            read as an infinity, which the readers refuse where it stands.)
    """
    try:
        found = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if _depth(found) > _DEEPEST:
        raise ValueError("it is nested too deeply")
    return found


def json_facts(given: Mapping[Any, Any]) -> dict[str, Any]:
    """A copy of facts as JSON gives them back; numbers of other libraries become Python's, paths strings.

    Raises:
        ValueError: They hold what JSON cannot: NaN, half of a character, two keys of one spelling, other objects.
    """
    try:
        text = json.dumps(dict(given), allow_nan=False, ensure_ascii=False, default=_plain)
        text.encode("utf-8")
        return strict_json(text)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _plain(value: Any) -> Any:
    """What JSON can hold of a number or an array of another library, or of a path."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if is_truth_value(value) and getattr(value, "ndim", 0) == 0:
        return bool(value)
    if getattr(value, "ndim", 0) and hasattr(value, "tolist"):
        return value.tolist()
    if (found := as_integer(value)) is not None:
        return found
    if hasattr(value, "__float__"):
        return float(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _depth(found: Any) -> int:
    """How deep lists and objects are nested, counted without recursion."""
    deepest, level = 0, [found]
    while level := [outer for outer in level if isinstance(outer, (dict, list))]:
        deepest += 1
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
    return deepest


def _settle(path: Path) -> None:
    """On disk, and readable by others (mkstemp and safetensors make files that only their owner can read)."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    path.chmod(0o644)


def _file_at(target: Path) -> Path:
    """Where a link leads.

    Raises:
        OSError: There is something that is no file: a folder, or a device or pipe, which a file must not replace.
    """
    found = Path(os.path.realpath(target))
    if found.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if found.exists() and not found.is_file():
        raise OSError(errno.EINVAL, "It is a device or a pipe, not a file", str(target))
    return found


def _put_in_place(draft: Path, target: Path) -> None:
    if not target.exists():
        os.replace(draft, target)
        return
    old = draft.with_name(draft.name + ".old")
    os.replace(target, old)
    try:
        os.replace(draft, target)
    except BaseException:
        os.replace(old, target)
        raise
    for path in old.iterdir():
        if path.name.startswith(".") and not path.name.startswith(DRAFT):
            os.replace(path, target / path.name)  # not ours: it stays where it was
    shutil.rmtree(old, ignore_errors=True)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = Counter(name for name, _ in pairs)
        raise ValueError(f"the key {names.most_common(1)[0][0]!r} comes twice")
    return found


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is not a number that JSON knows")
