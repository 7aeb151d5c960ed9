"""A run's folder: its checkpoint and its history, each written whole or not at all, with a digest of its contents."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..activations.local_store import HISTORY, read_history
from ..core.digests import DIGEST, digest_of_arrays, sealed
from ..core.files import atomic_write, strict_json
from ..core.places import path_of
from ..core.tensor_files import check_safetensors
from ..errors import SAEError, warn

CHECKPOINT = "checkpoint.safetensors"
_FACTS = "run"
_STAYS = (
    "What was there before is still there; make room, or choose another folder, then go on with resume=True."
)


class RunFolder:
    """The folder of one run.

    Raises:
        SAEError: It cannot be made.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = path_of(path).resolve()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SAEError(f"No run can be kept in {self.path}: {error}. Choose another folder.") from error

    def write_checkpoint(self, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Replaces the checkpoint.

        Raises:
            SAEError: The disk is full or read-only; the checkpoint that was there stays.
        """
        arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        said = json.dumps(facts)
        metadata = {_FACTS: said, DIGEST: digest_of_arrays(arrays, said)}
        self._replace(CHECKPOINT, lambda draft: save_file(arrays, draft, metadata=metadata))

    def checkpoint(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Arrays and facts of the last checkpoint; None where there is none.

        Raises:
            SAEError: It cannot be read, or is not as it was written.
        """
        path = self.path / CHECKPOINT
        if not path.exists():
            return None
        try:
            check_safetensors(path)
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                said = metadata[_FACTS]
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if DIGEST in metadata and metadata[DIGEST] != digest_of_arrays(arrays, said):
                raise ValueError("its digest is not that of its contents")
            facts = strict_json(said)
            if not isinstance(facts, dict):
                raise ValueError("it does not say which run it is of")
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise self.damaged(error) from error
        if DIGEST not in metadata:
            warn(
                f"{path} was written by mlxterp 0.1.0, without a digest, so damage to it would not be seen. The next"
                " checkpoint has one."
            )
        return arrays, facts

    def damaged(self, why: object) -> SAEError:
        """The error for a checkpoint from which no run can go on."""
        return SAEError(
            f"{self.path / CHECKPOINT} is no checkpoint of a run, or it is damaged: {why}. Remove it to start over."
        )

    def write_history(self, history: Mapping[str, Any]) -> None:
        """Replaces `training_history.json`.

        Raises:
            SAEError: The disk is full or read-only; the history that was there stays.
        """
        text = json.dumps(sealed(history), indent=1) + "\n"
        self._replace(HISTORY, lambda draft: draft.write_text(text, encoding="utf-8"))

    def history(self) -> dict[str, Any] | None:
        """What `write_history` wrote last; None where there is none.

        Raises:
            SAEError: It cannot be read.
        """
        return read_history(self.path)

    def clear_checkpoint(self) -> None:
        """The run is over: nothing needs to go on."""
        (self.path / CHECKPOINT).unlink(missing_ok=True)

    def _replace(self, name: str, write: Any) -> None:
        with atomic_write(self.path / name, error=SAEError, remedy=_STAYS) as draft:
            write(draft)
