"""Settings of strangers' files: read strictly, and with a memory of what was asked for.

`read_config` opens a JSON or YAML file. What it gives, `Settings`, is a dictionary that remembers which of its keys a
reader asked for, so that none that could change a number is passed over in silence (see `passed_over`). `setting` and
`one_of` check a value's type and meaning. `as_json` is the way back, for what we write.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...core.digests import sealed
from ...core.files import strict_json
from ...core.integers import is_integer
from ...errors import BackendError, SAEError

_LARGEST_CONFIG, _LARGEST_YAML = 16 * 2**20, 64 * 2**10
"""Bytes; settings of SAEs have a few thousand."""
_MOST_BRACKETS, _DEEPEST = 2_000, 32
NORMALISATIONS = {"none": "none", "layer_norm": "layer_norm", "constant_norm_rescale": "constant_norm"}
"""What SAELens calls a normalisation of the input → what `InputForm` does."""
SAELENS_NORMALISATIONS = {ours: theirs for theirs, ours in NORMALISATIONS.items()}


class Settings(dict):
    """A dictionary that remembers which keys were asked for; dictionaries in it do so too."""

    def __init__(self, held: Mapping[Any, Any]):
        super().__init__(
            {
                str(name): Settings(value) if isinstance(value, Mapping) else value
                for name, value in held.items()
            }
        )
        self._asked: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self._asked.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._asked.add(name)
        return super().get(name, default)

    def peek(self, name: str) -> Any:
        """A value, without saying that it was used."""
        return super().get(name)

    def pass_over(self, *names: str) -> None:
        """Says that these cannot change what is computed under the other settings."""
        self._asked.update(names)
        for name in names:
            if isinstance(inner := super().get(name), Settings):
                inner.pass_over(*inner)

    def whole(self, name: str) -> Any:
        """A value that is taken with all that is in it, as a plain dictionary."""
        self.pass_over(name)
        return plain(super().get(name))

    def forget(self) -> None:
        """As if nothing had been asked for."""
        self._asked.clear()
        for value in self.values():
            if isinstance(value, Settings):
                value.forget()

    def unasked(self, before: str = "") -> Iterator[str]:
        """Names of what was not asked for, with those of dictionaries in dictionaries joined by dots."""
        for name, value in self.items():
            if name not in self._asked:
                yield f"{before}{name}"
            elif isinstance(value, Settings):
                yield from value.unasked(f"{before}{name}.")


def plain(found: Any) -> Any:
    """The same, of plain dictionaries."""
    return {name: plain(value) for name, value in found.items()} if isinstance(found, dict) else found


# -- files ---------------------------------------------------------------------------------------


def read_config(path: Path) -> Settings:
    """An object from a JSON or YAML file.

    Raises:
        SAEError: It is damaged or too large, names a key twice, holds NaN, is nested deeply, or is no object.
        BackendError: It is YAML, and PyYAML is not installed.
    """
    yaml = path.suffix in (".yaml", ".yml")
    try:
        size, limit = path.stat().st_size, _LARGEST_YAML if yaml else _LARGEST_CONFIG
        if size > limit:
            raise ValueError(f"it has {size} bytes, more than the {limit} that settings may have")
        text = path.read_text(encoding="utf-8")
        found = _yaml(text) if yaml else _without_infinities(strict_json(text))
        if isinstance(found, dict):
            return Settings(found)
    except BackendError:
        raise
    except Exception as error:  # parsers of hostile text raise many kinds
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise SAEError(f"{path} cannot be read: {reason}. The file is damaged or is not an SAE's.") from error
    raise SAEError(f"{path} holds a {type(found).__name__}, expected an object with settings.")


def _without_infinities(found: Any) -> Any:
    """The same; a number such as 1e999, which is beyond float64, is refused as the word Infinity is."""
    level = [found]
    while level:
        for value in level:
            if isinstance(value, float) and math.isinf(value):
                raise ValueError("it holds a number that is too large for float64")
        lists = [v for v in level if isinstance(v, (dict, list))]
        level = [inner for v in lists for inner in (v.values() if isinstance(v, dict) else v)]
    return found


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise BackendError("Reading a .yaml file needs PyYAML: pip install pyyaml.") from error
    if text.count("[") + text.count("{") > _MOST_BRACKETS:  # PyYAML takes minutes for them
        raise ValueError(f"it has more than {_MOST_BRACKETS} brackets, which no SAE's settings have")

    class Strict(yaml.SafeLoader):
        """Composes while it reads, so that depth and aliases are refused before the rest is looked at."""

        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("it refers to itself (a YAML alias), which no SAE's settings do")
            self.depth += 1
            if self.depth > _DEEPEST:
                raise ValueError(f"it is nested more than {_DEEPEST} deep")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = Counter(key.value for key, _ in node.value if isinstance(key.value, str))
            if names and names.most_common(1)[0][1] > 1:
                raise ValueError(f"the key {names.most_common(1)[0][0]!r} comes twice")
            return super().construct_mapping(node, deep)

    return yaml.load(text, Loader=Strict)


# -- values --------------------------------------------------------------------------------------


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
    if kind is float and is_integer(value) and abs(value) < 2**63:
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
        raise SAEError(f"{where}: unknown {name} {reprlib.repr(value)}. Known: {', '.join(known)}.")
    return value


def check_dtype(config: Mapping[str, Any], where: str) -> None:
    """Refuses a type of numbers that is none; what is stored is computed in float32 all the same.

    Raises:
        SAEError: `dtype` is something else.
    """
    value = setting(config, "dtype", str, None, where)
    if value is not None and value.removeprefix("torch.") not in _DTYPES:
        raise SAEError(f"{where}: unknown dtype {reprlib.repr(value)}. Known: {', '.join(_DTYPES)}.")


_DTYPES = ("float64", "float32", "float16", "bfloat16", "double", "float", "half")


# -- writing -------------------------------------------------------------------------------------


def as_json(config: Mapping[str, Any], seal: bool = False) -> str:
    """Settings as a JSON file; numbers of NumPy, arrays and paths become plain.

    Args:
        seal: Whether the file holds its own digest.

    Raises:
        SAEError: Something else is among them.
    """
    try:
        found = json.loads(json.dumps(config, default=_plain, allow_nan=False))
        return json.dumps(sealed(found) if seal else found, indent=2) + "\n"
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
