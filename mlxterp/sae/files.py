"""Writing an SAE: a folder of weights and settings, ours or SAELens's, whole or not at all.

A folder is made beside its place under another name first, then moved there.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

from ..errors import InputError, SAEError
from ..variants import activation_to_dict
from ..weights import SAEWeights
from .export import as_saelens
from .formats import own, saelens
from .formats.settings import read_config

if TYPE_CHECKING:
    from .sae import SAE

_NAMES = {own.WEIGHTS, own.CONFIG, saelens.WEIGHTS, saelens.CONFIG}
_DTYPES = ("float32", "float16")


def write_sae(path: str | os.PathLike, sae: SAE, format: str, dtype: str = "float32") -> Path:
    """Makes or replaces the folder `path`; returns it.

    Raises:
        SAEError: Something else is at `path`, the metadata cannot be written as JSON, the format cannot
            hold this variant or `dtype`, or a weight lies outside float16's range.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"Expected the path of a folder to save in, got {path!r}.")
    target = Path(path).expanduser().resolve()
    _check_target(target)
    if dtype not in _DTYPES:
        raise SAEError(f"Unknown dtype {dtype!r}. SAEs are saved as: {', '.join(_DTYPES)}.")
    if format == "mlxterp":
        weights = _as_float16(sae.weights) if dtype == "float16" else sae.weights
        names, config, arrays = (own.WEIGHTS, own.CONFIG), _own_config(sae, weights), weights.arrays()
    elif format == "saelens":
        if dtype != "float32":
            raise SAEError(f"{dtype} is for format='mlxterp'; SAELens's folders are written in float32.")
        names = (saelens.WEIGHTS, saelens.CONFIG)
        config, arrays = as_saelens(sae)
    else:
        raise SAEError(f"Unknown format {format!r}. SAEs are saved as: mlxterp, saelens.")
    text = _as_json(config)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".sae.", dir=target.parent))
    except OSError as error:
        raise SAEError(f"Nothing can be saved at {target}: {error}. Choose another path.") from error
    try:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, draft / names[0])
        (draft / names[1]).write_text(text, encoding="utf-8")
        for name in names:
            _settle(draft / name)
        draft.chmod(0o755)  # mkdtemp makes folders that only their owner can enter
        _move(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


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
        others = sorted(names - _NAMES)
        if not others and (not names or _is_ours(target)):
            return
        others = others or sorted(names)
        what = f"holds {', '.join(others[:3])}"
    raise SAEError(f"{target} {what} and would be overwritten. Choose another path or remove it first.")


def _is_ours(folder: Path) -> bool:
    """Whether the folder holds what `write_sae` writes, in either format, and not another library's SAE."""
    for weights, config in ((own.WEIGHTS, own.CONFIG), (saelens.WEIGHTS, saelens.CONFIG)):
        if {p.name for p in folder.iterdir() if not p.name.startswith(".")} == {weights, config}:
            return config == saelens.CONFIG or read_config(folder / config).get("format") == own.FORMAT
    return False


def _as_float16(weights: SAEWeights) -> SAEWeights:
    largest = float(np.finfo(np.float16).max)
    with np.errstate(over="ignore"):  # refused by name below
        rounded = weights.map(lambda array: array.astype(np.float16))
    for name, array in rounded.arrays().items():
        outside = int(np.isinf(array).sum())
        if outside:
            raise SAEError(
                f"{outside} of {array.size} numbers in {name} lie outside float16's range (±{largest:.0f})."
                " Save it with dtype='float32'."
            )
    return rounded


def _own_config(sae: SAE, weights: SAEWeights) -> dict[str, Any]:
    """Settings beside these weights, which may be sae's own in another dtype."""
    return {
        "format": own.FORMAT,
        "version": own.VERSION,
        "activation": activation_to_dict(sae.activation),
        "form": asdict(sae.form),
        "d_model": sae.d_model,
        "d_hidden": sae.d_hidden,
        "d_out": sae.d_out,
        "subtract_b_dec": sae.subtract_b_dec,
        "sha256": own.digest(weights),
        "metadata": sae.metadata,
    }


def _as_json(config: dict[str, Any]) -> str:
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
