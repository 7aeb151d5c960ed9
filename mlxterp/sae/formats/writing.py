"""Writing an SAE, or a set of transcoders: a folder of weights and settings, ours or another library's, whole or not at
all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ...core.files import atomic_folder
from ...core.places import expanded
from ...errors import InputError, SAEError
from . import own, saelens, to_circuit_tracer, to_saelens
from .parts import Parts, Stored
from .settings import read_config

_TABLE: dict[str, Callable[[Parts, str], Stored]] = {
    "mlxterp": own.stored, "saelens": to_saelens.stored, "circuit_tracer": to_circuit_tracer.stored
}  # fmt: skip
_NAMES = {own.WEIGHTS, own.CONFIG, own.NAMES_FILE, saelens.WEIGHTS, saelens.CONFIG}
_DTYPES = ("float32", "float16")


def write(path: str | os.PathLike, parts: Parts, format: str = "mlxterp", dtype: str = "float32") -> Path:
    """Makes or replaces the folder `path`; returns it.

    Raises:
        SAEError: Something else is at `path`, the metadata cannot be written as JSON, the format cannot
            hold this variant or `dtype`, or a weight lies outside float16's range.
        WriteError: Nothing can be written there; what was there is unchanged.
    """
    target = _target(path, dtype)
    if format not in _TABLE:
        raise SAEError(f"Unknown format {format!r}. SAEs are saved as: {', '.join(_TABLE)}.")
    stored = _TABLE[format](parts, dtype)
    with atomic_folder(target, ".sae.", SAEError) as draft:
        _put(draft, stored)
    return target


def write_set(path: str | os.PathLike, saes: Iterable[Parts], dtype: str = "float32") -> Path:
    """Makes or replaces the folder `path` with transcoders in circuit-tracer's layout; returns it.

    Args:
        saes: Taken one after the other.

    Raises:
        SAEError, WriteError: As `write` says; or the transcoders are no set (see `to_circuit_tracer`).
    """
    target = _target(path, dtype)
    with atomic_folder(target, ".saes.", SAEError) as draft:
        for stored in to_circuit_tracer.stored_set(saes, dtype):
            _put(draft, stored)
    return target


def _target(path: str | os.PathLike, dtype: str) -> Path:
    """The folder to write, once nothing else is there and the dtype is known."""
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"Expected the path of a folder to save in, got {path!r}.")
    target = expanded(path).resolve()
    _check_target(target)
    if dtype not in _DTYPES:
        raise SAEError(f"Unknown dtype {dtype!r}. SAEs are saved as: {', '.join(_DTYPES)}.")
    return target


def _put(draft: Path, stored: Stored) -> None:
    """Writes the files of one SAE."""
    arrays = {name: np.asarray(array, order="C") for name, array in stored.arrays.items()}
    save_file(arrays, draft / stored.weights)
    for name, text in stored.texts.items():
        (draft / name).write_text(text, encoding="utf-8", newline="\n")


def _check_target(target: Path) -> None:
    if target.suffix in (".safetensors", ".json", ".npz", ".pt"):
        raise SAEError(
            f"An SAE is saved as a folder, but {target.name!r} looks like a file."
            f" Use {str(target.with_suffix(''))!r}; weights and settings will be in it."
        )
    if not target.exists():
        return
    what = "is a file"
    if target.is_dir():
        names = {p.name for p in target.iterdir() if not p.name.startswith(".")}
        if to_circuit_tracer.is_ours(target):
            return
        others = sorted(names - _NAMES)
        if not others and (not names or _is_ours(target)):
            return
        others = others or sorted(names)
        what = f"holds {', '.join(others[:3])}"
    raise SAEError(f"{target} {what} and would be overwritten. Choose another path or remove it first.")


def _is_ours(folder: Path) -> bool:
    """Whether the folder holds what `write` writes, in ours or SAELens's format, and not another library's SAE."""
    for weights, config in ((own.WEIGHTS, own.CONFIG), (saelens.WEIGHTS, saelens.CONFIG)):
        names = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
        if names - {own.NAMES_FILE} == {weights, config}:
            return config == saelens.CONFIG or read_config(folder / config).get("format") == own.FORMAT
    return False
