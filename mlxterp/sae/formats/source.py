"""What a reader is given: the files of one SAE, opened safely, and what it gives back.

Files come from strangers. Nothing in them is executed, every size and type is checked before it is
used, and whatever is wrong with them becomes an `SAEError` that names the file.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...backends import read_torch_file
from ...errors import BackendError, SAEError
from ...variants import Activation, InputForm
from ...weights import SAEWeights

_TELLING = {
    "threshold", "log_threshold", "topk_threshold", "log_jumprelu_threshold", "b_gate", "b_mag", "r_mag", "gate_bias",
    "mag_bias", "W_skip", "affine_skip_connection", "b_D",
}  # fmt: skip
"""An SAE that has one of these does not work without it."""
_PLAIN = {"F64", "F32", "F16", "I64", "I32", "I16", "I8", "U8", "U16", "U32", "U64", "BOOL"}


@dataclass(frozen=True, eq=False, slots=True)
class Parts:
    """An SAE as a reader found it."""

    weights: SAEWeights
    activation: Activation
    metadata: dict[str, Any]
    form: InputForm = field(default_factory=InputForm)


class Files:
    """A folder, or one file in it, that may hold an SAE.

    Args:
        path: As the user gave it.
        k: What the user wants k to be; None takes the file's.
    """

    def __init__(self, path: Path, k: int | None = None, scale: float | None = None):
        self.path = path
        self.k = k
        self.scale = scale
        """What activations are multiplied by, where the file does not say (`norm_scaling_factor`)."""
        self.folder = path if path.is_dir() else path.parent
        self.chosen = None if path.is_dir() else path.name
        self.names = frozenset(p.name for p in self.folder.iterdir() if p.is_file())
        self._config: dict[str, dict[str, Any]] = {}
        self._arrays: dict[str, Arrays] = {}

    def has(self, *names: str) -> bool:
        """Whether all these files are there, and a single file that was asked for is one of them."""
        return self.names.issuperset(names) and self.chosen in (None, *names)

    def one(self, *endings: str) -> str | None:
        """The file that was asked for, or else the only one, that ends so."""
        found = sorted(n for n in self.names if n.endswith(endings))
        if self.chosen is not None:
            return self.chosen if self.chosen in found else None
        return found[0] if len(found) == 1 else None

    def hint(self, pattern: str, file: str | None = None) -> re.Match[str] | None:
        """Where the path says something: of several places the one nearest to the file."""
        path = "/".join(self.folder.absolute().parts) + "/" + (file or self.chosen or "")
        return max(re.finditer(pattern, path), key=lambda match: match.start(), default=None)

    def config(self, name: str) -> dict[str, Any]:
        """A JSON or YAML file that holds an object."""
        if name not in self._config:
            self._config[name] = read_config(self.folder / name)
        return self._config[name]

    def untaken(self) -> list[str]:
        """Arrays that say how an SAE works, and that its reader did not ask for."""
        return [
            f"{name} in {file}"
            for file, arrays in self._arrays.items()
            for name in sorted(arrays.keys() & _TELLING - arrays.taken)
        ]

    def arrays(self, name: str) -> Arrays:
        """The arrays of a safetensors, npz or pt file."""
        if name not in self._arrays:
            self._arrays[name] = Arrays(self.folder / name)
        return self._arrays[name]


class Arrays(Mapping[str, Any]):
    """Named arrays of a file; what is not an array (a string, a number in a `.pt`) is held as it is."""

    def __init__(self, path: Path, held: dict[str, Any] | None = None):
        self.path = path
        self.taken: set[str] = set()
        """Names that were asked for."""
        self._given = held

    @cached_property
    def _held(self) -> dict[str, Any]:
        held = self._read() if self._given is None else self._given
        for array in held.values():
            if isinstance(array, np.ndarray):
                array.flags.writeable = False  # nobody else holds it, so an SAE need not copy it
        return held

    def _read(self) -> dict[str, Any]:
        if self.path.suffix == ".safetensors":
            return read_safetensors(self.path)
        return read_npz(self.path) if self.path.suffix == ".npz" else read_torch_file(self.path)

    def __getitem__(self, name: str) -> Any:
        return self._held[name]

    def __iter__(self):
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def take(
        self, shapes: dict[str, str], sizes: dict[str, int | None] | None = None
    ) -> dict[str, np.ndarray]:
        """The arrays of those names, float32, whose dimensions are called by letters: {"W_enc": "d n"}.

        The same letter is the same size everywhere; `sizes` gives what the config says.

        Raises:
            SAEError: One is missing, is no array of numbers, or has another shape.
        """
        missing = [name for name in shapes if name not in self]
        if missing:
            held = ", ".join(sorted(map(str, self))) or "nothing"
            raise SAEError(f"{self.path} lacks {', '.join(missing)}; it holds: {held}.")
        known = {letter: size for letter, size in (sizes or {}).items() if size is not None}
        said = dict(known)
        taken = {}
        for name, letters in shapes.items():
            taken[name] = array = self._numbers(name)
            wanted = letters.split()
            expected = tuple(known.get(letter, letter) for letter in wanted)
            if array.ndim != len(wanted) or any(
                known.setdefault(letter, size) != size
                for letter, size in zip(wanted, array.shape, strict=True)
            ):
                why = f" (the config says {said})" if said else ""
                raise SAEError(
                    f"{self.path}: {name} has shape {array.shape}, expected ({', '.join(map(str, expected))}),"
                    f" with d the width of activations and n the number of features{why}."
                )
        return taken

    def optional(
        self, name: str, shape: str, like: dict[str, np.ndarray], letters: dict[str, str]
    ) -> np.ndarray | None:
        """An array that may be missing, with sizes taken from arrays that are there."""
        if name not in self:
            return None
        sizes: dict[str, int | None] = {}
        for known, dims in letters.items():
            sizes.update(zip(dims.split(), like[known].shape, strict=True))
        return self.take({name: shape}, sizes)[name]

    def number(self, name: str) -> float:
        """An array of one number, or a number."""
        value = self._numbers(name) if name in self else self.take({name: ""})[name]
        if value.size != 1:
            raise SAEError(f"{self.path}: {name} has shape {value.shape}, expected one number.")
        return float(value.reshape(()))

    def _numbers(self, name: str) -> np.ndarray:
        self.taken.add(name)
        value = np.asarray(self[name])
        if value.dtype.kind not in "fiub":
            raise SAEError(f"{self.path}: {name} holds {value.dtype}, expected numbers.")
        with np.errstate(over="ignore"):  # what becomes infinite is refused by name later
            return value.astype(np.float32) if value.dtype != np.float32 else value


# -- reading files ------------------------------------------------------------------------------


def read_config(path: Path) -> dict[str, Any]:
    """An object from a JSON or YAML file."""
    try:
        text = path.read_text(encoding="utf-8")
        found = _yaml(text) if path.suffix in (".yaml", ".yml") else json.loads(text)
    except BackendError:
        raise
    except Exception as error:  # parsers of hostile text raise many kinds
        raise SAEError(f"{path} cannot be read: {error}. The file is damaged or is not an SAE's.") from error
    if not isinstance(found, dict):
        raise SAEError(f"{path} holds a {type(found).__name__}, expected an object with settings.")
    return found


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise BackendError("Reading a .yaml file needs PyYAML: pip install pyyaml.") from error
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
        raise ValueError("it refers to itself (a YAML alias), which no SAE's settings do")
    return yaml.safe_load(text)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a safetensors file; bfloat16 comes as float32."""
    from safetensors import safe_open

    arrays: dict[str, np.ndarray] = {}
    try:
        with safe_open(path, framework="np") as file:
            types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            for name, kind in types.items():
                if kind in _PLAIN:
                    arrays[name] = file.get_tensor(name)
        for name in (n for n, kind in types.items() if kind == "BF16"):
            arrays[name] = _bfloat16(path, name)
    except Exception as error:  # safetensors raises several kinds, bare ones among them
        raise _damaged(path, error) from error
    strange = {name: kind for name, kind in types.items() if name not in arrays}
    if strange:
        raise SAEError(f"{path}: numbers of type {sorted(set(strange.values()))} cannot be read ({strange}).")
    return arrays


