"""Induction heads of SmolLM2-135M-Instruct: which score highest, and whether the model needs them.

    pip install ".[cpu]" && python benchmarks/heads.py --smollm2 FOLDER

FOLDER is made by ../shared/tools/fetch_smollm2.py. 20 random ordinary tokens are said twice, 20 draws, beside the same
tokens with the second repetition shuffled (`attention.head_scores`). The five heads of highest induction score are then
ablated by their mean, and the loss on the second repetition of 20 other draws is compared with that of the model as it
is and with 20 sets of five random heads, as many of each layer (`attention.head_effect`). Who is ablated was decided on
other tokens than those that the loss is of. The same for the model that comes with the package.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import one_thread  # noqa: F401  isort: skip  (before all that computes)
import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

from common import report

from mlxterp import attention

SEED, EFFECT_SEED, HEADS, TOKENS = 0, 1000, 5, 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--backend", choices=("mlx", "torch"), default="mlx")
    args = parser.parse_args()
    rows = measured("demo", mlxterp.load_demo(args.backend)[0])
    if args.smollm2:
        rows |= measured("SmolLM2", mlxterp.InterpretableModel(str(args.smollm2), backend=args.backend))
    notes = [
        "intervals: 95 %, bootstrap over 20 draws; control: 20 draws of shuffled tokens, or 20 sets of random heads",
        "effect: nats for each token of the second repetition, from its second token on",
    ]
    report("heads", rows, notes)


def measured(name: str, model: mlxterp.InterpretableModel) -> dict[str, Any]:
    scores = attention.head_scores(model, n_random_tokens=TOKENS, seed=SEED)
    top = scores.top("induction", HEADS)
    rows: dict[str, Any] = {f"{name}: heads": len(scores.heads)}
    for head in top:
        rows[f"{name}: induction {head.name}"] = str(scores.of(head.layer, head.head, "induction"))
    for head in scores.top("previous_token", 3):
        rows[f"{name}: previous token {head.name}"] = str(scores.of(head.layer, head.head, "previous_token"))
    for kind, heads in scores.types().items():
        rows[f"{name}: above 0.4 and above the control, {kind}"] = len(heads)
    effect = attention.head_effect(model, top, n_random_tokens=TOKENS, seed=EFFECT_SEED)
    low, high = effect.above_interval
    return rows | {
        f"{name}: loss on the second repetition": round(effect.loss, 3),
        f"{name}: without the five heads": round(effect.ablated, 3),
        f"{name}: effect": str(effect.effect),
        f"{name}: above random heads": f"{effect.above:+.3f} [{low:+.3f}, {high:+.3f}]",
    }


if __name__ == "__main__":
    main()
