"""`LocalStore`: the folder that a project's activations, runs and SAEs lie in."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from ..core.digests import DIGEST, check_seal
from ..core.files import strict_json
from ..core.options import checks_options
from ..core.places import path_of
from ..core.public_names import PublicNames
from ..errors import InputError, SAEError
from .store import ActivationStore

HISTORY = "training_history.json"


@checks_options
class LocalStore(PublicNames):
    """Where a project's activations, runs and SAEs lie: `activations/`, `runs/` and `sae_models/` in one folder."""

    def __init__(self, base_path: str | os.PathLike = "./store"):
        self.base_path = path_of(base_path)

    def activations_path(self, run_id: str) -> Path:
        """For `collect_activations(…, path=…)`."""
        return self._below("activations", run_id)

    def run_path(self, run_id: str) -> Path:
        """For `train_sae(…, run_dir=…)`: checkpoints and `training_history.json`."""
        return self._below("runs", run_id)

    def sae_path(self, sae_id: str) -> Path:
        """For `train_sae(…, save_path=…)` and `SAE.load`."""
        return self._below("sae_models", sae_id)

    def activations(self, run_id: str) -> ActivationStore:
        """Opens a store of activations.

        Raises:
            SAEError: There is none.
        """
        return ActivationStore.open(self.activations_path(run_id))

    def history(self, run_id: str) -> dict[str, Any]:
        """`training_history.json` of a run.

        Raises:
            SAEError: There is none, or it is damaged.
        """
        found = read_history(self.run_path(run_id))
        if found is None:
            raise SAEError(
                f"There is no run {run_id!r} in {self.base_path}. There are: {', '.join(self.runs())}."
            )
        return found

    def runs(self) -> list[str]:
        """Ids of the runs."""
        return self._names("runs")

    def saes(self) -> list[str]:
        """Ids of the SAEs."""
        return self._names("sae_models")

    def collections(self) -> list[str]:
        """Ids of the stores of activations."""
        return self._names("activations")

    def _names(self, room: str) -> list[str]:
        folder = self.base_path / room
        return (
            sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
            if folder.is_dir()
            else []
        )

    def _below(self, room: str, name: str) -> Path:
        if not isinstance(name, str) or not re.fullmatch(r"[\w][\w.\- ]*", name):
            raise InputError(f"{name!r} cannot name a folder. Use letters, digits, '.', '-' and '_'.")
        return self.base_path / room / name


def read_history(run: Path) -> dict[str, Any] | None:
    """`training_history.json` in the folder of a run; None where there is none.

    Raises:
        SAEError: It is damaged, or something else.
    """
    path = run / HISTORY
    if not path.exists():
        return None
    try:
        found = strict_json(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("it is no history of a run")
        check_seal(found)
    except (OSError, ValueError) as error:
        raise SAEError(f"{path} cannot be read: {error}. Remove it to start over.") from error
    return {key: value for key, value in found.items() if key != DIGEST}