def _bfloat16(path: Path, name: str) -> np.ndarray:
    """A bfloat16 array, which NumPy has no type for: the upper half of a float32."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(size))[name]
        start, end = entry["data_offsets"]
        file.seek(8 + size + start)
        half = np.frombuffer(file.read(end - start), dtype="<u2")
    return (half.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz file; pickled ones are refused."""
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> SAEError:
    reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
    return SAEError(f"{path} cannot be read: {reason}. It is incomplete or damaged; get the file again.")


# -- reading settings ---------------------------------------------------------------------------


def setting(
    config: Mapping[str, Any], name: str, kind: type, default: Any = ..., where: str = "The config"
) -> Any:
    """A setting of that type; without a default it must be there.

    Raises:
        SAEError: It is missing, or of another type.
    """
    value = config.get(name)
    if value is None:
        if default is ...:
            raise SAEError(f"{where} lacks {name!r}, which says how this SAE works. It has: {_keys(config)}.")
        return default
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise SAEError(f"{where}: {name!r} is {reprlib.repr(value)}, expected {kind.__name__}.")
    if kind is float and not np.isfinite(value):
        raise SAEError(f"{where}: {name!r} is {value!r}, expected a finite number.")
    return value


def _keys(config: Mapping[str, Any]) -> str:
    return ", ".join(sorted(map(str, config))[:20]) or "nothing"


def one_of(
    config: Mapping[str, Any], name: str, known: Sequence[str], default: Any = ..., where: str = ""
) -> Any:
    """A setting that is one of `known`."""
    value = setting(config, name, str, default, where)
    if value is not None and value not in known:
        raise SAEError(f"{where}: unknown {name} {value!r}. Known: {', '.join(known)}.")
    return value


def the_k(files: Files, config: Mapping[str, Any], name: str = "k", where: str = "") -> int:
    """k as the user wants it, or as the file says."""
    return files.k if files.k is not None else setting(config, name, int, ..., where)
