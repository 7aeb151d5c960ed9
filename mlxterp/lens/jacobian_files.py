"""Files of Jacobian lenses: ours, and those that are published.

Ours is a safetensors file with `J.0`, `J.1`, … (float32, d_model × d_model), and in its header "format", "version",
"lens" (JSON) and "digest". A published one is a `.pt` file: {"J": {layer: tensor}, "n_prompts", "source_layers",
"d_model"}. Nothing in either is executed. A file is written whole or not at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..core.digests import DIGEST, digest_of_arrays
from ..core.files import atomic_write, strict_json
from ..core.tensor_files import StoredArray, check_safetensors
from ..core.torch_zip import NeedsCodeError, is_torch_zip, open_torch_zip
from ..errors import InputError, SAEError

FORMAT, VERSION = "mlxterp.jacobian_lens", "1"
_PREFIX = "J."
_UNREADABLE = (OSError, SafetensorError, ValueError, TypeError, KeyError, OverflowError, SAEError)


def write_lens(path: Path, jacobians: Mapping[int, np.ndarray], facts: Mapping[str, Any]) -> Path:
    """Writes our file.

    Raises:
        WriteError: It cannot be written; what was there is unchanged.
        InputError: The path does not end in .safetensors.
    """
    if path.suffix != ".safetensors":
        raise InputError(f"A Jacobian lens is saved as a .safetensors file, got {path.name!r}.")
    arrays = {f"{_PREFIX}{n}": np.ascontiguousarray(J, np.float32) for n, J in jacobians.items()}
    said = json.dumps(facts, allow_nan=False)
    header = {"format": FORMAT, "version": VERSION, "lens": said, DIGEST: digest_of_arrays(arrays, said)}
    with atomic_write(path) as draft:
        save_file(arrays, draft, header)
    return path


def read_lens(path: Path) -> tuple[dict[int, np.ndarray], dict[str, Any]]:
    """Matrices by layer, float32, and what the file says of them.

    Raises:
        InputError: There is no such file, it is damaged, or it holds something else.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder. A Jacobian lens is a .safetensors or .pt file: name it.")
    if not path.is_file():
        raise InputError(f"There is no file {path}. A Jacobian lens is a .safetensors or .pt file.")
    try:
        found, facts = _published(path) if path.suffix in (".pt", ".pth") else _own(path)
        return _checked(found), facts
    except NeedsCodeError as error:
        raise InputError(
            f"{path} holds Python objects, which are not read ({error}). Save it again as plain tensors."
        ) from error
    except _UNREADABLE as error:
        raise InputError(f"{path} cannot be read as a Jacobian lens: {error}") from error
    except Exception as error:  # what strangers pickle fails in ways that have no root
        raise InputError(
            f"{path} cannot be read as a Jacobian lens: {type(error).__name__}: {error}"
        ) from error


def _own(path: Path) -> tuple[dict[int, np.ndarray], dict[str, Any]]:
    check_safetensors(path)
    with safe_open(path, framework="np") as file:
        header = file.metadata() or {}
        if header.get("format") != FORMAT:
            raise ValueError(f"its header does not say format={FORMAT!r}")
        if header.get("version") != VERSION:
            raise ValueError(f"it is of version {header.get('version')!r}; this mlxterp reads {VERSION}")
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    said = header.get("lens", "null")
    if header.get(DIGEST) != digest_of_arrays(arrays, said):
        raise ValueError("its digest is not that of its contents: it is damaged")
    facts = strict_json(said)
    if not isinstance(facts, dict):
        raise ValueError("its header does not say what it is")
    return {_layer(name.removeprefix(_PREFIX)): array for name, array in arrays.items()}, facts


def _published(path: Path) -> tuple[dict[int, np.ndarray], dict[str, Any]]:
    if not is_torch_zip(path):
        raise ValueError("it is not an archive of PyTorch 1.6 or later")
    held = open_torch_zip(path)
    stored = held.get("J")
    if not isinstance(stored, dict) or not all(isinstance(one, StoredArray) for one in stored.values()):
        raise ValueError(f"it has no matrices by layer under 'J'; it holds {', '.join(held) or 'nothing'}")
    sizes = {one.shape for one in stored.values()}
    if len(sizes) != 1 or len(next(iter(sizes))) != 2:
        raise ValueError(f"its matrices have shapes {sorted(sizes)}")
    facts: dict[str, Any] = {"n_prompts": held.get("n_prompts")}
    if isinstance(held.get("provenance"), dict):
        place = held["provenance"].get("capture_point", "block_output")
        if place not in ("block_output", None):
            raise ValueError(f"it was fitted at {place!r}; only lenses of block outputs are read")
        facts["provenance"] = {
            k: v for k, v in held["provenance"].items() if isinstance(v, (str, int, float))
        }
    return {_layer(name): one.load() for name, one in stored.items()}, facts


def _layer(name: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,4}", name):
        raise ValueError(f"{name!r} is no layer")
    return int(name)


def _checked(found: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    if not found:
        raise ValueError("it holds no matrices")
    widths = {array.shape for array in found.values()}
    if len(widths) != 1 or any(len(shape) != 2 or shape[0] != shape[1] for shape in widths):
        raise ValueError(f"its matrices have shapes {sorted(widths)}, expected one size (d_model, d_model)")
    wide = {}
    for layer in sorted(found):
        if found[layer].dtype.kind != "f" or not np.isfinite(found[layer]).all():
            raise ValueError(f"the matrix of layer {layer} is not of finite numbers")
        with np.errstate(over="ignore"):  # refused below
            wide[layer] = np.ascontiguousarray(found[layer], np.float32)
        if not np.isfinite(wide[layer]).all():
            raise ValueError(f"the matrix of layer {layer} has numbers beyond float32")
    return wide
