"""A run's folder: its checkpoint and its history, each written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..errors import SAEError
from ..whole import written_whole

CHECKPOINT = "checkpoint.safetensors"
HISTORY = "training_history.json"
_FACTS = "run"


class RunFolder:
    """The folder of one run.

    Raises:
        SAEError: It cannot be made.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path).expanduser().resolve()
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
        metadata = {_FACTS: json.dumps(facts)}
        self._replace(CHECKPOINT, lambda draft: save_file(arrays, draft, metadata=metadata))

    def checkpoint(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Arrays and facts of the last checkpoint; None where there is none.

        Raises:
            SAEError: It cannot be read.
        """
        path = self.path / CHECKPOINT
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                facts = json.loads(file.metadata()[_FACTS])
                return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise SAEError(
                f"{path} is no checkpoint of a run, or it is damaged: {error}. Remove it to start over."
            ) from error

    def write_history(self, history: Mapping[str, Any]) -> None:
        """Replaces `training_history.json`.

        Raises:
            SAEError: The disk is full or read-only; the history that was there stays.
        """
        text = json.dumps(history, indent=1) + "\n"
        self._replace(HISTORY, lambda draft: draft.write_text(text, encoding="utf-8"))

    def history(self) -> dict[str, Any] | None:
        """What `write_history` wrote last; None where there is none.

        Raises:
            SAEError: It cannot be read.
        """
        path = self.path / HISTORY
        if not path.exists():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SAEError(f"{path} cannot be read: {error}. Remove it to start over.") from error
        if not isinstance(found, dict):
            raise SAEError(f"{path} is no history of a run. Remove it to start over.")
        return found

    def clear_checkpoint(self) -> None:
        """The run is over: nothing needs to go on."""
        (self.path / CHECKPOINT).unlink(missing_ok=True)

    def _replace(self, name: str, write: Any) -> None:
        try:
            with written_whole(self.path / name) as draft:
                write(draft)
        except (OSError, SafetensorError) as error:
            raise SAEError(
                f"{self.path / name} cannot be written: {error}. What was there before is still there; make room,"
                " or choose another folder, then go on with resume=True."
            ) from error
