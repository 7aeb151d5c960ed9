"""Our own folders: `sae.safetensors` (weights), `names.json` (names of features, where there are some), and
`config.json` (everything else), which binds the others by digests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...core.digests import DIGEST, check_seal, same_file
from ...core.files import strict_json
from ...errors import SAEError, warn
from ...variants import EXTRA, InputForm, Temporal, TopK, activation_from_dict, check_activation
from ...weights import NAMES, SAEWeights
from .settings import Settings, setting
from .source import Files, Parts, the_k

CONFIG, WEIGHTS, NAMES_FILE = "config.json", "sae.safetensors", "names.json"
FORMAT = "mlxterp"
VERSION = 2

_SHAPES = {"W_enc": "d n", "b_enc": "n", "W_dec": "n out", "b_dec": "out"}
_EXTRA = {"threshold": "n", "gate_scale": "n", "b_mag": "n", "value_scale": "n", "W_skip": "d out"}


def matches(files: Files) -> bool:
    """Whether the files are of this format."""
    return files.has(CONFIG, WEIGHTS) and files.config(CONFIG).get("format") == FORMAT


def read(files: Files) -> Parts:
    """The SAE that the files hold."""
    config = files.config(CONFIG)
    version = config.get("version")
    if config.get("format") != FORMAT or version not in (1, VERSION):
        raise SAEError(
            f"{files.folder / CONFIG} says format {config.get('format')!r}, version {version!r}; this mlxterp reads"
            f" {FORMAT!r}, versions 1 and {VERSION}. A newer mlxterp may read it."
        )
    arrays = files.arrays(WEIGHTS)
    shapes = {**_SHAPES, **{name: shape for name, shape in _EXTRA.items() if name in arrays}}
    sizes: dict[str, int | None] = {
        "d": setting(config, "d_model", int, ..., CONFIG),
        "n": setting(config, "d_hidden", int, ..., CONFIG),
        "out": setting(config, "d_out", int, ..., CONFIG),
    }
    attention = [name for name in arrays if name.startswith("attention.")]
    taken = arrays.take(shapes, sizes)
    extra = {name: taken.pop(name) for name in _EXTRA if name in taken}
    extra |= arrays.take_any(*attention)
    weights = SAEWeights(
        **taken, subtract_b_dec=setting(config, "subtract_b_dec", bool, ..., CONFIG), extra=extra
    )
    _check_digest(files, config, weights)
    parts = _parts(files, config, weights)
    check_activation(parts.activation, weights.W_enc.shape[1])  # what cannot be is told by name
    for key in (DIGEST, "files"):
        config.whole(key)  # read below
    return replace(parts, names=_names(files))


def _parts(files: Files, config: Settings, weights: SAEWeights) -> Parts:
    setting(config, "metadata", dict, {}, CONFIG)
    metadata = config.whole("metadata") or {}
    if config["version"] == 1:
        return Parts(weights, TopK(the_k(files, config, where=CONFIG)), metadata)
    setting(config, "activation", dict, ..., CONFIG)
    settings = config.whole("activation")
    if files.k is not None and "k" in settings:
        settings["k"] = files.k
    setting(config, "form", dict, {}, CONFIG)
    form = config.whole("form") or {}
    try:
        where = InputForm(**form)
    except TypeError as error:
        raise SAEError(
            f"{files.folder / CONFIG}: form is {form}, which this version does not know."
        ) from error
    activation = activation_from_dict(settings)
    missing = [name for name in EXTRA.get(activation.name, ()) if name not in weights.extra]
    if missing or (isinstance(activation, Temporal) and "attention.0.q_target.weight" not in weights.extra):
        raise SAEError(
            f"{files.folder / WEIGHTS} lacks {', '.join(missing) or 'attention'} of a {activation.name} SAE."
        )
    return Parts(weights, activation, metadata, where)


def digest(weights: SAEWeights) -> str:
    """sha256 of the numbers, kept beside them so that damage is found."""
    found = hashlib.sha256()
    for name, array in weights.arrays().items():
        found.update(f"{name} {tuple(array.shape)}".encode())
        found.update(np.ascontiguousarray(array, dtype=np.float32).data)
    return found.hexdigest()


def _check_digest(files: Files, config: Mapping[str, Any], weights: SAEWeights) -> None:
    said = config.get("sha256")
    if said is not None and said != digest(weights):
        raise SAEError(
            f"{files.folder / WEIGHTS} is not what was saved: its checksum differs from that in {CONFIG}. The file is"
            " damaged, or the two do not belong together; get both again."
        )


def _names(files: Files) -> dict[str, Any] | None:
    """Names of features that were saved with the SAE, once `config.json` was found to be as it was written.

    Raises:
        SAEError: It is damaged, or the names are not those that were saved.
    """
    path = files.folder / CONFIG
    try:
        config = strict_json(path.read_bytes())
        of_0_1_0 = "files" not in config and "sha256" in config  # which bound the weights at least
        if not check_seal(config) and not of_0_1_0:
            warn(
                f"{path} has no digest of its own, so a setting that was edited or damaged would not be seen. Saving"
                " the SAE again (sae.save) writes one."
            )
    except (OSError, ValueError) as error:
        raise SAEError(f"{path} is damaged: {error}") from error
    said = (config.get("files") or {}).get(NAMES_FILE)
    if said is None:
        return None
    place = files.folder / NAMES_FILE
    try:
        same_file(place, said)
        return strict_json(place.read_bytes())
    except (OSError, ValueError) as error:
        raise SAEError(
            f"{place} is not the file of names that was saved with this SAE: {error}. Get it again. To load without"
            f" names, remove 'files' and 'digest' from {CONFIG}; sae.concepts.load_concepts reads a changed file."
        ) from error


__all__ = ["CONFIG", "FORMAT", "NAMES", "NAMES_FILE", "VERSION", "WEIGHTS", "digest", "matches", "read"]
