"""Whether a name means a folder or file here, or something on the Hugging Face hub; and what lies near a mistyped path.

Models, tokenizers and SAEs are named so. Nothing here touches a network.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any

from ..errors import InputError

_WEIGHTS = (".safetensors", ".gguf", ".npz", ".pt", ".pth", ".bin", ".json")
_REPOSITORY = re.compile(r"(?:[\w-][\w.-]{0,95}/)?[\w-][\w.-]{0,95}", re.ASCII)
_SHOWN = 5


def expanded(path: str | os.PathLike) -> Path:
    """A path with the home in place of "~"; as it stands where there is no such user."""
    return Path(os.path.expanduser(path))


def path_of(given: Any) -> Path:
    """The path of a file or folder as users give it, with their home in place of "~".

    Raises:
        InputError: It is no path.
    """
    if not isinstance(given, (str, os.PathLike)) or not given or isinstance(os.fspath(given), bytes):
        raise InputError(f"Expected the path of a file or folder, got {given!r}.")
    return expanded(given)


def beside(path: Path, ending: str) -> Path:
    """The same path with an ending to its name: "runs/sae.run" for "runs/sae". The current folder has one too.

    Raises:
        InputError: It is the root, which has no name.
    """
    named = path if path.name not in ("", "..") else Path(os.path.abspath(path))
    if not named.name:
        raise InputError(f"{path} has no name, so nothing can stand beside it. Choose a folder.")
    return named.with_name(named.name + ending)


def cache_folder() -> Path:
    """Where this user's caches lie: `XDG_CACHE_HOME`, or ~/.cache, and there "mlxterp"."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "mlxterp"


def looks_like_path(name: Any) -> bool:
    """Whether this can only mean a file or folder.

    A `Path` does, and what begins with ".", "/" or "~", has a backslash, a drive or several slashes, ends as files of
    weights do, or lies below a folder that exists.
    """
    text = os.fspath(name)
    if not isinstance(name, str) or text.startswith((".", "/", "~")) or text.endswith(("/", *_WEIGHTS)):
        return True
    if "\\" in text or text.count("/") > 1 or re.match("[A-Za-z]:", text):
        return True
    return "/" in text and _is_folder(Path(text).parent)


def is_repository(name: str) -> bool:
    """Whether the hub could have a repository of that name ("gpt2", "owner/name")."""
    return _REPOSITORY.fullmatch(name) is not None and ".." not in name and "--" not in name


def near(path: str | os.PathLike) -> str:
    """A sentence with what is called alike where this path would be, or with what else its folder has.

    It follows a space; it is empty where there is nothing to say.
    """
    target = expanded(path)
    direct, folder = True, target.parent
    while not _is_folder(folder):
        if folder == folder.parent:
            return ""
        direct, target, folder = False, folder, folder.parent
    alike = {name.casefold(): name for name in sorted(_names(folder))}
    found = [alike[n] for n in difflib.get_close_matches(target.name.casefold(), alike, n=_SHOWN, cutoff=0.6)]
    where = "This folder" if folder == Path() else str(folder)
    if found:
        return f" {where} has: {', '.join(map(repr, found))}."
    if not direct or folder == Path():
        return ""
    held = [name for name in alike.values() if not name.startswith(".")]
    shown = ", ".join(map(repr, held[:_SHOWN])) + (", …" if len(held) > _SHOWN else "")
    return f" {where} has: {shown or 'nothing'}."


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
