"""Our own folders: `sae.safetensors` (weights), `names.json` (names of features, where there are some), and
`config.json` (everything else), which binds the others by digests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from ...concepts import store
from ...core.digests import DIGEST, check_seal, digest_of_bytes, same_file
from ...core.files import strict_json
from ...errors import SAEError, warn
from ...variants import (
    EXTRA,
    InputForm,
    Temporal,
    TopK,
    activation_from_dict,
    activation_to_dict,
    check_activation,
)
from ...weights import SAEWeights
from .parts import Parts, Stored
from .settings import Settings, as_json, setting
from .source import Files, the_k

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


# -- writing -------------------------------------------------------------------------------------


def stored(sae: Parts, dtype: str) -> Stored:
    """The files of an SAE, with weights of that dtype ("float32", "float16").

    Raises:
        SAEError: The metadata cannot be written as JSON, or a weight lies outside float16's range.
    """
    weights = as_float16(sae.weights) if dtype == "float16" else sae.weights
    texts: dict[str, str] = {}
    if sae.names:
        texts[NAMES_FILE] = store.as_json(sae.names)
    return Stored(WEIGHTS, weights.arrays(), {**texts, CONFIG: as_json(_config(sae, weights, texts), True)})


def _config(sae: Parts, weights: SAEWeights, texts: Mapping[str, str]) -> dict[str, Any]:
    """Settings beside these weights, which may be sae's own in another dtype, and other files."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "activation": activation_to_dict(sae.activation),
        "form": asdict(sae.form),
        "d_model": sae.d_model,
        "d_hidden": sae.d_hidden,
        "d_out": sae.d_out,
        "subtract_b_dec": sae.weights.subtract_b_dec,
        "sha256": digest(weights),
        "files": {name: digest_of_bytes(text.encode()) for name, text in texts.items()},
        "metadata": sae.metadata,
    }


def as_float16(weights: SAEWeights) -> SAEWeights:
    """The weights rounded to float16.

    Raises:
        SAEError: A weight is too large for it.
    """
    largest = float(np.finfo(np.float16).max)
    with np.errstate(over="ignore"):  # refused by name below
        rounded = weights.map(lambda array: array.astype(np.float16))
    for name, array in rounded.arrays().items():
        outside = int(np.isinf(array).sum())
        if outside:
            raise SAEError(
                f"{outside} of {array.size} numbers in {name} lie outside float16's range (±{largest:.0f})."
                " Save it with dtype='float32'."
            )
    return rounded
