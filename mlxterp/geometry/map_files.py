"""A map as a file: `map.safetensors` beside an index, or in any folder.

Its header has digests of the arrays, as the index's own files have; that of the SAEs stands inside.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..core.controls import Controlled
from ..core.files import strict_json
from ..core.places import path_of
from ..errors import FeatureIndexError, InputError
from ..index import FeatureIndex
from ..index.files import ArrayFile, packed, write_atomically
from ..index.folder import MAP
from .placed_rows import PlacedRows

_FORMAT, _VERSION = "mlxterp-map", 1
_ARRAYS = ("coordinates", "width", "feature_id", "nearness", "kept_control", "scores")
_PLAIN = ("copies", "method", "n_neighbors", "min_dist", "seed", "component")


def write(drawn: PlacedRows, where: Any) -> Path:
    """See `DecoderMap.save`."""
    folder = _folder(where, set(drawn.fingerprints.values()))
    about = {
        "format": _FORMAT, "version": _VERSION, "fingerprints": {str(w): f for w, f in drawn.fingerprints.items()},
        "dead": {str(w): n for w, n in drawn.dead.items()}, "labels": drawn.labels, "tokens": drawn.tokens,
        "scores": list(drawn.scores), "kept": [drawn.kept.value, drawn.kept.interval, drawn.kept.kind, drawn.kept.seed],
        **{name: getattr(drawn, name) for name in _PLAIN},
    }  # fmt: skip
    arrays = {name: getattr(drawn, name) for name in _ARRAYS[:4]} | {
        "kept_control": drawn.kept.control,
        "scores": np.array(list(drawn.scores.values())).reshape(len(drawn.scores), len(drawn)),
        "about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
    }
    write_atomically(folder / MAP, packed(arrays)[0])
    return folder / MAP


def read(where: Any) -> dict[str, Any]:
    """The fields of a `DecoderMap` but its rows."""
    folder = _folder(where, None)
    path = folder / MAP
    if not path.is_file():
        raise InputError(f"There is no map in {folder}: decoder_map(…).save(folder) writes one.")
    try:
        arrays = ArrayFile(path, (*_ARRAYS, "about"), None)
        arrays.check()
        about = strict_json(arrays["about"].tobytes())
    except (FeatureIndexError, ValueError) as error:
        raise FeatureIndexError(f"{path} is damaged: draw the map again. ({error})") from error
    if not isinstance(about, dict):
        raise FeatureIndexError(f"{path} is damaged: draw the map again. (It does not say what it is.)")
    if about.get("format") != _FORMAT or about.get("version") != _VERSION:
        raise InputError(
            f"{path} is of version {about.get('version')!r}; this mlxterp reads {_VERSION}. Draw the map again."
        )
    try:
        return _fields(about, {name: np.array(arrays[name]) for name in _ARRAYS}, where, folder)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FeatureIndexError(f"{path} is damaged: draw the map again. ({error})") from error


def _fields(about: dict[str, Any], found: dict[str, Any], where: Any, folder: Path) -> dict[str, Any]:
    """The fields of a `DecoderMap` but its rows.

    Raises:
        ValueError: What belongs to each point is of another number.
        InputError: The map is of another SAE than the index.
    """
    fingerprints = {int(w): f for w, f in about["fingerprints"].items()}
    if isinstance(where, FeatureIndex) and where.fingerprint not in fingerprints.values():
        raise InputError(f"The map beside {folder} is of another SAE than the index: draw it again.")
    value, interval, kind, seed = about["kept"]
    kept = Controlled(value, tuple(interval), found.pop("kept_control"), kind, seed)
    scores = dict(zip(about["scores"], found.pop("scores"), strict=True))
    n = len(found["width"])
    sizes = [
        len(about["labels"]),
        len(about["tokens"]) or n,
        *map(len, found.values()),
        *map(len, scores.values()),
    ]
    if any(size != n for size in sizes) or found["coordinates"].shape != (n, 2):
        raise ValueError(f"it has {n} points, and other numbers of what belongs to them")
    return {
        **found, "scores": scores, "kept": kept, "fingerprints": fingerprints,
        "dead": {int(w): n for w, n in about["dead"].items()}, "labels": tuple(about["labels"]),
        "tokens": tuple(map(tuple, about["tokens"])), **{name: about[name] for name in _PLAIN},
    }  # fmt: skip


def _folder(where: FeatureIndex | str | os.PathLike, fingerprints: set[str] | None) -> Path:
    """The folder; an index must be of one of the SAEs."""
    if not isinstance(where, FeatureIndex):
        return path_of(where)
    if fingerprints is not None and where.fingerprint not in fingerprints:
        raise InputError(f"The index in {where.path} is of {where.sae_name}, which is not on this map.")
    return where.path
