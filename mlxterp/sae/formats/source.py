"""What a reader is given: the files of one SAE, opened safely, and what it gives back.

Files come from strangers. Nothing in them is executed, every size and type is checked before its numbers are read,
and whatever is wrong with them becomes an `SAEError` that names the file. What a reader did not ask for is found by
`Files.unused`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...backends import read_torch_file
from ...core.tensor_files import StoredArray, check_holes, check_memory, open_npz, open_safetensors
from ...errors import SAEError
from .settings import Settings, read_config, setting


@dataclass(frozen=True, slots=True)
class Unused:
    """What files hold and their reader did not ask for, by file."""

    arrays: list[tuple[str, str]]
    settings: list[tuple[str, str]]


class Files:
    """A folder, or one file in it, that may hold an SAE.

    Args:
        path: As the user gave it.
        k: What the user wants k to be; None takes the file's.
        mapped: Look at arrays where they lie in the file, where that can be (`StoredArray.map`).
    """

    def __init__(
        self, path: Path, k: int | None = None, scale: float | None = None, opened: _Opened | None = None,
        mapped: bool = False,
    ):  # fmt: skip
        self.path = path
        self.k = k
        self.scale = scale
        """What activations are multiplied by, where the file does not say (`norm_scaling_factor`)."""
        self._mapped = mapped
        self.folder = path if path.is_dir() else path.parent
        self.chosen = None if path.is_dir() else path.name
        with os.scandir(self.folder) as entries:
            self.names = frozenset(entry.name for entry in entries if entry.is_file())
        self._opened = opened if opened is not None else _Opened({}, {}, set())

    def at(self, path: Path) -> Files:
        """Files elsewhere that belong to the same SAE."""
        return Files(path, self.k, self.scale, self._opened, self._mapped)

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

    def config(self, name: str) -> Settings:
        """A JSON or YAML file that holds an object."""
        path = self.folder / name
        if path not in self._opened.configs:
            self._opened.configs[path] = read_config(path)
        self._opened.asked.add(path)
        return self._opened.configs[path]

    def replace_config(self, name: str, config: Settings) -> None:
        """Puts settings under other names in the place of those that were read."""
        self._opened.configs[self.folder / name] = config

    def arrays(self, name: str) -> Arrays:
        """The arrays of a safetensors, npz or pt file."""
        path = self.folder / name
        if path not in self._opened.arrays:
            self._opened.arrays[path] = Arrays(path, mapped=self._mapped)
        self._opened.asked.add(path)
        return self._opened.arrays[path]

    def forget(self) -> None:
        """As if no file had been asked for: what tells formats apart is not use."""
        self._opened.asked.clear()
        for config in self._opened.configs.values():
            config.forget()
        for arrays in self._opened.arrays.values():
            arrays.forget()

    def unused(self) -> Unused:
        """What is in the files that were asked for and was not used itself."""
        found = Unused([], [])
        for path, config in self._opened.configs.items():
            if path in self._opened.asked:
                found.settings.extend((path.name, name) for name in config.unasked())
        for path, arrays in self._opened.arrays.items():
            if path in self._opened.asked:
                found.arrays.extend((path.name, name) for name in arrays.untaken())
                found.settings.extend((path.name, name) for name in arrays.unasked())
        return found


@dataclass(frozen=True, eq=False, slots=True)
class _Opened:
    """Files of one SAE that were opened, and those that were asked for since `Files.forget`."""

    configs: dict[Path, Settings]
    arrays: dict[Path, Arrays]
    asked: set[Path]


class Arrays(Mapping[str, Any]):
    """Named arrays of a file; what is not an array (a string, a number in a `.pt`) is held as it is.

    Their shapes are known before their numbers are read, which is when they are taken.
    """

    def __init__(
        self, path: Path, held: Mapping[str, Any] | None = None, before: str = "", mapped: bool = False
    ):
        self.path = path
        self._mapped = mapped
        self._given = held
        self._before = before
        self._taken: set[str] = set()
        self._inner: dict[str, Arrays | Settings] = {}

    @cached_property
    def _held(self) -> Mapping[str, Any]:
        return self._open() if self._given is None else self._given

    def _open(self) -> Mapping[str, Any]:
        if self.path.suffix not in (".safetensors", ".npz"):
            return read_torch_file(self.path)
        try:
            check_holes(self.path)
            return open_safetensors(self.path) if self.path.suffix == ".safetensors" else open_npz(self.path)
        except Exception as error:  # headers of strangers are wrong in many ways
            raise _damaged(self.path, error) from error

    def __getitem__(self, name: str) -> Any:
        """The array, read; or what else has that name."""
        self._taken.add(name)
        value = self._held[name]
        return self._read(value) if isinstance(value, StoredArray) else value

    def __contains__(self, name: object) -> bool:
        return name in self._held

    def __iter__(self):
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def _read(self, array: StoredArray) -> np.ndarray:
        check_memory(4 * math.prod(array.shape), self.path)
        try:
            look = array.map if self._mapped else None
            numbers = array.load() if look is None else look()
        except Exception as error:
            raise _damaged(self.path, error) from error
        whole: Any = numbers
        while isinstance(whole, np.ndarray):  # nobody else holds it, so an SAE need not copy it
            whole.flags.writeable = False
            whole = whole.base
        return numbers

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Of an array; None where there is none of that name."""
        value = self._held.get(name)
        return None if value is None else tuple(getattr(value, "shape", ())) if _is_array(value) else None

    # -- what was used ------------------------------------------------------------------------

    def inner(self, name: str) -> Arrays:
        """A dictionary of arrays that stands under this name."""
        if name not in self._inner:
            value = self._held.get(name)
            if not isinstance(value, Mapping):
                raise SAEError(
                    f"{self.path}: {name} is a {type(value).__name__}, expected a dictionary of arrays."
                )
            self._inner[name] = Arrays(self.path, value, f"{self._before}{name}.", self._mapped)
        self._taken.add(name)
        found = self._inner[name]
        assert isinstance(found, Arrays)
        return found

    def settings(self, name: str) -> Settings:
        """A dictionary of settings that stands under this name; empty where there is none."""
        if name not in self._inner:
            value = self._held.get(name)
            if value is not None and not isinstance(value, Mapping):
                raise SAEError(f"{self.path}: {name} is a {type(value).__name__}, expected a dictionary.")
            self._inner[name] = Settings(value or {})
        self._taken.add(name)
        found = self._inner[name]
        assert isinstance(found, Settings)
        return found

    def pass_over(self, *names: str) -> None:
        """Says that these cannot change what is computed."""
        self._taken.update(names)

    def forget(self) -> None:
        """As if nothing had been taken."""
        self._taken.clear()
        self._inner.clear()

    def untaken(self) -> list[str]:
        """Names of arrays that nobody took."""
        found = [
            f"{self._before}{n}"
            for n, value in self._held.items()
            if n not in self._taken and _is_array(value)
        ]
        return found + [
            n for inner in self._inner.values() if isinstance(inner, Arrays) for n in inner.untaken()
        ]

    def unasked(self) -> list[str]:
        """Names of what is no array and nobody asked for."""
        found = [
            f"{self._before}{n}" for n, v in self._held.items() if n not in self._taken and not _is_array(v)
        ]
        for name, inner in self._inner.items():
            found += (
                inner.unasked(f"{self._before}{name}.") if isinstance(inner, Settings) else inner.unasked()
            )
        return found

    # -- taking -------------------------------------------------------------------------------

    def take(
        self, shapes: dict[str, str], sizes: Mapping[str, int | None] | None = None
    ) -> dict[str, np.ndarray]:
        """The arrays of those names, float32, whose dimensions are called by letters: {"W_enc": "d n"}.

        The same letter is the same size everywhere; `sizes` gives what the config says. All shapes are compared
        before any number is read.

        Raises:
            SAEError: One is missing, is no array of floating point numbers, or has another shape.
        """
        self._check_shapes(shapes, sizes)
        check_memory(4 * sum(math.prod(self._shape_of_numbers(name, "f")) for name in shapes), self.path)
        return {name: self._numbers(name) for name in shapes}

    def _check_shapes(self, shapes: dict[str, str], sizes: Mapping[str, int | None] | None) -> None:
        missing = [name for name in shapes if name not in self]
        if missing:
            held = ", ".join(sorted(map(str, self))) or "nothing"
            raise SAEError(f"{self.path} lacks {', '.join(missing)}; it holds: {held}.")
        known = {letter: size for letter, size in (sizes or {}).items() if size is not None}
        said = dict(known)
        for name, letters in shapes.items():
            shape = self._shape_of_numbers(name, "f")
            wanted = letters.split()
            expected = tuple(known.get(letter, letter) for letter in wanted)
            if len(shape) != len(wanted) or any(
                known.setdefault(letter, size) != size for letter, size in zip(wanted, shape, strict=True)
            ):
                why = f" (the config says {said})" if said else ""
                raise SAEError(
                    f"{self.path}: {name} has shape {shape}, expected ({', '.join(map(str, expected))}),"
                    f" with d the width of activations and n the number of features{why}."
                )

    def stored(self, name: str, shape: str, sizes: Mapping[str, int | None] | None = None) -> StoredArray:
        """An array of floating point numbers that is not read yet; its dimensions are named as in `take`.

        Raises:
            SAEError: It is missing, is no such array, has another shape, or lies in a file that must be read whole.
        """
        self._check_shapes({name: shape}, sizes)
        self._taken.add(name)
        value = self._held[name]
        if not isinstance(value, StoredArray):
            raise SAEError(f"{self.path} is no safetensors file, so {name} cannot be read in parts.")
        return value

    def take_any(self, *names: str) -> dict[str, np.ndarray]:
        """Arrays of floating point numbers of any shape, float32."""
        for name in names:
            self._shape_of_numbers(name, "f")
        return {name: self._numbers(name) for name in names}

    def optional(
        self, name: str, shape: str, like: Mapping[str, np.ndarray], letters: Mapping[str, str]
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
        if name not in self:
            self.take({name: ""})
        shape = self._shape_of_numbers(name, "fiu")
        if math.prod(shape) != 1:
            raise SAEError(f"{self.path}: {name} has shape {shape}, expected one number.")
        return float(np.asarray(self[name]).reshape(()))

    def whole_number(self, name: str) -> int:
        """A number of at least 1, such as k."""
        value = self.number(name)
        if not value.is_integer() or value < 1:
            raise SAEError(f"{self.path}: {name} is {value}, expected a whole number of at least 1.")
        return int(value)

    def _shape_of_numbers(self, name: str, kinds: str) -> tuple[int, ...]:
        """Shape of an array, whose numbers must be of these kinds (NumPy's letters)."""
        value = self._held[name]
        array = value if isinstance(value, StoredArray) else np.asarray(value)
        kind = array.kind if isinstance(array, StoredArray) else array.dtype.kind
        if kind not in "fiub" or (kind == "b" and "b" not in kinds):
            raise SAEError(f"{self.path}: {name} holds {array.dtype}, expected numbers.")
        if kind not in kinds:
            raise SAEError(
                f"{self.path}: {name} holds integers ({array.dtype}) and nothing says what they are to be multiplied"
                " by, so they are no weights yet. Save it in floating point where it was quantised."
            )
        return tuple(array.shape)

    def _numbers(self, name: str) -> np.ndarray:
        value = np.asarray(self[name])
        with np.errstate(over="ignore"):  # what becomes infinite is refused by name later
            return value.astype(np.float32) if value.dtype != np.float32 else value


def _is_array(value: Any) -> bool:
    return isinstance(value, (StoredArray, np.ndarray)) or hasattr(value, "__array__")


def _damaged(path: Path, error: Exception) -> SAEError:
    reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
    return SAEError(f"{path} cannot be read: {reason}. It is incomplete or damaged; get the file again.")


def the_k(files: Files, config: Mapping[str, Any], name: str = "k", where: str = "") -> int:
    """k as the user wants it, or as the file says."""
    if files.k is not None:
        config.get(name)  # what the user says is instead of it
        return files.k
    return setting(config, name, int, ..., where)
