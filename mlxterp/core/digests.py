"""Digests that bind the files of an artefact to its main file, and a main file to its own contents.

An artefact of several files (an index, a store of activations, a saved SAE) has one main file of JSON. It holds the
sha256 of every other file, and under `DIGEST` that of its own contents, so that a damaged, exchanged or edited file
is found when it is first used. Artefacts of mlxterp 0.1.0 have no digests; they are read with a warning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

DIGEST = "digest"
"""Key of a main file's own digest."""
EDITED = f"If it was changed on purpose, remove its {DIGEST!r}: it is then read with a warning."


def sealed(described: Mapping[str, Any]) -> dict[str, Any]:
    """What a main file says, with the digest of it."""
    described = json.loads(json.dumps(described))  # as it will be read: tuples are lists, keys are strings
    return {**described, DIGEST: digest_of(described)}


def check_seal(described: Mapping[str, Any]) -> bool:
    """Whether a main file has a digest of its contents; False for one of mlxterp 0.1.0.

    Raises:
        ValueError: The digest is another one: the file is damaged, or was edited.
    """
    said = described.get(DIGEST)
    if said is None and DIGEST not in described:
        return False
    if said != digest_of(described):
        raise ValueError(f"its digest is not that of its contents, so it was damaged or edited. {EDITED}")
    return True


def digest_of(described: Mapping[str, Any]) -> str:
    """sha256 of what a JSON object says, but for its digest; white space and the order of keys do not count."""
    kept = {key: value for key, value in described.items() if key != DIGEST}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return digest_of_bytes(text.encode())


def digest_of_bytes(data: bytes | memoryview) -> str:
    """sha256 of what a file holds, or will hold."""
    return hashlib.sha256(data).hexdigest()


def digest_of_file(path: Path) -> str:
    """sha256 of a file, read in pieces.

    Raises:
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_arrays(arrays: Mapping[str, np.ndarray], *texts: str) -> str:
    """sha256 of named arrays (names, types, shapes and numbers) and of texts beside them."""
    found = hashlib.sha256()
    for text in (*texts, *(f"{n} {a.dtype.str} {a.shape}" for n, a in sorted(arrays.items()))):
        found.update(len(data := text.encode()).to_bytes(8, "little") + data)
    for _, array in sorted(arrays.items()):
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def same_file(path: Path, digest: str) -> None:
    """Compares a file with its digest.

    Raises:
        ValueError: It is another one.
        OSError: It cannot be read.
    """
    if digest_of_file(path) != digest:
        raise ValueError("its sha256 is not the one that was written down: it is damaged, or another file")
