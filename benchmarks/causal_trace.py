"""Causal tracing of one fact in SmolLM2-135M-Instruct: which states bring " Paris" back.

    pip install ".[cpu]" && python benchmarks/causal_trace.py --smollm2 FOLDER [--backend torch]

FOLDER is made by ../shared/tools/fetch_smollm2.py. "The capital of France is" runs with noise of three standard
deviations on " France", 10 draws, and the clean state of each layer and token is put back: the stream, and what ten
MLPs or ten attentions add. Intervals: 95 %, bootstrap over draws.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import one_thread  # noqa: F401  isort: skip  (before all that computes)
import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

from common import report

from mlxterp.patching import CausalTrace

PROMPT, SUBJECT, TARGET, DRAWS = "The capital of France is", " France", " Paris", 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smollm2", type=Path, required=True, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--backend", choices=("mlx", "torch"), default="mlx")
    parser.add_argument("--picture", type=Path, help="also draw the map of the stream there")
    args = parser.parse_args()
    model = mlxterp.InterpretableModel(str(args.smollm2), backend=args.backend)
    rows: dict[str, Any] = {}
    for kind in ("hidden", "mlp", "attn"):
        found = model.causal_trace(PROMPT, SUBJECT, TARGET, draws=DRAWS, kind=kind)
        rows |= told(kind, found)
        if args.picture and kind == "hidden":
            found.plot(args.picture)
    report(
        "causal_trace", rows, [f"prompt {PROMPT!r}, noise on {SUBJECT!r}, answer {TARGET!r}, {DRAWS} draws"]
    )


def told(kind: str, found: CausalTrace) -> dict[str, Any]:
    low, high = found.low_interval
    clear = found.intervals[..., 0] > 0
    rows: dict[str, Any] = {
        f"{kind}: as it is": round(found.high, 3),
        f"{kind}: with noise": f"{found.low.mean():.3f} [{low:.3f}, {high:.3f}]",
        f"{kind}: places whose whole interval is above 0": f"{int(clear.sum())} of {clear.size}",
    }
    effects, intervals = found.effects, found.intervals
    for position in range(found.subject[0], len(found.tokens)):
        for i in range(0, len(found.layers), 3):
            a, b = intervals[i, position]
            name = f"{kind}: layer {found.layers[i]}, {found.tokens[position]!r}"
            rows[name] = f"{effects[i, position]:+.3f} [{a:+.3f}, {b:+.3f}]"
    return rows


if __name__ == "__main__":
    main()
