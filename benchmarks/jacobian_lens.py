"""The Jacobian lens beside the logit lens: whose likeliest token is the model's own, layer by layer, on held-out text.

    python benchmarks/jacobian_lens.py [--model FOLDER] [--prompts 100] [--held-out 60] [--tuned 250]

Without --model it is the embedded one (4 layers), fitted to the first half of its stories and read on the second; with
--model the texts are those of ../shared (--texts names another file). Beside both lenses stands a matrix of noise,
the identity and Gaussian numbers as far from it as the lens's own, and chance. Intervals are 95 %, by resampling
texts; differences are to the logit lens on the same texts. A row of results/ is a layer.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

import one_thread  # noqa: F401  isort: skip

import numpy as np
from common import report

import mlxterp
from mlxterp import InterpretableModel, JacobianLens, TunedLens
from mlxterp.lens import LensComparison, lens_comparison

_TIMED = 2
"""Prompts whose cost is measured, once the lens is there."""
SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--texts", type=Path, default=SHARED / "data" / "text" / "wikitext2_valid.txt")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--held-out", type=int, default=60)
    parser.add_argument("--layers", type=int, nargs="*")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--tuned", type=int, default=0, metavar="STEPS", help="trains a tuned lens, too")
    parser.add_argument("--work", type=Path, help="keeps the lens, to go on with")
    args = parser.parse_args()
    model, texts, name = given(args)
    half = len(texts) // 2
    path = None if args.work is None else args.work / f"{name}.safetensors"
    chosen = "all" if args.layers is None else args.layers
    lens = model.fit_jacobian_lens(
        texts[:half], chosen, args.prompts, path=path, context_length=args.context, save_every=1
    )
    start = time.process_time()
    model.fit_jacobian_lens(texts[:half], chosen, _TIMED, context_length=args.context)
    cost, tuned_cost = (time.process_time() - start) / _TIMED, 0.0
    lenses: dict[str, JacobianLens | TunedLens] = {"jacobian": lens, "noise": noise_like(lens)}
    if args.tuned:
        start = time.process_time()
        lenses["tuned"] = model.train_tuned_lens(texts[:half], args.tuned, held_out=texts[half : half + 2])
        tuned_cost = time.process_time() - start
    found = lens_comparison(
        model, texts[half : half + args.held_out], lenses,
        layers=None if args.layers is None else [*args.layers, model.n_layers - 1], context_length=args.context,
    )  # fmt: skip
    sys.stdout.write(f"{found}\n")
    rows: dict[str, object] = {f"{name}: after layer {n}": row for n, row in rows_of(found).items()}
    rows[f"{name}: processor seconds for each prompt"] = round(cost, 2)
    if args.tuned:
        rows[f"{name}: processor seconds for {args.tuned} steps of the tuned lens"] = round(tuned_cost, 1)
    report(f"jacobian_lens_{name}", rows, notes(model, lens, found, args))


def given(args: argparse.Namespace) -> tuple[InterpretableModel, list[str], str]:
    if args.model is None:
        model, _, stories = mlxterp.load_demo(args.backend)
        return model, list(stories), "demo"
    content = args.texts.read_text(encoding="utf-8")
    ending = "<|endoftext|>" if "<|endoftext|>" in content else "\n"
    texts = [piece.strip() for piece in content.split(ending) if len(piece.strip()) > 400]
    texts = texts[: 2 * max(args.prompts, args.held_out)]
    return InterpretableModel(args.model, backend=args.backend), texts, args.model.name.lower()


def noise_like(lens: JacobianLens) -> JacobianLens:
    """The identity and noise, as far from it as the lens's matrices."""
    draw, made = np.random.default_rng(0), {}
    for layer in lens.layers:
        one = np.eye(lens.d_model)
        noise = draw.standard_normal(one.shape)
        size = np.linalg.norm(lens.jacobians[layer] - one) / np.linalg.norm(noise)
        made[layer] = (one + size * noise).astype(np.float32)
    return JacobianLens(made, lens.target, lens.n_prompts)


def rows_of(found: LensComparison) -> dict[int, dict[str, object]]:
    rows: dict[int, dict[str, object]] = {}
    others = [name for name in found.names if name not in ("logit", "noise")]
    for i, layer in enumerate(found.layers):
        row: dict[str, object] = {}
        for name in found.names:
            row[f"{name} top-1"] = rounded(found.agreement(name)[i])
            row[f"{name} interval"] = [rounded(x) for x in found.interval(name)[i]]
            row[f"{name} KL"] = rounded(found.kl(name)[i])
        for name in others:
            row[f"{name} - logit"] = rounded(found.agreement(name)[i] - found.agreement("logit")[i])
            row[f"{name} - logit interval"] = [rounded(x) for x in found.interval(name, base="logit")[i]]
            row[f"{name} - logit KL interval"] = [
                rounded(x) for x in found.interval(name, "kl", base="logit")[i]
            ]
        row["chance"] = rounded(found.chance[:, i].max())
        rows[layer] = row
    return rows


def rounded(value: float) -> float:
    return round(float(value), 3)


def notes(
    model: InterpretableModel, lens: JacobianLens, found: LensComparison, args: argparse.Namespace
) -> list[str]:
    return [
        f"{model!r}",
        f"lens of {lens.n_prompts} prompts of at most {args.context} tokens, last mean change {lens.mean_change:.4f}",
        f"read on {int(found.tokens.sum())} tokens of {len(found.tokens)} other texts; intervals 95 %, by resampling"
        " texts",
        "noise: the identity and Gaussian numbers as far from it as the lens; chance: likeliest tokens dealt out anew",
    ]


if __name__ == "__main__":
    warnings.filterwarnings("ignore", ".*too few to trust")
    sys.exit(main())
