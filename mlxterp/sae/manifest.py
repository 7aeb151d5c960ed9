"""`collection.json`, the main file of a folder of SAEs: which there are, under which keys, with what digests.

`SAECollection.save` writes it and `SAECollection.load` reads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..core.digests import check_seal, digest_of_file, sealed
from ..core.files import strict_json
from ..core.integers import as_integer
from ..errors import InputError, MlxterpError, SAEError
from .formats import own

MANIFEST = "collection.json"
_FORMAT, VERSION = "mlxterp-saes", 1
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""Names of the folders within: nothing that leads elsewhere."""
SIZES = ("d_model", "d_hidden", "d_out")

Key = str | int


def key_of(given: Any) -> Key:
    """A key as collections have them.

    Raises:
        InputError: It is no name and no number of at least 0.
    """
    number = as_integer(given)
    if number is not None and number >= 0:
        return number
    if isinstance(given, str) and given:
        return str(given)
    raise InputError(f"{given!r} is no key of an SAE; expected a name, or a number of at least 0.")


def folder_names(keys: Iterable[Key]) -> dict[Key, str]:
    """A folder's name for each key: its letters, as far as file names can have them; no name twice, in any case."""
    found: dict[Key, str] = {}
    taken: set[str] = set()
    for key in keys:
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(key)).strip("-.")[:60] or "sae"
        name, number = plain, 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain}-{number}"
        taken.add(name.casefold())
        found[key] = name
    return found


def entry_of(key: Key, folder: Path, component: str | None, sizes: Iterable[int]) -> dict[str, Any]:
    """What the main file says of an SAE that was saved in a folder beside it.

    Args:
        sizes: As `SIZES` names them.
    """
    digest = digest_of_file(folder / own.CONFIG)
    named = dict(zip(SIZES, sizes, strict=True))
    return {"key": key, "folder": folder.name, "config": digest, "component": component, **named}


def manifest(saes: Iterable[Mapping[str, Any]]) -> str:
    """Text of the main file of these entries (`entry_of`)."""
    told = sealed({"format": _FORMAT, "version": VERSION, "saes": [dict(sae) for sae in saes]})
    return json.dumps(told, indent=1) + "\n"


def read_manifest(folder: Path) -> list[dict[str, Any]]:
    """What the main file says of each SAE, checked; see `manifest`.

    Raises:
        SAEError: It is damaged, or of a newer version.
    """
    place = folder / MANIFEST
    again = "Save the collection again, or get the file again."
    try:
        told = strict_json(place.read_bytes())
        if not isinstance(told, dict) or told.get("format") != _FORMAT:
            raise ValueError("it is something else")
        if told.get("version") != VERSION:
            raise SAEError(
                f"{place} has format version {told.get('version')!r}; this mlxterp reads version {VERSION}. A newer"
                " mlxterp may read it."
            )
        check_seal(told)
        found = [_entry(entry) for entry in _list_of(told.get("saes"))]
        if not found:
            raise ValueError("it names no SAE")
        for name in ("key", "folder"):
            if len({entry[name] for entry in found}) < len(found):
                raise ValueError(f"a {name} comes twice")
    except MlxterpError:
        raise
    except (OSError, ValueError) as error:
        raise SAEError(f"{place} is not the main file of a collection: {error}. {again}") from error
    return found


def _list_of(given: Any) -> list[Any]:
    if not isinstance(given, list):
        raise ValueError("it has no list of SAEs")
    return given


def _entry(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ValueError(f"{entry!r} describes no SAE")
    key, folder, digest = (entry.get(name) for name in ("key", "folder", "config"))
    if not isinstance(folder, str) or not _PLAIN.fullmatch(folder) or not isinstance(digest, str):
        raise ValueError(f"an SAE lies in {folder!r}, which is no name of a folder in it, or has no digest")
    component = entry.get("component")
    if not isinstance(component, (str, type(None))):
        raise ValueError(f"the component {component!r} is no name")
    sizes = {name: _size(entry.get(name)) for name in SIZES}
    try:
        return {"key": key_of(key), "folder": folder, "config": digest, "component": component, **sizes}
    except InputError as error:
        raise ValueError(str(error)) from error


def _size(given: Any) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise ValueError(f"{given!r} is no number of anything")
    return given


def check_target(target: Path) -> None:
    """Raises SAEError where something is at `target` that is no collection of ours."""
    if not target.exists():
        return
    what = "is a file"
    if target.is_dir():
        names = {p.name for p in target.iterdir() if not p.name.startswith(".")}
        ours = {MANIFEST}
        if MANIFEST in names:
            ours |= {entry["folder"] for entry in read_manifest(target)}
        if not (others := sorted(names - ours)):
            return
        what = f"holds {', '.join(others[:3])}"
    raise SAEError(f"{target} {what} and would be overwritten. Choose another path or remove it first.")
