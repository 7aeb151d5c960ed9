"""Writing an SAE: a folder of weights and settings, ours or SAELens's, whole or not at all.

In ours `config.json` binds the weights and the names of features, which lie beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

from ..concepts import store
from ..core.digests import digest_of_bytes, sealed
from ..core.files import atomic_folder
from ..errors import InputError, SAEError, warn
from ..variants import activation_to_dict
from ..weights import SAEWeights
from .formats import own, saelens
from .formats.settings import read_config
from .formats.to_saelens import as_saelens

if TYPE_CHECKING:
    from .sae import SAE

_NAMES = {own.WEIGHTS, own.CONFIG, own.NAMES_FILE, saelens.WEIGHTS, saelens.CONFIG}
_DTYPES = ("float32", "float16")


def write_sae(
    path: str | os.PathLike, sae: SAE, format: str, dtype: str = "float32", names: bool = True
) -> Path:
    """Makes or replaces the folder `path`; returns it.

    Raises:
        SAEError: Something else is at `path`, the metadata cannot be written as JSON, the format cannot
            hold this variant or `dtype`, or a weight lies outside float16's range.
        WriteError: Nothing can be written there; what was there is unchanged.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"Expected the path of a folder to save in, got {path!r}.")
    target = Path(path).expanduser().resolve()
    _check_target(target)
    if dtype not in _DTYPES:
        raise SAEError(f"Unknown dtype {dtype!r}. SAEs are saved as: {', '.join(_DTYPES)}.")
    given, explained = (sae.concepts.names, sae.concepts.explanations) if names else ({}, {})
    texts: dict[str, str] = {}
    if format == "mlxterp":
        weights = _as_float16(sae.weights) if dtype == "float16" else sae.weights
        if given or explained:
            texts[own.NAMES_FILE] = store.nested(given, explained)
        arrays, stored = weights.arrays(), own.WEIGHTS
        texts[own.CONFIG] = _as_json(_own_config(sae, weights, texts))
    elif format == "saelens":
        if dtype != "float32":
            raise SAEError(f"{dtype} is for format='mlxterp'; SAELens's folders are written in float32.")
        config, arrays = as_saelens(sae)
        texts[saelens.CONFIG], stored = _as_json(config), saelens.WEIGHTS
        if named := len({*given, *explained}):
            warn(
                f"SAELens's folders have no place for names: those of {named} features are not saved with this"
                " SAE. sae.concepts.export_json(path) writes them; names=False says that they are not wanted."
            )
    else:
        raise SAEError(f"Unknown format {format!r}. SAEs are saved as: mlxterp, saelens.")
    with atomic_folder(target, ".sae.", SAEError) as draft:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, draft / stored)
        for name, text in texts.items():
            (draft / name).write_text(text, encoding="utf-8", newline="\n")
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
        names = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
        if names - {own.NAMES_FILE} == {weights, config}:
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


def _own_config(sae: SAE, weights: SAEWeights, texts: Mapping[str, str]) -> dict[str, Any]:
    """Settings beside these weights, which may be sae's own in another dtype, and other files."""
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
        "files": {name: digest_of_bytes(text.encode()) for name, text in texts.items()},
        "metadata": sae.metadata,
    }


def _as_json(config: dict[str, Any]) -> str:
    try:
        plain = json.loads(json.dumps(config, default=_plain, allow_nan=False))
        return json.dumps(sealed(plain) if config.get("format") == own.FORMAT else plain, indent=2) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise SAEError(f"The metadata cannot be written as JSON: {error}. Remove that entry.") from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value")
