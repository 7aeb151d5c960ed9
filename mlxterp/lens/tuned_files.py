"""Files of tuned lenses: the existing mlxterp's two, and the tuned-lens project's folder.

`path.npz` holds `translators_0_weight` (d, d), `translators_0_bias` (d,), …; `path.json` "num_layers", "hidden_dim"
and, as we write it, "sha256" of the other file and "lens" (what else is known). The project's folder: `config.json` and
`params.pt` ("0.weight", "0.bias", …), whose maps are added to the identity. Nothing is executed.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..core.digests import digest_of_file, same_file
from ..core.files import atomic_write, strict_json
from ..core.places import beside
from ..core.tensor_files import StoredArray, check_holes, check_memory, open_npz
from ..core.torch_zip import NeedsCodeError, is_torch_zip, open_torch_zip
from ..errors import InputError, SAEError, warn

_UNREADABLE = (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile, SAEError)
_MOST_LAYERS = 10_000
Read = tuple[np.ndarray, np.ndarray, dict[str, Any]]
"""Weights, biases, and what else is known."""


def write_tuned(path: Path, weights: np.ndarray, biases: np.ndarray, facts: Mapping[str, Any]) -> Path:
    """Writes both files, the arrays first.

    Raises:
        WriteError: They cannot be written.
    """
    stem = _stem(path)
    arrays, data = {}, beside(stem, ".npz")
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        arrays[f"translators_{i}_weight"], arrays[f"translators_{i}_bias"] = weight, bias
    said = json.dumps(dict(facts), allow_nan=False)
    with atomic_write(data) as draft, open(draft, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    described = {
        "num_layers": len(weights), "hidden_dim": int(weights.shape[1]), "sha256": digest_of_file(data),
        "lens": json.loads(said),
    }  # fmt: skip
    main = beside(stem, ".json")
    with atomic_write(main) as draft:
        draft.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    return main


def read_tuned(path: Path) -> Read:
    """What a lens's files hold.

    Raises:
        InputError: There are none, or they are damaged or something else.
    """
    try:
        return _project(path) if path.is_dir() else _existing(path)
    except NeedsCodeError as error:
        raise InputError(f"{path} holds Python objects, which are not read ({error}).") from error
    except _UNREADABLE as error:
        raise InputError(f"{path} cannot be read as a tuned lens: {error}") from error
    except Exception as error:  # what strangers pickle fails in ways that have no root
        raise InputError(f"{path} cannot be read as a tuned lens: {type(error).__name__}: {error}") from error


def _stem(path: Path) -> Path:
    return path.with_suffix("") if path.suffix in (".npz", ".json") else path


def _existing(path: Path) -> Read:
    stem = _stem(path)
    main, data = (beside(stem, ending) for ending in (".json", ".npz"))
    for file in (main, data):
        if not file.is_file():
            raise ValueError(f"there is no file {file}")
    said = strict_json(main.read_bytes())
    layers, width = (_count(said, key) for key in ("num_layers", "hidden_dim"))
    if "sha256" in said:
        same_file(data, str(said["sha256"]))
    check_holes(data)
    check_memory(4 * layers * width * (width + 1), data)
    held = open_npz(data)
    names = {f"translators_{i}_{part}" for i in range(layers) for part in ("weight", "bias")}
    if set(held) != names:
        raise ValueError(f"it holds {len(held)} arrays; expected weight and bias of {layers} layers")
    weights, biases = np.empty((layers, width, width), np.float32), np.empty((layers, width), np.float32)
    for i in range(layers):
        weights[i] = _numbers(held[f"translators_{i}_weight"], (width, width))
        biases[i] = _numbers(held[f"translators_{i}_bias"], (width,))
    facts = said.get("lens", {})
    if not isinstance(facts, dict):
        raise ValueError("its 'lens' is no object")
    return weights, biases, facts


def _project(folder: Path) -> Read:
    said = strict_json((folder / "config.json").read_bytes())
    layers, width = _count(said, "num_hidden_layers"), _count(said, "d_model")
    if said.get("lens_type", "linear_tuned_lens") != "linear_tuned_lens":
        raise ValueError(f"its lens_type is {said['lens_type']!r}; linear_tuned_lens is read")
    file = folder / "params.pt"
    if not is_torch_zip(file):
        raise ValueError(f"{file.name} is not an archive of PyTorch 1.6 or later")
    check_memory(4 * layers * width * (width + 1), file)
    held = open_torch_zip(file)
    own = {
        str(int(name.partition(".")[0])) for name in held if re.fullmatch(r"[0-9]{1,5}\.(weight|bias)", name)
    }
    if {int(i) for i in own} != set(range(layers)):
        raise ValueError(f"it holds maps of {len(own)} layers; its config.json says {layers}")
    weights = np.broadcast_to(np.eye(width, dtype=np.float32), (layers, width, width)).copy()
    biases = np.zeros((layers, width), np.float32)
    for i in range(
        1, layers
    ):  # before layer i is after layer i - 1; after the last there is nothing to translate
        weights[i - 1] += _numbers(held[f"{i}.weight"], (width, width))
        if f"{i}.bias" in held:
            biases[i - 1] = _numbers(held[f"{i}.bias"], (width,))
    facts = {"model": str(said.get("base_model_name_or_path", "")), "format": "tuned-lens"}
    if unread := set(held) - {f"{i}.{part}" for i in range(layers) for part in ("weight", "bias")}:
        warn(f"{file} also holds {sorted(unread)[0]!r}, which is not used.")
    return weights, biases, facts


def _count(said: Any, key: str) -> int:
    value = said.get(key) if isinstance(said, dict) else None
    if type(value) is not int or not 1 <= value <= (_MOST_LAYERS if "layers" in key else 10**6):
        raise ValueError(f"its {key} is {value!r}")
    return value


def _numbers(stored: Any, shape: tuple[int, ...]) -> np.ndarray:
    if not isinstance(stored, StoredArray) or stored.shape != shape or stored.kind != "f":
        raise ValueError(f"a map has shape {getattr(stored, 'shape', None)}, expected numbers of {shape}")
    found = stored.load().astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError("a map is not of finite numbers")
    return found
