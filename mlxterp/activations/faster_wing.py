"""A note where torch would run a model's passes faster than MLX: on Linux CPUs that depends on machine and model.

What is compared is one block: of the model as it is, and of a random model of the same kind and widths in torch. That
takes half a second at most, beside loading torch, once for each kind of model on a machine; the times are kept in the
user's cache. Nothing is switched. With the environment variable `MLXTERP_SPEED_NOTE` set to "none" nothing is measured
or said.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..backends import one_block_twin
from ..core.files import atomic_write, strict_json
from ..core.places import cache_folder
from ..core.rows import rows_of
from ..core.tokens import TokenBatch
from ..errors import MlxterpError, warn

VARIABLE = "MLXTERP_SPEED_NOTE"
FASTER = 1.25
"""So many times as fast as MLX torch must be to be named."""
_WIDEST = 2048
"""Of the models that are compared: wider blocks take longer than a note is worth."""
_TEXTS, _LENGTH, _ROUNDS = 4, 64, 5
_SECONDS = 0.3
"""For both libraries' rounds after the first."""
_told: set[str] = set()
_tried: set[str] = set()
"""What was measured in this process, whether or not that came to anything."""


def note_faster_wing(anatomy: Anatomy, source: str | None) -> None:
    """Says, once in a process, that torch would be faster for this model on this machine, where it would.

    Args:
        source: The repo or folder that the model was loaded from; None says nothing, for torch cannot open it.
    """
    if source is None or not _concerned(anatomy):
        return
    key = _key(anatomy)
    times = _kept().get(key)
    if times is None and (tried := f"{key}; {source}") not in _tried:
        _tried.add(tried)
        times = _measured(anatomy, source, key)
    said = None if times is None or key in _told else note(times[0], times[1], source)
    if said is not None:
        _told.add(key)
        warn(said)


def note(mlx_seconds: float, torch_seconds: float, source: str) -> str | None:
    """What is said of the times of one block; None where torch is not clearly faster."""
    faster = mlx_seconds / max(torch_seconds, 1e-9)
    if faster < FASTER:
        return None
    return (
        f"On this machine torch runs a block of this kind of model {faster:.1f} times as fast as MLX:"
        f" InterpretableModel({source!r}, backend='torch') would be through the texts sooner. (Measured once, and kept"
        f" in {_file()}; {VARIABLE}=none says nothing of it.)"
    )


def _concerned(anatomy: Anatomy) -> bool:
    model = anatomy.model
    return (
        sys.platform == "linux"
        and model.backend.name == "mlx"
        and os.environ.get(VARIABLE, "").strip().lower() != "none"
        and not model.described
        and model.d_model <= _WIDEST
        and all(importlib.util.find_spec(package) for package in ("torch", "transformers"))
    )


def _measured(anatomy: Anatomy, source: str, key: str) -> tuple[float, float] | None:
    """Seconds of one block in MLX and in torch, which are kept; None where one of them cannot run it."""
    model = anatomy.model
    try:
        twin = one_block_twin(source)
        if twin is None or twin.d_model != model.d_model:
            return None
        mlx_seconds, torch_seconds = _seconds(anatomy, Anatomy(twin))
    except Exception:  # a model cut down to one block fails in any way, and a note is not worth an error
        return None
    _keep({**_kept(), key: [mlx_seconds, torch_seconds]})
    return mlx_seconds, torch_seconds


def _seconds(*several: Anatomy) -> tuple[float, ...]:
    """For each the shortest run of its first block over a few tokens; they take turns, so that noise hits them all."""
    vocabulary = min(min(anatomy.model.vocab_size for anatomy in several), 200)
    ids = np.random.default_rng(0).integers(0, vocabulary, (_TEXTS, _LENGTH))
    batch, found = TokenBatch.from_rows(ids.tolist()), []
    while len(found) <= _ROUNDS and sum(map(sum, found[1:])) < _SECONDS:
        found.append([_run(anatomy, batch) for anatomy in several])
    return tuple(min(times) for times in zip(*found[1:], strict=True))


def _run(anatomy: Anatomy, batch: TokenBatch) -> float:
    """Seconds of processor time that the first block takes: what else runs on the machine does not count."""
    model, place = anatomy.model, anatomy.component("layers.0.resid_post")
    begin = time.process_time()
    run = model.run(batch, capture=place.sites, stop_after=place.sites)
    model.backend.get(rows_of(place, run, batch.ids.shape))
    return time.process_time() - begin


def _key(anatomy: Anatomy) -> str:
    """What the times are kept under: the kind of model and what runs it."""
    model = anatomy.model
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("mlx", "torch"))
    return f"{model.model_type}, {model.d_model} wide; {versions}; {os.cpu_count()} processors"


def _file() -> Path:
    return cache_folder() / "faster_wing.json"


def _kept() -> dict[str, Any]:
    try:
        found = strict_json(_file().read_bytes())
    except (OSError, ValueError):
        return {}
    fits = isinstance(found, dict) and all(
        isinstance(times, list)
        and len(times) == 2
        and all(isinstance(one, float) and one > 0 for one in times)
        for times in found.values()
    )
    return found if fits else {}


def _keep(times: dict[str, Any]) -> None:
    """Keeps the times; where nothing can be written, they are measured again in the next process."""
    try:
        with atomic_write(_file()) as draft:
            draft.write_text(json.dumps(times, indent=1) + "\n", encoding="utf-8")
    except MlxterpError:
        return
