"""What benchmarks share: interleaved timing in one process, a line about the machine, JSON out."""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(os.environ.get("MLXTERP_RESULTS") or Path(__file__).parent / "results")
"""Where figures are kept; `MLXTERP_RESULTS` names another folder."""


def rounds_asked_for(description: str | None, default: int) -> int:
    """`--rounds` of the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=default)
    return parser.parse_args().rounds


def interleaved(
    jobs: dict[str, Callable[[], Any]],
    rounds: int,
    warm_up: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each job in each round; jobs take turns in changing order, so that noise hits them all.

    Args:
        clock: `time.process_time` counts processor time, of all threads: for long jobs on a machine that others
            use too.
    """
    order = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in jobs}
    gc.collect()
    gc.freeze()  # what is there already need not be looked through again
    for round_number in range(warm_up + rounds):
        gc.collect()
        gc.disable()
        for name in order.sample(list(jobs), len(jobs)):
            job = jobs[name]
            start = clock()
            job()
            seconds = clock() - start
            if round_number >= warm_up:
                times[name].append(seconds)
        gc.enable()
    gc.unfreeze()
    return times


def ratio(times: dict[str, list[float]], job: str, base: str) -> float:
    """Median over rounds of one job's time to another's in the same round."""
    return statistics.median(a / b for a, b in zip(times[job], times[base], strict=True))


def ratio_with_noise(times: dict[str, list[float]], job: str, base: str) -> dict[str, Any]:
    """As `ratio`, with the interval that holds it in 95 % of draws of the rounds again: a row of a results file."""
    found = [a / b for a, b in zip(times[job], times[base], strict=True)]
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(found, k=len(found))) for _ in range(1000))
    return {"value": statistics.median(found), "interval": [medians[25], medians[974]]}


def peak_memory(job: Callable[[], Any]) -> float | None:
    """MiB that a job needed at its peak beyond what the process held before; None where Linux does not tell."""
    high_water = Path("/proc/self/clear_refs")
    if not high_water.exists():
        return None
    if "mlx.core" in sys.modules:
        sys.modules["mlx.core"].clear_cache()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(
        0
    )  # what was freed goes back to the system, or the job would find it there
    high_water.write_text("5")  # the mark starts again
    before = _memory("VmRSS")
    job()
    return (_memory("VmHWM") - before) / 1024


def _memory(name: str) -> int:
    """KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise LookupError(name)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    versions = {}
    for package in (
        "mlxterp",
        "mlx",
        "mlx-lm",
        "torch",
        "transformers",
        "nnsight",
        "mlx-lens",
        "numpy",
        "sae-lens",
        "eai-sparsify",
        "polars",
        "duckdb",
        "sae-vis",
        "sae-dashboard",
        "mi-crow",
        "eai-delphi",
        "transformer-lens",
        "umap-learn",
        "pynndescent",
        "scikit-learn",
    ):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def processor() -> str:
    """Its name; "" where the system does not tell."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def command(given: Sequence[str]) -> str:
    """How the script was called, without where things lie on this machine: FOLDER stands for paths."""
    script, *rest = given
    kept = ["FOLDER" if os.sep in one or Path(one).exists() else one for one in rest]
    return " ".join(["python", f"benchmarks/{Path(script).name}", *kept])


def results_path(name: str) -> Path:
    """Where a benchmark's figures on this kind of machine are kept."""
    return RESULTS / f"{name}-{platform.system().lower()}-{platform.machine()}.json"


def report(name: str, rows: dict[str, Any], notes: list[str]) -> None:
    """Prints the rows and writes them with the machine's description to `results/`."""
    width = max(len(row) for row in rows)
    for row, value in rows.items():
        shown = f"{value:.3f}" if isinstance(value, float) else str(value)
        sys.stdout.write(f"{row:<{width}}  {shown}\n")
    for note in notes:
        sys.stdout.write(f"({note})\n")
    content = {
        "benchmark": name, "date": datetime.now(UTC).date().isoformat(), "command": command(sys.argv),
        "machine": machine(), "rows": rows, "notes": notes,
    }  # fmt: skip
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = results_path(name)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    here = Path(__file__).parent.parent
    sys.stdout.write(f"written to {path.relative_to(here) if path.is_relative_to(here) else path}\n")
