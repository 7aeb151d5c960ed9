"""`Finished`: what a long call has done so far, in a file with one line for each part, so that it can be killed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.files import strict_json, telling
from ..core.places import path_of
from ..errors import InputError, warn

_FORMAT, _VERSION = "mlxterp-finished", 1


class Finished:
    """Parts of a call that are done, by key. What is put in is on disk before the next part begins.

    The first line says which call it is of; a last line that a killed call left unfinished is cut off.

    Args:
        path: The file; None keeps nothing. A file that is there is gone on with.
        about: What the call is of, as JSON holds it; another call does not go on with the file.

    Raises:
        InputError: The file is of another call, of a later version, or something else.
        WriteError: Nothing can be written there.
    """

    def __init__(self, path: str | os.PathLike | None, about: Mapping[str, Any]):
        self._path = None if path is None else path_of(path)
        self._found: dict[str, Any] = {}
        if self._path is not None:
            head = {"format": _FORMAT, "version": _VERSION, **json.loads(json.dumps(about))}
            with telling(self._path):
                self._open(self._path, head)

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def get(self, key: str) -> Any:
        """What was put in under a key; None where nothing was."""
        return self._found.get(key)

    def put(self, key: str, value: Any) -> None:
        """Notes that a part is done.

        Args:
            value: As JSON holds it, without NaN.
        """
        self._found[key] = value
        if self._path is not None:
            with telling(self._path):
                self._write(self._path, {"key": key, "value": value})

    def _open(self, path: Path, head: dict[str, Any]) -> None:
        data = path.read_bytes() if path.is_file() else b""
        whole = data.rfind(b"\n") + 1
        lines = data[:whole].splitlines()
        if data and not lines and not json.dumps(head).encode().startswith(data):
            raise InputError(_other(path, "it is no such file"))
        if lines:
            _check(path, _read(lines[0]), head)
        if whole < len(data):
            with open(path, "r+b") as file:
                file.truncate(whole)
        if not lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(path, head)
        lost = 0
        for line in lines[1:]:
            said = _read(line)
            if isinstance(said, dict) and isinstance(said.get("key"), str) and "value" in said:
                self._found[said["key"]] = said["value"]
            else:
                lost += 1
        if lost:
            warn(f"{lost} lines of {path} cannot be read; what they held is done again.")

    @staticmethod
    def _write(path: Path, value: Any) -> None:
        with open(path, "ab") as file:
            file.write(json.dumps(value, allow_nan=False).encode() + b"\n")


def _read(line: bytes) -> Any:
    try:
        return strict_json(line)
    except ValueError:
        return None


def _check(path: Path, found: Any, head: Mapping[str, Any]) -> None:
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise InputError(_other(path, "it is no such file"))
    if found.get("version") != _VERSION:
        raise InputError(
            f"{path} is of version {found.get('version')!r}; this mlxterp goes on with {_VERSION}. Choose another path."
        )
    differ = [key for key in {**head, **found} if found.get(key) != head.get(key)]
    if differ:
        raise InputError(_other(path, f"its {', '.join(differ)} differ"))


def _other(path: Path, why: str) -> str:
    return f"{path} does not hold what this call has done so far: {why}. Choose another path, or remove it."
