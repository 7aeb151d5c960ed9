"""Before a command runs: whether it may write where it is to. What cannot be written is said before hours of work.

Over what is there it asks in a terminal, and elsewhere needs --overwrite. Pages that mlxterp wrote are made anew
without a question.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from ..errors import InputError

_OURS = b'class="mlxterp-page"'


def check_folder(target: Path, options: Namespace, what: str) -> None:
    """Sees to it that an artefact may be written into a folder.

    Args:
        what: What it would be, for the question: "an SAE".

    Raises:
        InputError: Something is there, and is to stay.
    """
    if target.is_dir() and not any(target.iterdir()):
        return
    _check(target, options, f"{target} is there already, and training anew would write over it with {what}.")


def check_page(target: Path, options: Namespace) -> None:
    """Sees to it that a page may be written to a file.

    Raises:
        InputError: Something else than a page of mlxterp's is there, and is to stay; or no page can be there.
    """
    _check_place(target, "feature.html")
    if not target.parent.is_dir():
        raise InputError(f"Cannot write {str(target)!r}: there is no folder {str(target.parent)!r}.")
    if target.is_file():
        with open(target, "rb") as file:
            if _OURS in file.read(1 << 16):
                return
    _check(target, options, f"{target} is there already and is no page of mlxterp's.")


def check_file(target: Path, options: Namespace, what: str) -> None:
    """Sees to it that a file may be written.

    Args:
        what: What it would be: "scores".

    Raises:
        InputError: Something is there, and is to stay; or no file can be there.
    """
    _check_place(target, "found.json")
    _check(target, options, f"{target} is there already, and {what} would be written over it.")


def check_apart(**outputs: Path | None) -> None:
    """Sees to it that a command's files, by option, are different ones.

    Raises:
        InputError: Two are the same.
    """
    seen: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is not None and (other := seen.setdefault(path.resolve(), option)) != option:
            raise InputError(
                f"--{other} and --{option} both name {path}: one would be written over the other."
            )


def _check_place(target: Path, example: str) -> None:
    """Raises InputError where no file can be: at a folder, or at a device or pipe."""
    if target.is_dir():
        raise InputError(
            f"Cannot write {str(target)!r}: it is a folder. Give the path of a file, such as {example!r}."
        )
    if target.exists() and not target.is_file():
        raise InputError(f"Cannot write {str(target)!r}: it is a device or a pipe. Give the path of a file.")


def _check(target: Path, options: Namespace, said: str) -> None:
    if options.overwrite or not target.exists():
        return
    if not sys.stdin.isatty() or not sys.stderr.isatty():
        raise InputError(f"{said} Add --overwrite to write over it, or choose another place.")
    print(f"{said} Write over it? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().casefold() not in ("y", "yes"):
        raise InputError(f"{target} stays as it was.")
