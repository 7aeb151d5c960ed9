"""The synthetic task on which trainers are compared: where it is, its data, and what a run took.

`../shared/bench/toy_task.py` makes activations from known features, so that what an SAE found can be
checked against what is there. Needs NumPy only; `train.py` and `train_peers.py` use it.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from common import peak_memory

D_HIDDEN, K, BATCH = 1024, 12, 1024
TOKENS = 1_000_000
TASK = Path(__file__).resolve().parents[2] / "shared" / "bench" / "toy_task.py"


def task_at(path: Path) -> ModuleType:
    """The task's module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.exists():
        raise SystemExit(f"No task at {path}. Say where toy_task.py is with --task.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def mapped(path: str | Path) -> np.ndarray:
    """float32, (n, d_model), mapped from a file; its pages are mapped before, so that no run pays for them."""
    x = np.load(path, mmap_mode="r")
    np.asarray(x[:: max(1, 4096 // x[0].nbytes), 0]).sum()
    return x


def measured(train: Callable[[], Any], tokens: int) -> dict[str, Any]:
    """Trains; what it took."""
    took: dict[str, Any] = {}

    def timed() -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        train()
        took["seconds"] = time.perf_counter() - wall
        took["cpu_seconds"] = time.process_time() - cpu

    peak = peak_memory(timed)
    if peak is None:
        timed()
    return took | {"tokens_per_cpu_second": tokens / took["cpu_seconds"], "peak_mib": peak}
