"""What a run tells while it goes on: a bar, rows of figures, and other programs that want them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BackendError, InputError

Row = dict[str, float]
Log = str | Callable[[Row], Any]
"""Where rows go: "wandb", "tensorboard", or a function of the row."""

ROWS = 200
"""About so many rows are kept of a run."""


class History:
    """Rows of figures, each the mean since the row before.

    Args:
        every: Steps between rows.
        logs: Functions of a row.
    """

    def __init__(self, every: int, logs: Sequence[Callable[[Row], Any]] = ()):
        self.rows: list[Row] = []
        self._every, self._logs = every, logs
        self._sums: Row = {}
        self._steps = 0

    def add(self, step: int, tokens: int, lr: float, figures: Mapping[str, float], last: bool) -> None:
        """One step's figures.

        Args:
            step: Steps taken, this one included.
            tokens: Tokens seen.
            last: Whether it is the run's last step.
        """
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._steps += 1
        if step % self._every and not last:
            return
        means = {name: total / self._steps for name, total in self._sums.items()}
        row: Row = {"step": step, "tokens": tokens, "lr": lr, **means}
        self._sums, self._steps = {}, 0
        self.rows.append(row)
        for log in self._logs:
            log(row)

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {"rows": self.rows, "sums": self._sums, "steps": self._steps}

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave."""
        self.rows, self._sums, self._steps = list(state["rows"]), dict(state["sums"]), int(state["steps"])


def open_logs(log: Log | Sequence[Log] | None, folder: Path | None, name: str) -> list[Callable[[Row], Any]]:
    """Functions of a row, of what was asked for.

    Args:
        folder: The run's, where it has one.
        name: Of the SAE; other programs show its figures under it.

    Raises:
        InputError: Something else was asked for.
        BackendError: Its package is not installed.
    """
    asked = [] if log is None else [log] if isinstance(log, str) or callable(log) else list(log)
    opened = []
    for one in asked:
        if callable(one):
            opened.append(one)
        elif one == "wandb":
            opened.append(_wandb(name))
        elif one == "tensorboard":
            opened.append(_tensorboard(folder, name))
        else:
            raise InputError(f"log={one!r}; there are 'wandb', 'tensorboard', or a function of a row (dict).")
    return opened


def _wandb(sae: str) -> Callable[[Row], Any]:
    wandb = _package("wandb", "wandb")
    run = wandb.run or wandb.init(project="mlxterp")
    return lambda row: run.log({f"{sae}/{name}": value for name, value in row.items()}, step=int(row["step"]))


def _tensorboard(folder: Path | None, sae: str) -> Callable[[Row], Any]:
    package = _package("tensorboardX", "tensorboardX")
    writer = package.SummaryWriter(str((folder or Path("runs")) / "tensorboard"))

    def write(row: Row) -> None:
        for name, value in row.items():
            writer.add_scalar(f"{sae}/{name}", value, int(row["step"]))
        writer.flush()

    return write


def _package(name: str, install: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BackendError(f"log={name!r} needs the package {name}: pip install {install}.") from error
