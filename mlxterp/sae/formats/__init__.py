"""Every format that SAEs come in: a table of small readers, tried on what is there.

`read` finds the format of a file or folder and gives the SAE's `Parts`; `write` takes them. A format is two functions:
whether files look like it, and what they hold. Formulas and file layouts are those of the libraries named
in each module, checked against their own outputs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from ...core import checks
from ...core.places import expanded, looks_like_path, near
from ...errors import InputError, MlxterpError, SAEError, warn
from . import (
    circuit_tracer,
    cross_layer,
    dictionary_learning,
    gemma,
    openmoss,
    own,
    pickled,
    saelens,
    sparsify,
    temporal,
    upstream,
)
from .cross_layer import CrossLayerParts
from .parts import Parts
from .passed_over import passed_over
from .source import Files
from .writing import write, write_set


@dataclass(frozen=True, slots=True)
class Format:
    """How one format is recognised and read."""

    matches: Callable[[Files], bool]
    read: Callable[[Files], Parts]
    looks_like: str


_TABLE = {
    "mlxterp": Format(own.matches, own.read, "config.json + sae.safetensors"),
    "saelens": Format(saelens.matches, saelens.read, "cfg.json + sae_weights.safetensors"),
    "sparsify": Format(sparsify.matches, sparsify.read, "cfg.json + sae.safetensors"),
    "mlxterp_upstream": Format(upstream.matches, upstream.read, "config.json + weights.safetensors"),
    "gemma_scope": Format(gemma.matches_npz, gemma.read_npz, "params.npz"),
    "gemma_scope_2": Format(gemma.matches_safetensors, gemma.read_safetensors, "params.safetensors"),
    "llama_scope": Format(
        openmoss.matches_llama_scope, openmoss.read_llama_scope, "hyperparams.json + checkpoints/final.safetensors"
    ),
    "llama_scope_r1": Format(openmoss.matches_r1, openmoss.read_r1, "config.json + sae_weights.safetensors"),
    "llamascopium": Format(
        openmoss.matches_llamascopium, openmoss.read_llamascopium, "config.json + sae_weights.safetensors"
    ),
    "dictionary_learning": Format(
        dictionary_learning.matches, dictionary_learning.read, "config.json + ae.pt"
    ),
    "circuit_tracer": Format(circuit_tracer.matches, circuit_tracer.read, "layer_<L>.safetensors"),
    "circuit_tracer_clt": Format(
        circuit_tracer.matches_cross_layer, circuit_tracer.read_cross_layer,
        "W_enc_<L>.safetensors + W_dec_<L>.safetensors",
    ),
    "temporal": Format(temporal.matches, temporal.read, "conf.yaml + latest_ckpt.safetensors"),
    "kissane": Format(pickled.matches_kissane, pickled.read_kissane, "<name>.pt + <name>_cfg.json"),
    "qwen_scope": Format(pickled.matches_qwen, pickled.read_qwen, "layer<L>.sae.pt"),
    "mi_crow": Format(pickled.matches_mi_crow, pickled.read_mi_crow, ".pt with sae_state_dict"),
    "openai": Format(pickled.matches_openai, pickled.read_openai, ".pt with pre_bias, latent_bias"),
    "goodfire": Format(pickled.matches_goodfire, pickled.read_goodfire, ".pt with encoder_linear"),
    "deepseek": Format(pickled.matches_deepseek, pickled.read_deepseek, ".pt with encoder, decoder"),
}  # fmt: skip
_OTHER_READINGS = {
    "dictionary_learning_unnormalized": Format(
        dictionary_learning.matches, dictionary_learning.read_unnormalized, "config.json + ae.pt"
    ),
}
"""Only by name: the same files, read in another way."""

__all__ = ["FORMATS", "Format", "Parts", "read", "write", "write_set"]

FORMATS = (*_TABLE, *_OTHER_READINGS)
"""Names of what `SAE.load(path, format=…)` reads."""

_DEPTH = 4
_MOST_ENTRIES, _MOST_SAES = 10_000, 20
"""A home folder holds more; what holds an SAE, or a collection of them, does not, or is soon found."""
_UNFORESEEN = (
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RuntimeError,
    OSError,
    MemoryError,
)
_ENDINGS = (".safetensors", ".npz", ".pt", ".pth")


def read(
    path: str | os.PathLike,
    format: str | None = None,
    k: int | None = None,
    scale: float | None = None,
    mapped: bool = False,
) -> Parts:
    """The SAE at `path`, with "format" and "source" in its metadata.

    Args:
        mapped: Look at weights where they lie in the file, where the format allows it, instead of reading them.

    Raises:
        SAEError: Nothing is there, no format fits, several SAEs are there, or files are damaged.
        BackendError: A library that the files need is not installed.
    """
    if format is not None and format not in FORMATS:
        raise SAEError(f"Unknown format {format!r}. Known: {', '.join(FORMATS)}.")
    path, k = _checked_path(path), checks.count_or_none(k, "k", error=SAEError)
    if scale is not None:
        scale = checks.finite(scale, "norm_scaling_factor", above=0.0, error=SAEError)
    name, files = _found(path, format, k, scale, mapped)
    parts = _read_by({**_TABLE, **_OTHER_READINGS}[name].read, path, name, files)
    _check_unused(path, name, files, f"a {parts.activation.name} SAE")
    if k is not None and getattr(parts.activation, "k", None) != k:
        warn(
            f"k={k} was not used: what is active in this {parts.activation.name} SAE does not depend on a k."
        )
    parts.metadata.update({"format": name, "source": os.fspath(path)})
    return parts


def read_cross_layer(path: str | os.PathLike) -> CrossLayerParts:
    """The whole cross-layer transcoder in a folder, its large arrays left in the files.

    Raises:
        SAEError: There is none, a layer is missing, or files are damaged.
    """
    path = _checked_path(path)
    files = Files(path, mapped=True)
    if not path.is_dir() or not cross_layer.layers_of(files.names, 1):
        raise SAEError(
            f"{path} is no folder of a cross-layer transcoder (W_enc_<L>.safetensors with W_dec_<L>, or"
            f" params_layer_<L>.safetensors); it holds: {', '.join(sorted(files.names)[:8]) or 'no files'}."
        )
    name = "circuit_tracer_clt" if "W_enc_0.safetensors" in files.names else "gemma_scope_2"
    parts = _read_by(cross_layer.read_layers, path, name, files)
    _check_unused(path, name, files, "a cross-layer transcoder")
    return replace(parts, metadata={**parts.metadata, "format": name, "source": os.fspath(path)})


def is_cross_layer(path: str | os.PathLike) -> bool:
    """Whether a folder holds a cross-layer transcoder of several layers."""
    try:
        found = expanded(path)
        return found.is_dir() and bool(cross_layer.layers_of(Files(found).names))
    except (OSError, ValueError):
        return False


_T = TypeVar("_T")


def _read_by(reader: Callable[[Files], _T], path: Path, name: str, files: Files) -> _T:
    """What a reader gives; its errors name the path."""
    files.forget()
    try:
        with np.errstate(all="ignore"):  # numbers that are not finite are refused by name, by SAE
            return reader(files)
    except SAEError as error:
        raise SAEError(f"{path} (read as {name}): {error}") from error
    except MlxterpError:
        raise
    except _UNFORESEEN as error:  # settings of strangers fail in more ways than can be foreseen
        raise SAEError(
            f"{path} (read as {name}) holds what cannot be: {type(error).__name__}: {error}."
        ) from error


def _check_unused(path: Path, format: str, files: Files, kind: str) -> None:
    """Refuses arrays that were not used, and names settings that were not; those that cannot matter excepted."""
    unused = files.unused()
    arrays = [f"{name} in {file}" for file, name in unused.arrays if not passed_over(format, name)]
    if arrays:
        raise SAEError(
            f"{path} (read as {format}) holds {', '.join(arrays[:8])}{', …' * (len(arrays) > 8)}, which"
            f" {kind} of its settings does not have. Settings and weights do not belong together,"
            " or the SAE is of a kind that mlxterp does not know; its numbers would be wrong."
        )
    settings: dict[str, list[str]] = {}
    for file, name in unused.settings:
        if not passed_over(format, name):
            settings.setdefault(file, []).append(name)
    if settings:
        shown = "; ".join(
            f"{file}: {', '.join(names[:12])}{', …' * (len(names) > 12)}" for file, names in settings.items()
        )
        warn(
            f"{path} (read as {format}) has settings that mlxterp does not know and did not use ({shown}). If one of"
            " them changes what the SAE computes, its features are off: compare them with those of the library that"
            " wrote it, or call sae.check(…)."
        )


def _checked_path(path: str | os.PathLike) -> Path:
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise InputError(f"Expected the path of an SAE's file or folder, got {path!r}.")
    found = expanded(path)
    try:
        there = found.exists()
    except (OSError, ValueError) as error:
        raise SAEError(f"{str(path)[:80]!r} is no path: {error}.") from error
    if not there:
        published = (
            "" if looks_like_path(path) else f" If it is a published one: SAE.from_pretrained({str(path)!r})."
        )
        raise SAEError(f"There is no SAE at {path}: no such file or folder.{near(path)}{published}")
    return found


def saes_in(path: str | os.PathLike, format: str | None = None) -> list[tuple[str, Files]]:
    """Format and files of every SAE in a folder and in those below it, in the order of their paths.

    A folder that holds several files of which each is an SAE gives each of them. What is no SAE is passed over.

    Raises:
        SAEError: Nothing is there, no SAE is, or one that is there cannot be opened.
    """
    if format is not None and format not in FORMATS:
        raise SAEError(f"Unknown format {format!r}. Known: {', '.join(FORMATS)}.")
    path = _checked_path(path)
    walk = _Walk(path, format, None, None, each_file=True)
    found = list(walk.saes(path, _DEPTH))
    if walk.problems:
        raise walk.problems[0]
    if not found:
        raise SAEError(_no_format(path, Files(path), format))
    return found


def _found(
    path: Path, format: str | None, k: int | None, scale: float | None, mapped: bool
) -> tuple[str, Files]:
    """The format of what is at `path`, or of the only SAE in the folders below it."""
    walk = _Walk(path, format, k, scale, mapped)
    found = list(islice(walk.saes(path, _DEPTH), _MOST_SAES))
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(str(files.folder.relative_to(path)) for _, files in found[:5])
        several = f"{_MOST_SAES} or more" if len(found) == _MOST_SAES else str(len(found))
        raise SAEError(
            f"{path} holds {several} SAEs: {shown}{', …' * (len(found) > 5)}. Give the path of one."
        )
    if walk.problems:
        raise walk.problems[0]
    raise SAEError(_no_format(path, Files(path), format))


class _Walk:
    """Looks for SAEs in a folder and below it, as long as that is not much to look through."""

    def __init__(
        self, path: Path, format: str | None, k: int | None, scale: float | None, mapped: bool = False,
        each_file: bool = False,
    ):  # fmt: skip
        self.path, self.format, self.k, self.scale = path, format, k, scale
        self.mapped, self.each_file = mapped, each_file
        self.problems: list[MlxterpError] = []
        """What could not be opened while looking."""
        self._entries = 0

    def saes(self, path: Path, depth: int) -> Iterator[tuple[str, Files]]:
        """Format and files of each."""
        files, name = None, None
        try:
            files = Files(path, self.k, self.scale, mapped=self.mapped)
            name = _format_of(files, self.format)
        except (MlxterpError, OSError) as error:
            self._note(path, error)
        if files is not None and name is not None:
            yield name, files
        elif depth and path.is_dir():
            names = files.names if files is not None else frozenset[str]()
            weights = sorted(
                n for n in names if n.endswith(_ENDINGS) and not circuit_tracer.is_decoder(n, names)
            )
            for file in weights if self.each_file else ():
                yield from self.saes(path / file, 0)
            for folder in self._folders(path):
                yield from self.saes(folder, depth - 1)

    def _note(self, path: Path, error: MlxterpError | OSError) -> None:
        ours = isinstance(error, MlxterpError)
        self.problems.append(error if ours else SAEError(f"{path} cannot be opened: {error}."))

    def _folders(self, path: Path) -> list[Path]:
        """Folders in a folder, sorted; none where it cannot be opened."""
        found: list[Path] = []
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    self._entries += 1
                    if self._entries > _MOST_ENTRIES:
                        raise SAEError(
                            f"{self.path} and the folders below it hold more than {_MOST_ENTRIES} files and folders,"
                            " too many to look for an SAE in. Name the folder that holds the SAE."
                        )
                    if entry.is_dir(follow_symlinks=False):
                        found.append(Path(entry.path))
        except OSError as error:
            self._note(path, error)
        return sorted(found)


def _format_of(files: Files, format: str | None) -> str | None:
    if format is not None:
        return format if {**_TABLE, **_OTHER_READINGS}[format].matches(files) else None
    return next((name for name, entry in _TABLE.items() if entry.matches(files)), None)


def _no_format(path: Path, files: Files, format: str | None) -> str:
    held = ", ".join(sorted(files.names)[:8]) or "no files"
    if layers := cross_layer.layers_of(files.names):
        return (
            f"{path} holds a cross-layer transcoder of {len(layers)} layers, which is more than an SAE:"
            " mlxterp.CrossLayerTranscoder.load(path) opens all of it. The path of one layer's file opens that layer's"
            " features."
        )
    if format is not None:
        entry = {**_TABLE, **_OTHER_READINGS}[format]
        return f"{path} does not look like {format} ({entry.looks_like}); it holds: {held}."
    weights = [n for n in files.names if n.endswith(_ENDINGS)]
    several = f" It holds {len(weights)} files of weights: give the path of one." if len(weights) > 1 else ""
    known = "; ".join(f"{name}: {entry.looks_like}" for name, entry in _TABLE.items())
    return (
        f"{path} is not an SAE in a format that mlxterp knows; it holds: {held}.{several} Known are {known}."
    )
