"""Measures the law that attribution graphs rest on, on a small random model of every architecture of mlx-lm.

    python benchmarks/graph_law.py [model types] [--weights float32 bfloat16 4bit] [--minutes 5]
    python benchmarks/graph_law.py --table

For each: sources, constants that are held, how far the frozen forward pass is from the plain one (a final soft cap is
left out of it on purpose), and by how much the worst row breaks the law. Below 1e-4 it holds. With the folder `shared`
beside the checkout all architectures are measured, else those in `tests/more_architectures.json`. What is measured is
at once a line of `results/graph_law-cells.jsonl`, and is not measured again: the same command goes on where it was
stopped. `--table` writes the results.

With 4 bits every linear layer and embedding whose width allows it is quantised (groups of 32).
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from typing import Any

import one_thread  # noqa: F401  isort: skip  (before all that computes)
import mlxterp  # noqa: F401  isort: skip  (it brings MLX an optimised BLAS)
import mlx.core as mx
from common import RESULTS, report
from mlx import nn

from mlxterp import InterpretableModel
from mlxterp.circuits.sweep import law_of
from tests.architectures import build, configs, model_types
from tests.batches import ONE_TOKEN_ONLY
from tests.conftest import SHARED

HOLDS = 1e-4
WEIGHTS = ("float32", "bfloat16", "4bit")
CELLS = RESULTS / "graph_law-cells.jsonl"


def main() -> None:
    """Prints a line for each architecture, then how many obey."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("types", nargs="*", help="model types; all without any")
    parser.add_argument("--weights", nargs="+", choices=WEIGHTS, default=["float32"])
    parser.add_argument("--minutes", type=float, help="stop after so long")
    parser.add_argument("--again", action="store_true", help="measure those that were measured before, too")
    parser.add_argument("--table", action="store_true", help="write the results of what was measured")
    args = parser.parse_args()
    if args.table:
        table()
        return
    until = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")
    known = {} if args.again else cells()
    for weights in args.weights:
        for name in args.types or model_types():
            if (name, weights) in known:
                continue
            if time.monotonic() > until:
                sys.stdout.write("The same command goes on.\n")
                return
            keep(measured(name, weights))
            gc.collect()
    table()


def measured(name: str, weights: str) -> dict[str, Any]:
    """One architecture."""
    raw = build(name)
    if weights == "bfloat16":
        raw.set_dtype(mx.bfloat16)
    elif weights == "4bit":
        nn.quantize(raw, group_size=32, bits=4, class_predicate=_fits)
    found = law_of(InterpretableModel(raw), [7] if name in ONE_TOKEN_ONLY else None)
    return {
        "type": name, "weights": weights, "law": found.law, "forward": found.forward, "sources": found.sources,
        "held": found.held, "cause": getattr(found, "cause", ""),
    }  # fmt: skip


def _fits(_: str, module: Any) -> bool:
    return hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0


def keep(cell: dict[str, Any]) -> None:
    """Prints a cell and writes it down."""
    sys.stdout.write(
        f"{cell['type']:22} {cell['weights']:8} sources {cell['sources']:3}  held {cell['held']:4}"
        f"  forward {cell['forward']:.0e}  law {cell['law']:.0e}  {cell['cause']}\n"
    )
    sys.stdout.flush()
    with CELLS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(cell) + "\n")


def cells() -> dict[tuple[str, str], dict[str, Any]]:
    """What was measured, the last of each."""
    if not CELLS.exists():
        return {}
    found = [json.loads(line) for line in CELLS.read_text(encoding="utf-8").splitlines()]
    return {(cell["type"], cell["weights"]): cell for cell in found}


def table() -> None:
    """Writes how many hold, the worst of those, and the others with their cause."""
    rows: dict[str, Any] = {}
    known = cells()
    listed = SHARED / "conformance" / "architectures.json"
    shared = set(json.loads(listed.read_text(encoding="utf-8"))) if listed.is_file() else set()
    for weights in WEIGHTS:
        these = {name: cell for (name, kind), cell in known.items() if kind == weights}
        if not these:
            continue
        holding = [cell["law"] for cell in these.values() if cell["law"] < HOLDS]
        rows[f"{weights}: measured"] = len(these)
        rows[f"{weights}: hold to {HOLDS:g}"] = len(holding)
        of_shared = [cell["law"] < HOLDS for name, cell in these.items() if name in shared]
        rows[f"{weights}: of the shared list, measured and holding"] = f"{len(of_shared)}, {sum(of_shared)}"
        rows[f"{weights}: worst that holds"] = f"{max(holding, default=0.0):.1e}"
        rows[f"{weights}: median of those that hold"] = (
            f"{sorted(holding)[len(holding) // 2]:.1e}" if holding else "-"
        )
        for name, cell in sorted(these.items()):
            if not cell["law"] < HOLDS:
                rows[f"{weights}: {name}"] = cell["cause"] or f"law {cell['law']:.1e}"
    notes = [f"{len(configs())} architectures are known, {len(model_types())} run on a CPU"]
    report("graph_law", rows, notes)


if __name__ == "__main__":
    main()
