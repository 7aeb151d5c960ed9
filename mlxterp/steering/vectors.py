"""Steering vectors: directions in a component's activations, and their files.

`contrast` makes them from texts; adding one to the activations of its component steers the model. NumPy only.

Files are `.safetensors`, ours, and `.gguf`, llama.cpp's and repeng's control vectors (see `gguf`): the suffix decides.
A file is written whole or not at all; nothing that is read is executed. A `.safetensors` file keeps any vectors, with
their metadata, in their order: tensors `vector.0`, … of float32 (width,), and in its header "format":
"mlxterp.steering", "vectors", a JSON list of component and metadata, and "digest", the sha256 of both.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..backends.host.conversion import to_vector
from ..core.digests import DIGEST, digest_of_arrays
from ..core.files import atomic_write, json_facts
from ..core.places import expanded
from ..core.tensor_files import check_safetensors
from ..errors import InputError
from .gguf import Entry, gguf_writer, parse_json, read_gguf

FORMAT = "mlxterp.steering"
VERSION = "1"


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """A vector to add to what a component puts out; `numpy.asarray(it)` is the vector.

    Attributes:
        component: Path of the component whose activations it lives in: `layers.10.resid_post`.
        vector: float32, (width,), read-only, in the scale of the activations. Given as any array or list of
            numbers.
        metadata: How it was made: "method", "model_type", …; whatever JSON can hold.

    Raises:
        InputError: No component is named, the vector is not a row of finite numbers, or the metadata is
            no dictionary that JSON can hold.
    """

    component: str
    vector: np.ndarray
    metadata: dict[str, Any] = field(default_factory=dict)

    if TYPE_CHECKING:  # any array or list of numbers is taken

        def __init__(self, component: str, vector: Any, metadata: Mapping[str, Any] = ...) -> None: ...

    def __post_init__(self) -> None:
        if not isinstance(self.component, str) or not self.component.strip():
            raise InputError(
                f"component is {self.component!r}; a steering vector names its component by a path such as"
                " 'layers.3.resid_post'."
            )
        object.__setattr__(self, "vector", _as_vector(self.vector, self.component))
        object.__setattr__(self, "metadata", _as_metadata(self.metadata, self.component))

    @property
    def norm(self) -> float:
        """Its Euclidean length."""
        return float(np.linalg.norm(self.vector.astype(np.float64)))

    @property
    def unit(self) -> SteeringVector:
        """The same direction with length 1.

        Raises:
            InputError: The vector is zero, so it has no direction.
        """
        if (norm := self.norm) == 0:
            raise InputError(f"The steering vector at {self.component} is zero: it has no direction.")
        return replace(self, vector=self.vector.astype(np.float64) / norm)

    def save(self, path: str | os.PathLike) -> Path:
        """Writes it to a `.safetensors` or `.gguf` file; see `save_vectors`."""
        return save_vectors(self, path)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False and dtype is not None and np.dtype(dtype) != self.vector.dtype:
            raise ValueError(f"A steering vector is float32; as {np.dtype(dtype)} it has to be copied.")
        as_asked = self.vector if dtype is None else self.vector.astype(dtype, copy=False)
        return as_asked.copy() if copy else as_asked

    def __len__(self) -> int:
        return len(self.vector)

    def __repr__(self) -> str:
        method = self.metadata.get("method")
        by = f", by {method}" if isinstance(method, str) else ""
        return f"SteeringVector({self.component}, width {len(self)}, norm {self.norm:.4g}{by})"


def _as_vector(given: Any, component: str) -> np.ndarray:
    """float32, (width,), read-only and its own memory."""
    vector = to_vector(given, f"The vector at {component}")
    vector.flags.writeable = False
    return vector


def _as_metadata(given: Any, component: str) -> dict[str, Any]:
    """A copy of metadata, as JSON gives it back."""
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise InputError(f"metadata at {component} is {given!r}; expected a dictionary with string keys.")
    try:
        return json_facts(given)
    except ValueError as error:
        raise InputError(
            f"The metadata at {component} cannot be written as JSON: {error}. Use strings, numbers, lists and"
            " dictionaries."
        ) from error


# -- files ------------------------------------------------------------------------------------


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
        return _write(target, gguf_writer([Entry(v.component, v.vector, v.metadata) for v in given]))
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
        return [SteeringVector(*entry) for entry in read(file)]
    except InputError as error:
        raise InputError(f"{file} cannot be read as steering vectors: {error}") from error


def _path(path: str | os.PathLike) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"Expected the path of a .safetensors or .gguf file, got {path!r}.")
    file = expanded(path)
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


def _read_safetensors(file: Path) -> list[Entry]:
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
        Entry(entry.get("component", ""), arrays[f"vector.{i}"], entry.get("metadata", {}))
        for i, entry in enumerate(entries)
    ]
