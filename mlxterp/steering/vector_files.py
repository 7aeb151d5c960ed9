"""Steering vectors in files: `.safetensors`, ours, and `.gguf`, llama.cpp's and repeng's control vectors.

The suffix decides. A file is written whole or not at all; nothing that is read is executed.

A `.safetensors` file keeps any vectors, with their metadata, in their order: tensors `vector.0`, … of float32
(width,), and in its header "format": "mlxterp.steering", "vectors", a JSON list of component and metadata, and
"digest", the sha256 of both.

A `.gguf` file keeps vectors at block outputs: see `gguf_files`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..core.digests import DIGEST, digest_of_arrays
from ..core.files import atomic_write
from ..core.tensor_files import check_safetensors
from ..errors import InputError
from .gguf import gguf_writer, parse_json, read_gguf
from .vectors import SteeringVector

FORMAT = "mlxterp.steering"
VERSION = "1"


def save_vectors(vectors: SteeringVector | Sequence[SteeringVector], path: str | os.PathLike) -> Path:
    """Writes steering vectors to a file, whole or not at all; returns its path.

    Args:
        vectors: One or several. A `.gguf` file holds one for each block's output (`layers.N.resid_post` or
            `layers.N`, N at least 1), all of one width and one model.
        path: `….safetensors`, or `….gguf` for llama.cpp (`--control-vector`) and repeng (`import_gguf`). A
            file that is there is replaced.

    Raises:
        InputError: No vectors, another suffix, vectors that the format cannot hold, or the file cannot be
            written.
        BackendError: `.gguf` without the package gguf.
    """
    given = [vectors] if isinstance(vectors, SteeringVector) else vectors
    if not isinstance(given, Sequence) or not all(isinstance(v, SteeringVector) for v in given) or not given:
        raise InputError(f"Expected a SteeringVector or a list of them, got {_said(vectors)}.")
    given = [replace(v) for v in given]  # checks metadata again, which can be changed in place
    target = _path(path)
    if target.suffix.lower() == ".gguf":
        return _write(target, gguf_writer(given))
    entries = [{"component": v.component, "metadata": v.metadata} for v in given]
    arrays = {f"vector.{i}": v.vector for i, v in enumerate(given)}
    header = {"format": FORMAT, "version": VERSION, "vectors": json.dumps(entries, allow_nan=False)}
    header[DIGEST] = digest_of_arrays(arrays, header["vectors"])
    return _write(target, lambda draft: save_file(arrays, draft, header))


def load_vectors(path: str | os.PathLike) -> list[SteeringVector]:
    """The steering vectors of a file, in its order.

    Those of a `.gguf` file are at block outputs, `layers.N.resid_post`; the model it was made for, as it says
    so, is `metadata["model_type"]`.

    Raises:
        InputError: There is no such file, it is damaged, or it holds something else.
        BackendError: `.gguf` without the package gguf.
    """
    file = _path(path)
    if not file.is_file():
        raise InputError(f"There is no file {file}.")
    read = read_gguf if file.suffix.lower() == ".gguf" else _read_safetensors
    try:
        return read(file)
    except InputError as error:
        raise InputError(f"{file} cannot be read as steering vectors: {error}") from error


def _path(path: str | os.PathLike) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"Expected the path of a .safetensors or .gguf file, got {path!r}.")
    file = Path(path).expanduser()
    if file.suffix.lower() not in (".safetensors", ".gguf"):
        raise InputError(
            f"{file.name!r} ends in neither .safetensors nor .gguf, the two forms of steering vectors. Pickled files"
            " (.pt, .pkl) are not read: load them with their own library and make a SteeringVector of the array."
        )
    return file


def _said(vectors: Any) -> str:
    if isinstance(vectors, Sequence) and not isinstance(vectors, (str, bytes)):
        other = [type(v).__name__ for v in vectors if not isinstance(v, SteeringVector)]
        return f"a list with {other[0]}" if other else "an empty list"
    return type(vectors).__name__


def _write(target: Path, produce: Callable[[Path], None]) -> Path:
    """Makes a file under another name beside its place, then moves it there."""
    with atomic_write(target) as draft:
        produce(draft)
    return target


# -- safetensors ------------------------------------------------------------------------------


def _read_safetensors(file: Path) -> list[SteeringVector]:
    try:
        check_safetensors(file)
        with safe_open(file, framework="np") as opened:
            header = opened.metadata() or {}
            if header.get("format") != FORMAT:
                raise InputError(
                    f"its header does not say format={FORMAT!r}. Make a SteeringVector of an array of another file,"
                    " with the component that it belongs to."
                )
            if header.get("version") != VERSION:
                raise InputError(f"it is of version {header.get('version')!r}; this mlxterp reads {VERSION}.")
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        found = digest_of_arrays(arrays, header.get("vectors", "null"))
        if header.get(DIGEST, found) != found:  # mlxterp 0.1.0 wrote none
            raise InputError("its digest is not that of its contents: it is damaged. Get or make it again.")
        entries = parse_json(header.get("vectors", "null"))
    except (OSError, SafetensorError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"it is damaged, or no safetensors file: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError("its header has no list of vectors.")
    if set(arrays) != {f"vector.{i}" for i in range(len(entries))} or not entries:
        raise InputError(
            f"its header tells of {len(entries)} vectors; it holds {', '.join(arrays) or 'none'}."
        )
    return [
        SteeringVector(entry.get("component", ""), arrays[f"vector.{i}"], entry.get("metadata", {}))
        for i, entry in enumerate(entries)
    ]
