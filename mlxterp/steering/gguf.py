"""Control vectors of llama.cpp and repeng: GGUF files, by the package gguf.

A `.gguf` file has architecture `controlvector` and tensors `direction.{i}` of float32 (d_model,), which are
added to the residual stream after block i, counted from 0: `direction.3` is `layers.3.resid_post`.

- repeng trains it on `hidden_states[i + 1]`, block i's output, and adds it there (`repeng/extract.py`
  `batched_get_hiddens`, `export_gguf`; `repeng/control.py`).
- llama.cpp adds it after the MLP of its 0-based block `il = i` (`src/models/llama.cpp` `build_cvec(cur, il)`;
  `src/llama-adapter.cpp`). Its buffer begins with block 1, "there's never a tensor for layer 0", and its
  loader refuses a whole file with `direction.0` (`common/common.cpp` `common_control_vector_load_one`), so
  none is written here; repeng can make one, so it is read.
- llama.cpp's own `cvector-generator` names what it took from block i's output `direction.{i + 1}`
  (`tools/cvector-generator/pca.hpp`, `mean.hpp`): such a file acts one block after the place it was taken
  from. It is read as it acts.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..core.files import strict_json
from ..errors import BackendError, InputError

_ARCHITECTURE = "controlvector"
_HINT = f"{_ARCHITECTURE}.model_hint"
_COUNT = f"{_ARCHITECTURE}.layer_count"
_METADATA = "mlxterp.metadata"
"""Our own key in a GGUF file: JSON, {direction: metadata}. Other readers pass over it."""
_BLOCK_OUTPUT = re.compile(r"layers\.(0|[1-9]\d{0,8})(?:\.resid_post)?")
_DIRECTION = re.compile(r"direction\.(0|[1-9]\d{0,8})")


class Entry(NamedTuple):
    """A vector at a component, as files hold it."""

    component: str
    vector: np.ndarray
    """float32, (width,)."""
    metadata: dict[str, Any]


def _gguf() -> Any:
    if importlib.util.find_spec("gguf") is None:
        raise BackendError('Files .gguf need the package gguf: pip install "mlxterp[gguf]".')
    import gguf

    return gguf


def gguf_writer(vectors: Sequence[Entry]) -> Callable[[Path], None]:
    """What writes a control-vector file.

    Raises:
        InputError: GGUF cannot hold these vectors.
        BackendError: The package gguf is missing.
    """
    gguf = _gguf()
    directions = _directions(vectors)
    hints = sorted({str(v.metadata["model_type"]) for v in vectors if v.metadata.get("model_type")})
    if len(hints) > 1:
        raise InputError(
            f"A GGUF file is for one model; these vectors are of {', '.join(hints)}. Save two files."
        )
    metadata = {f"direction.{layer}": v.metadata for layer, v in directions.items() if v.metadata}

    def write(draft: Path) -> None:
        writer = gguf.GGUFWriter(draft, _ARCHITECTURE)
        try:
            writer.add_string(_HINT, hints[0] if hints else "unknown")  # repeng reads no file without it
            writer.add_uint32(_COUNT, len(directions))
            if metadata:
                writer.add_string(_METADATA, json.dumps(metadata, allow_nan=False))
            for layer, v in directions.items():
                writer.add_tensor(f"direction.{layer}", v.vector)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()

    return write


def _directions(vectors: Sequence[Entry]) -> dict[int, Entry]:
    """Block → vector, for what a GGUF file can hold.

    Raises:
        InputError: Another component, block 0, a block twice, or two widths.
    """
    remedy = "Save these to a .safetensors file."
    found: dict[int, Entry] = {}
    for v in vectors:
        match = _BLOCK_OUTPUT.fullmatch(v.component)
        if match is None:
            raise InputError(
                f"A GGUF control vector acts on what a block puts out, layers.N.resid_post; it cannot hold a vector"
                f" at {v.component}. {remedy}"
            )
        layer = int(match[1])
        if layer == 0:
            raise InputError(
                f"llama.cpp has no control vector for block 0 and refuses files with one, so {v.component} cannot"
                f" be in a GGUF file. Use a later block, or: {remedy}"
            )
        if layer in found:
            raise InputError(f"A GGUF file holds one vector for a block; layers.{layer} has two. {remedy}")
        if found and len(v.vector) != len(next(iter(found.values())).vector):
            widths = sorted({len(v.vector) for v in vectors})
            raise InputError(f"A GGUF file holds vectors of one width; these have {widths}. {remedy}")
        found[layer] = v
    return found


def read_gguf(file: Path) -> list[Entry]:
    """The vectors of a control-vector file.

    Raises:
        InputError: It is damaged, or holds something else.
        BackendError: The package gguf is missing.
    """
    gguf = _gguf()

    class Reader(gguf.GGUFReader):
        """gguf's reader takes what lies beyond the end of a file for empty arrays, over which it can count to 2^64."""

        def _get(self, offset: int, dtype: Any, *args: Any, **options: Any) -> np.ndarray:
            found = super()._get(offset, dtype, *args, **options)
            if len(found) < int(args[0] if args else options.get("count", 1)):
                raise ValueError("it ends too early")
            return found

    try:
        with np.errstate(over="ignore"):  # sizes that overflow do not fit the file, which is found out
            reader = Reader(file)
        hint, architecture, own = (_string(reader, k) for k in (_HINT, "general.architecture", _METADATA))
        arrays = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    except (
        OSError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        OverflowError,
        RecursionError,
        MemoryError,
    ) as error:
        raise InputError(f"it is damaged, or no GGUF file: {error}") from error
    if architecture != _ARCHITECTURE:
        raise InputError(f"its architecture is {architecture!r}; control vectors have {_ARCHITECTURE!r}.")
    metadata = parse_json(own) if own else {}
    if not isinstance(metadata, dict):
        raise InputError(f"its {_METADATA} is no dictionary.")
    vectors = []
    for name, array in arrays.items():
        match = _DIRECTION.fullmatch(name)
        if match is None or array.ndim != 1 or array.dtype.kind != "f":
            raise InputError(
                f"it holds {name!r} of {array.dtype}, shape {array.shape}; expected direction.N of float32 (width,)."
            )
        facts = metadata.get(name, {"model_type": hint} if hint and hint != "unknown" else {})
        vectors.append(Entry(f"layers.{int(match[1])}.resid_post", array, facts))
    if len({len(v.vector) for v in vectors}) != 1:
        raise InputError("it holds no vectors." if not vectors else "its vectors have different widths.")
    return vectors


def _string(reader: Any, key: str) -> str | None:
    """A field's text; None where there is no such field, or it is no text."""
    field = reader.get_field(key)
    if field is None or len(field.types) != 1 or field.types[0].name != "STRING":
        return None
    return str(bytes(field.parts[field.data[0]]), "utf-8")


def parse_json(text: str) -> Any:
    """Reads a header's JSON; raises InputError where it is not JSON."""
    try:
        return strict_json(text)
    except ValueError as error:
        raise InputError(f"its metadata are no JSON: {error}") from error
