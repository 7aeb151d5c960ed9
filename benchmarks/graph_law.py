"""Measures the law that attribution graphs rest on, on a small random model of every architecture of mlx-lm.

    python benchmarks/graph_law.py [model types]

For each: sources, constants that are held, how far the frozen forward pass is from the plain one (a final soft cap is
left out of it on purpose), and by how much the worst row breaks the law. Below 1e-4 it holds. With the folder `shared`
beside the checkout all architectures are measured, else those in `tests/more_architectures.json`.
"""

from __future__ import annotations

import argparse
import gc
import sys

from mlxterp import InterpretableModel
from mlxterp.circuits.sweep import law_of
from tests.architectures import build, configs, model_types
from tests.batches import ONE_TOKEN_ONLY

HOLDS = 1e-4


def main() -> None:
    """Prints a line for each architecture, then how many obey."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", help="model types; all without any")
    names = parser.parse_args().types or model_types()
    broken = []
    for name in names:
        found = law_of(InterpretableModel(build(name)), [7] if name in ONE_TOKEN_ONLY else None)
        cause = getattr(found, "cause", "")
        sys.stdout.write(
            f"{name:22} sources {found.sources:3}  held {found.held:4}  forward {found.forward:.0e}"
            f"  law {found.law:.0e}  {cause}\n"
        )
        sys.stdout.flush()
        if not found.law < HOLDS:
            broken.append(name)
        gc.collect()
    sys.stdout.write(
        f"{len(names) - len(broken)} of {len(names)} hold to {HOLDS:g}; not: {', '.join(broken)}\n"
    )
    sys.stdout.write(f"{len(configs())} architectures are known, {len(model_types())} run on a CPU\n")


if __name__ == "__main__":
    main()
