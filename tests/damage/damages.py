"""Ways in which files of an artefact get damaged: one of them, chosen by a seed, done to a copy of a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def damage(folder: Path, other: Path, seed: int) -> str:
    """Damages one file (or exchanges two) of a folder; returns what was done.

    Args:
        other: The same kind of artefact, of something else.
    """
    rng = np.random.default_rng(seed)
    kinds = (_flip, _flip, _flip, _cut, _longer, _zeros, _gone, _swap, _foreign, _edit, _edit)
    for kind in rng.permutation(np.arange(len(kinds))):
        done = kinds[kind](folder, other, rng)
        if done:
            return done
    raise AssertionError("nothing could be damaged")


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def _one(folder: Path, rng: np.random.Generator) -> Path:
    files = _files(folder)
    return files[int(rng.integers(len(files)))]


def _flip(folder: Path, _other: Path, rng: np.random.Generator) -> str:
    path = _one(folder, rng)
    data = bytearray(path.read_bytes())
    at, bit = int(rng.integers(len(data))), int(rng.integers(8))
    data[at] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {at} of {path.name}"


def _cut(folder: Path, _other: Path, rng: np.random.Generator) -> str:
    path = _one(folder, rng)
    data = path.read_bytes()
    kept = int(rng.integers(len(data)))
    path.write_bytes(data[:kept])
    return f"{path.name} cut to {kept} of {len(data)} bytes"


def _longer(folder: Path, _other: Path, rng: np.random.Generator) -> str:
    path = _one(folder, rng)
    path.write_bytes(
        path.read_bytes() + bytes(rng.integers(0, 256, int(rng.integers(1, 40)), dtype=np.uint8))
    )
    return f"{path.name} made longer"


def _zeros(folder: Path, _other: Path, rng: np.random.Generator) -> str:
    path = _one(folder, rng)
    data = bytearray(path.read_bytes())
    at = int(rng.integers(len(data)))
    data[at : at + 512] = bytes(len(data[at : at + 512]))
    path.write_bytes(data)
    return f"zeros after byte {at} of {path.name}"


def _gone(folder: Path, _other: Path, rng: np.random.Generator) -> str:
    path = _one(folder, rng)
    path.unlink()
    return f"{path.name} removed"


def _swap(folder: Path, _other: Path, rng: np.random.Generator) -> str | None:
    path = _one(folder, rng)
    same = [p for p in _files(folder) if p.suffix == path.suffix and p != path]
    if not same:
        return None
    partner = same[int(rng.integers(len(same)))]
    mine, others = path.read_bytes(), partner.read_bytes()
    path.write_bytes(others)
    partner.write_bytes(mine)
    return f"{path.relative_to(folder)} and {partner.relative_to(folder)} exchanged"


def _foreign(folder: Path, other: Path, rng: np.random.Generator) -> str | None:
    path = _one(folder, rng)
    source = other / path.relative_to(folder)
    if not source.exists() or source.read_bytes() == path.read_bytes():
        return None
    if path.suffix == ".json" and path.name != "pieces.json":
        return None  # the main file of another artefact tells of files that are not there
    shutil.copyfile(source, path)
    return f"{path.name} of another"


def _edit(folder: Path, _other: Path, rng: np.random.Generator) -> str | None:
    """A number or text in a JSON file, or in the header of a safetensors file, becomes another."""
    path = _one(folder, rng)
    data = path.read_bytes()
    if path.suffix == ".json":
        said = json.loads(data)
        where = _changed(said, rng)
        path.write_text(json.dumps(said, indent=1))
    else:
        length = int.from_bytes(data[:8], "little")
        said = json.loads(data[8 : 8 + length])
        where = _changed(said, rng)
        head = json.dumps(said).encode()
        path.write_bytes(len(head).to_bytes(8, "little") + head + data[8 + length :])
    return f"{where} of {path.name} edited" if where else None


def _changed(said: Any, rng: np.random.Generator, where: str = "") -> str:
    """Changes one value somewhere in it; returns its place."""
    places = list(said) if isinstance(said, dict) else list(range(len(said)))
    while places:
        place = places.pop(int(rng.integers(len(places))))
        value = said[place]
        if isinstance(value, (dict, list)) and value:
            return _changed(value, rng, f"{where}.{place}")
        new: dict[type, Callable[[Any], Any]] = {
            bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v * 1.5, str: lambda v: v + "x"
        }  # fmt: skip
        if type(value) in new:
            said[place] = new[type(value)](value)
            return f"{where}.{place}"
    return ""
