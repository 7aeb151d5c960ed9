"""The tuned lens beside the logit lens on held-out text: KL to the final distribution, layer by layer, and its cost.

    python benchmarks/tuned_lens.py [demo 3m smollm2] --work FOLDER [--smollm2 FOLDER]

`demo` is the embedded model, `3m` tinystories_instruct_3m_gpt2 of ../shared, both on stories; `smollm2` is
SmolLM2-135M-Instruct, made by ../shared/tools/fetch_smollm2.py, on wikitext. Two controls stand beside each lens: its
own maps one layer off, and one distribution for all tokens, the mean of the final ones on the texts it was trained on.
Differences are to the logit lens on the same tokens; intervals are 95 %, by resampling texts.

A training goes on where it was interrupted, and what was measured of a model is kept in --work and reported with the
others; remove the files of a model there to measure it again. Seconds are those of one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import one_thread  # noqa: F401  isort: skip

import numpy as np
from common import report

import mlxterp
from mlxterp import InterpretableModel, TunedLens
from mlxterp.lens import LensComparison, lens_comparison

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
THREE_M = "tinystories_instruct_3m_gpt2"
HELD_OUT = 20
"""Texts that are read; fewer by larger models."""


@dataclass(frozen=True)
class Case:
    """A model with its texts and the length of its training."""

    model: InterpretableModel
    training: list[str]
    held_out: list[str]
    steps: int
    context: int = 128
    """Tokens of a text, at most."""
    batch_tokens: int = 256
    upper_half: bool = False
    """Whether only the upper half of the layers is read (all are trained)."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=["demo", "3m"], help="of: demo, 3m, smollm2")
    parser.add_argument("--work", type=Path, required=True, help="keeps trainings and figures")
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--backend", default="torch")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for name in args.models:
        kept = args.work / f"{name}.json"
        if not kept.exists():
            kept.write_text(json.dumps(measured(name, given(name, args), args.work)), encoding="utf-8")
    rows: dict[str, Any] = {}
    for name in ("demo", "3m", "smollm2"):
        if (kept := args.work / f"{name}.json").exists():
            rows |= json.loads(kept.read_text(encoding="utf-8"))
    notes = [
        "KL(final ‖ lens) in nats on held-out texts; 'tuned - logit' with its 95 % interval, by resampling texts",
        "one layer off: the lens's maps, each read one layer later; no stream: one distribution for all tokens",
        "texts of at most 128 tokens, without the first (smollm2: 48 tokens, and the upper half of the layers)",
        f"{args.backend}, one thread",
    ]
    report("tuned_lens", rows, notes)


def given(name: str, args: argparse.Namespace) -> Case:
    if name == "demo":
        model, _, stories = mlxterp.load_demo(args.backend)
        half = len(stories) // 2
        return Case(model, stories[:half], stories[half : half + HELD_OUT], 250)
    if name == "3m":
        model = InterpretableModel(SHARED / "data" / "models" / THREE_M, backend=args.backend)
        stories = pieces(SHARED / "data" / "text" / "tinystories.txt", "<|endoftext|>")
        return Case(model, stories[:400], stories[-12:], 200, batch_tokens=128)
    if name != "smollm2" or args.smollm2 is None:
        sys.exit(f"There is no {name!r}: name demo, 3m, or smollm2 with --smollm2 FOLDER.")
    model = InterpretableModel(args.smollm2, backend=args.backend)
    texts = pieces(SHARED / "data" / "text" / "wikitext2_valid.txt", "\n")
    return Case(model, texts[:100], texts[-5:], 24, context=48, batch_tokens=32, upper_half=True)


def pieces(path: Path, ending: str) -> list[str]:
    content = path.read_text(encoding="utf-8")
    return [piece.strip() for piece in content.split(ending) if len(piece.strip()) > 400]


