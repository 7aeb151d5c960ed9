"""Induction heads of SmolLM2-135M-Instruct: which score highest, and whether the model needs them.

    pip install ".[cpu]" && python benchmarks/heads.py --smollm2 FOLDER [--parts scores effect]

FOLDER is made by ../shared/tools/fetch_smollm2.py. 20 random ordinary tokens are said twice, 20 draws, beside the same
tokens with the second repetition shuffled (`attention.head_scores`). The five heads of highest induction score are then
ablated by their mean, and the loss on the second repetition of 20 other draws is compared with that of the model as it
is and with 20 sets of five random heads, as many of each layer (`attention.head_effect`). Who is ablated was decided on
other tokens than those that the loss is of. The same for the model that comes with the package. Shuffling leaves
positions as they are, so previous-token scores stand beside attention to all tokens alike.

Rows of a part or model that is not asked for stay in results/ as they are: ablating takes most of the time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import one_thread  # noqa: F401  isort: skip  (before all that computes)
import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

from common import report, results_path

from mlxterp import attention

SEED, EFFECT_SEED, HEADS, TOKENS = 0, 1000, 5, 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--parts", nargs="*", choices=("scores", "effect"), default=["scores", "effect"])
    parser.add_argument("--backend", choices=("mlx", "torch"), default="mlx")
    args = parser.parse_args()
    path = results_path("heads")
    rows: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else {}
    rows |= measured("demo", mlxterp.load_demo(args.backend)[0], args.parts)
    if args.smollm2:
        model = mlxterp.InterpretableModel(str(args.smollm2), backend=args.backend)
        rows |= measured("SmolLM2", model, args.parts)
    notes = [
        "intervals: 95 %, bootstrap over 20 draws; control: 20 draws of shuffled tokens, attention to all tokens alike"
        " (previous token), or 20 sets of random heads",
        "effect: nats for each token of the second repetition, from its second token on",
    ]
    report("heads", rows, notes)


def measured(name: str, model: mlxterp.InterpretableModel, parts: Sequence[str]) -> dict[str, Any]:
    scores = attention.head_scores(model, n_random_tokens=TOKENS, seed=SEED)
    rows = scored(name, scores) if "scores" in parts else {}
    return rows | (affected(name, model, scores) if "effect" in parts else {})


def scored(name: str, scores: attention.HeadScores) -> dict[str, Any]:
    rows: dict[str, Any] = {f"{name}: heads": len(scores.heads)}
    for head in scores.top("induction", HEADS):
        rows[f"{name}: induction {head.name}"] = str(scores.of(head.layer, head.head, "induction"))
    for head in scores.top("previous_token", 3):
        rows[f"{name}: previous token {head.name}"] = str(scores.of(head.layer, head.head, "previous_token"))
    for kind, heads in scores.types().items():
        rows[f"{name}: above 0.4 and above the control, {kind}"] = len(heads)
    return rows


def affected(name: str, model: mlxterp.InterpretableModel, scores: attention.HeadScores) -> dict[str, Any]:
    top = scores.top("induction", HEADS)
    effect = attention.head_effect(model, top, n_random_tokens=TOKENS, seed=EFFECT_SEED)
    low, high = effect.above_interval
    return {
        f"{name}: loss on the second repetition": round(effect.loss, 3),
        f"{name}: without the five heads": round(effect.ablated, 3),
        f"{name}: effect": str(effect.effect),
        f"{name}: above random heads": f"{effect.above:+.3f} [{low:+.3f}, {high:+.3f}]",
    }


if __name__ == "__main__":
    main()
