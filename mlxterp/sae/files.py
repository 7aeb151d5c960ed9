"""An SAE on disk: a folder with `sae.safetensors` (weights) and `config.json` (everything else).

Written whole or not at all: beside its place under another name first, then moved there.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from ..errors import SAEError
from ..weights import NAMES, SAEWeights, TopK

WEIGHTS = "sae.safetensors"
CONFIG = "config.json"
FORMAT = "mlxterp"
VERSION = 1


def write_sae(
    path: str | os.PathLike, weights: SAEWeights, activation: TopK, metadata: dict[str, Any]
) -> Path:
    """Makes or replaces the folder `path`; returns it.

    Raises:
        SAEError: Something else is at `path`, or the metadata cannot be written as JSON.
    """
    target = Path(path).expanduser().resolve()
    _check_target(target)
    config = _as_json(weights, activation, metadata)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        arrays = {name: np.ascontiguousarray(getattr(weights, name)) for name in NAMES}
        save_file(arrays, draft / WEIGHTS)
        (draft / CONFIG).write_text(config, encoding="utf-8")
        for name in (WEIGHTS, CONFIG):
            _settle(draft / name)
        draft.chmod(0o755)  # mkdtemp makes folders that only their owner can enter
        _move(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def read_sae(path: str | os.PathLike, format: str | None = None) -> tuple[SAEWeights, TopK, dict[str, Any]]:
    """Weights, activation and metadata from the folder or from either file in it.

    Raises:
        SAEError: Nothing is there, it is no SAE of this library, or it is damaged.
    """
    if format not in (None, FORMAT):
        raise SAEError(f"Unknown format {format!r}. This version reads: {FORMAT!r}.")
    folder = _find_folder(Path(path).expanduser())
    config = _read_config(folder / CONFIG)
    arrays = _read_arrays(folder / WEIGHTS)
    try:
        weights = SAEWeights(**arrays, subtract_b_dec=bool(config["subtract_b_dec"]))
        k = config["k"]
        sizes = (config["d_model"], config["d_hidden"], config["d_out"])
    except KeyError as error:
        raise SAEError(f"{folder / CONFIG} lacks {error}. It is incomplete; save the SAE again.") from error
    except SAEError as error:
        raise SAEError(f"{folder / WEIGHTS}: {error}") from error
    found = (*weights.W_enc.shape, weights.W_dec.shape[1])
    if sizes != found:
        raise SAEError(
            f"{folder}: {CONFIG} says (d_model, d_hidden, d_out) = {sizes}, {WEIGHTS} holds {found}."
            " The two files do not belong together."
        )
    return weights, TopK(k), dict(config.get("metadata") or {})


# -- writing ----------------------------------------------------------------------------------


def _check_target(target: Path) -> None:
    if target.suffix in (".safetensors", ".json", ".npz", ".pt"):
        raise SAEError(
            f"An SAE is saved as a folder, but {target.name!r} looks like a file."
            f" Use {str(target.with_suffix(''))!r}; {WEIGHTS} and {CONFIG} will be in it."
        )
    if not target.exists():
        return
    what = "is a file"
    if target.is_dir():
        others = sorted(p.name for p in target.iterdir() if p.name not in (WEIGHTS, CONFIG))
        if not others:
            return
        what = f"holds {', '.join(others[:3])}"
    raise SAEError(f"{target} {what} and would be overwritten. Choose another path or remove it first.")


def _as_json(weights: SAEWeights, activation: TopK, metadata: dict[str, Any]) -> str:
    d_model, d_hidden = weights.W_enc.shape
    config = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": "topk",
        "k": activation.k,
        "d_model": d_model,
        "d_hidden": d_hidden,
        "d_out": weights.W_dec.shape[1],
        "subtract_b_dec": weights.subtract_b_dec,
        "metadata": metadata,
    }
    try:
        return json.dumps(config, indent=2, default=_plain) + "\n"
    except (TypeError, ValueError) as error:
        raise SAEError(f"The metadata cannot be written as JSON: {error}. Remove that entry.") from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _settle(path: Path) -> None:
    """On disk, and readable by others (safetensors writes files that only their owner can read)."""
    path.chmod(0o644)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _move(draft: Path, target: Path) -> None:
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
    shutil.rmtree(old)


# -- reading ----------------------------------------------------------------------------------


def _find_folder(path: Path) -> Path:
    if not path.exists():
        raise SAEError(f"There is no SAE at {path}: no such file or folder.")
    folder = path if path.is_dir() else path.parent
    names = sorted(p.name for p in folder.iterdir())
    missing = [name for name in (CONFIG, WEIGHTS) if name not in names]
    if missing or (path.is_file() and path.name not in (CONFIG, WEIGHTS)):
        found = path.name if path.is_file() else ", ".join(names[:5]) or "nothing"
        raise SAEError(
            f"{path} is not an SAE saved by mlxterp: expected a folder with {CONFIG} and {WEIGHTS}, or one of"
            f" the two, found {found}. The weights of other libraries can be handed to"
            " SAE(mlxterp.weights.SAEWeights(...), mlxterp.weights.TopK(k))."
        )
    return folder


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SAEError(f"{path} cannot be read: {error}. The file is damaged; save the SAE again.") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise SAEError(
            f'{path} does not say "format": "{FORMAT}", so it was not saved by this library.'
            " Load it with the library that wrote it."
        )
    if config.get("version") != VERSION or config.get("architecture") != "topk":
        raise SAEError(
            f"{path} is of version {config.get('version')!r}, architecture {config.get('architecture')!r};"
            f" this mlxterp reads version {VERSION}, architecture 'topk'. A newer mlxterp may read it."
        )
    return config


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        arrays = load_file(path)
    except Exception as error:  # safetensors raises several kinds, bare ones among them
        raise SAEError(f"{path} cannot be read: {error}. The file is damaged; save the SAE again.") from error
    missing = [name for name in NAMES if name not in arrays]
    if missing:
        held = ", ".join(sorted(arrays)) or "nothing"
        raise SAEError(f"{path} lacks {', '.join(missing)}; it holds {held}. Save the SAE again.")
    for name in NAMES:
        arrays[name].flags.writeable = False  # nobody else holds them, so the SAE need not copy
    return {name: arrays[name] for name in NAMES}