def measured(name: str, case: Case, work: Path) -> dict[str, Any]:
    clock = Clock(work / f"{name}.seconds")
    lens = case.model.train_tuned_lens(
        case.training, case.steps, held_out=[case.held_out[0][:100]], checkpoint=work / f"{name}.safetensors",
        max_seq_len=case.context, batch_tokens=case.batch_tokens, callback=clock,
    )  # fmt: skip
    layers = range(case.model.n_layers // 2 if case.upper_half else 0, case.model.n_layers - 1)
    found = lens_comparison(
        case.model, case.held_out, {"tuned": lens, "one layer off": one_off(lens)}, layers=layers,
        context_length=case.context,
    )  # fmt: skip
    sys.stdout.write(f"{found}\n")
    difference = found.interval("tuned", "kl", base="logit")
    rows: dict[str, Any] = {
        f"{name}: model": repr(case.model),
        f"{name}: trained": f"{case.steps} steps, {lens.metadata['tokens']} tokens",
        f"{name}: processor seconds of the training": round(clock.seconds, 1),
        f"{name}: read on": f"{int(found.tokens.sum())} tokens of {len(found.tokens)} held-out texts",
        f"{name}: KL, no stream": rounded(without_stream(case)),
        f"{name}: layers below the logit lens with their whole interval": (
            f"{int((difference[:, 1] < 0).sum())} of {len(found.layers)}"
        ),
    }
    return rows | {f"{name}: after layer {n}": row_of(found, i) for i, n in enumerate(found.layers)}


def row_of(found: LensComparison, i: int) -> dict[str, Any]:
    low, high = found.interval("tuned", "kl", base="logit")[i]
    return {
        **{f"{name} KL": rounded(found.kl(name)[i]) for name in found.names},
        "tuned - logit": rounded(found.kl("tuned")[i] - found.kl("logit")[i]),
        "interval": [rounded(low), rounded(high)],
        **{f"{name} top-1": rounded(found.agreement(name)[i]) for name in found.names},
    }


def one_off(lens: TunedLens) -> TunedLens:
    """Each layer's map read one layer later; the first layer gets that of the last but one."""
    order = [lens.num_layers - 2, *range(lens.num_layers - 2), lens.num_layers - 1]
    return TunedLens(
        lens.num_layers, lens.hidden_dim, weights=lens.weights[order], biases=lens.biases[order],
        metadata=lens.metadata, session=lens.session,
    )  # fmt: skip


def without_stream(case: Case) -> float:
    """KL of the final distributions to one for all tokens, their mean on training texts."""
    mean, count = 0.0, 0
    for text in case.training[:HELD_OUT]:
        probabilities = final(case, text)
        mean, count = mean + probabilities.sum(axis=0), count + len(probabilities)
    log_mean, total, tokens = np.log(np.maximum(mean / count, 1e-12)), 0.0, 0
    for text in case.held_out:
        probabilities = final(case, text)
        total += float((probabilities * (np.log(np.maximum(probabilities, 1e-30)) - log_mean)).sum())
        tokens += len(probabilities)
    return total / tokens


def final(case: Case, text: str) -> np.ndarray:
    """float64, (tokens, vocabulary): next-token probabilities after each token but the first."""
    model = case.model
    logits = model(model.tokenize(text)[: case.context])
    logits = model.language_model.backend.get(logits).astype(np.float64)[0, 1:]
    likely = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return likely / likely.sum(axis=-1, keepdims=True)


class Clock:
    """Processor seconds of a training, kept over interruptions: written down after each step."""

    def __init__(self, path: Path):
        self._path = path
        self.seconds = float(path.read_text()) if path.exists() else 0.0
        self._last = time.process_time()

    def __call__(self, _step: int, _loss: float) -> None:
        now = time.process_time()
        self.seconds, self._last = self.seconds + now - self._last, now
        self._path.write_text(f"{self.seconds:.2f}")


def rounded(value: float) -> float:
    return round(float(value), 3)


if __name__ == "__main__":
    sys.exit(main())
