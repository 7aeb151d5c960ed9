"""Sixteen prompts continued together against one after the other, plain and steered, and against the libraries' own.

    pip install ".[cpu,torch]" && python benchmarks/generate.py

The models are the embedded one and, with ../shared beside the project, tinystories_instruct_3m_gpt2. Prompts are
beginnings of stories, of 2 to 9 tokens, and a second set of 2 to 60; 48 tokens each, greedy. Steered: one
`add_feature` for all rows; one for each row, of 16 features; a `clamp`, which encodes. Beside them, on the same token
ids: `mlx_lm.batch_generate`, and transformers' `generate` with left padding. One thread,
processor time, jobs in turns within one process. `calibrate` tries three strengths on ten prompts; `--calibrate-only`
prints its time and a digest of its table, to run on two commits.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import one_thread  # noqa: F401  isort: skip  (before all that computes)
import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import numpy as np
from common import interleaved, peak_memory, ratio, report

from mlxterp import SAE, InterpretableModel, steering
from mlxterp.variants import TopK
from mlxterp.weights import SAEWeights

TINY = Path(__file__).resolve().parents[2] / "shared" / "data" / "models" / "tinystories_instruct_3m_gpt2"
TOKENS, PROMPTS, FEATURES = 48, 16, 4096
BEGINNINGS = (
    "Once upon a time, in a", "One morning, Jack", "Tim and Sue", "Lucy was", "There once was a", "Amy wanted to",
    "It was very", "The next day,", "Bob had a", "Emma and her", "Sam did not", "Later,", "One night,", "Jill saw",
    "A long time ago,", "Every day, Leo",
)  # fmt: skip
LONGER = (
    "Lily had a little dog. She liked to play with it in the big park near her house every day after lunch. "
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calibrate-only", action="store_true")
    args = parser.parse_args()
    if args.calibrate_only:
        for wing in mlxterp.available_backends():
            sys.stdout.write(json.dumps({wing: calibrated(wing)}) + "\n")
        return
    rows: dict[str, Any] = {}
    for wing in mlxterp.available_backends():
        models = {"demo": mlxterp.load_demo(wing).model}
        if TINY.is_dir():
            models["3M"] = InterpretableModel(str(TINY), backend=wing)
        for name, model in models.items():
            for kind, prompts in (("short", BEGINNINGS), ("mixed", mixed())):
                found = together(model, prompts, args.rounds, wing, steered=kind == "short")
                rows |= {f"{wing}, {name}, {kind} prompts: {row}": value for row, value in found.items()}
    notes = ["processor time of one thread", "aims: together >= 4 x, against the libraries >= 0.9 x"]
    report("generate", rows, notes)


def mixed() -> list[str]:
    """Prompts of 2 to about 60 tokens."""
    return [LONGER[: 6 * i] + text for i, text in enumerate(BEGINNINGS)]


def together(
    model: InterpretableModel, prompts: Any, rounds: int, wing: str, steered: bool
) -> dict[str, Any]:
    """How many times as fast, and what memory it takes."""
    ids = [model.tokenize(prompt) for prompt in prompts]
    sae = random_sae(model, wing)
    place = str(sae.component)
    edits: dict[str, Any] = {"plain": None}
    if steered:
        edits |= {
            "one edit": steering.add_feature(sae, 5, 1.0),
            "an edit for each": [steering.add_feature(sae, f, 1.0) for f in range(PROMPTS)],
            "clamp": steering.clamp(sae, 5, 1.0, at=place),
        }
    jobs: dict[str, Callable[[], Any]] = {}
    for name, edit in edits.items():
        jobs[f"{name}, together"] = lambda edit=edit: written(model, ids, edit)
        jobs[f"{name}, one by one"] = lambda edit=edit: [
            written(model, [row], edit[i : i + 1] if isinstance(edit, list) else edit)
            for i, row in enumerate(ids)
        ]
    peer, its = (
        (mlx_peer(model, ids), "mlx_lm") if wing == "mlx" else (torch_peer(model, ids), "transformers")
    )
    if peer is not None:
        jobs[its] = peer
    times = interleaved(jobs, rounds, warm_up=1, clock=time.process_time)
    rows: dict[str, Any] = {
        f"{name}: x one by one": ratio(times, f"{name}, one by one", f"{name}, together") for name in edits
    }
    if peer is not None:
        rows[f"plain: x {its}"] = ratio(times, its, "plain, together")
    rows["plain: tokens/s together"] = PROMPTS * TOKENS / statistics.median(times["plain, together"])
    rows["plain: MiB at the peak, together"] = peak_memory(jobs["plain, together"])
    rows["plain: MiB at the peak, one by one"] = peak_memory(jobs["plain, one by one"])
    return rows


def written(model: InterpretableModel, ids: list[list[int]], edit: Any) -> Any:
    """The texts; a single one by itself, as before there were batches."""
    options: dict[str, Any] = {} if edit is None else {"steer": edit}
    return model.generate(ids if len(ids) > 1 else ids[0], TOKENS, **options)


def mlx_peer(model: InterpretableModel, ids: list[list[int]]) -> Callable[[], Any]:
    """`mlx_lm.batch_generate` on the same ids."""
    from mlx_lm import batch_generate

    language_model: Any = model.language_model
    native, tokenizer = language_model.model, model.tokenizer
    return lambda: batch_generate(native, tokenizer, ids, max_tokens=TOKENS)


def torch_peer(model: InterpretableModel, ids: list[list[int]]) -> Callable[[], Any] | None:
    """transformers' `generate` on the same ids, padded on the left."""
    if importlib.util.find_spec("transformers") is None:
        return None
    import torch

    longest = max(map(len, ids))
    padded = torch.tensor([[0] * (longest - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
    language_model: Any = model.language_model
    native = language_model.model

    def run() -> Any:
        with torch.inference_mode():
            return native.generate(
                padded, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0
            )

    return run


def random_sae(model: InterpretableModel, wing: str) -> SAE:
    """Rows of unit length, encoder as decoder, at a middle layer."""
    draw = np.random.default_rng(0)
    W_dec = draw.normal(size=(FEATURES, model.d_model)).astype(np.float32)
    W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    zeros, place = np.zeros, {"component": "layers.2.resid_post"}
    weights = SAEWeights(W_dec.T.copy(), zeros(FEATURES, np.float32), W_dec, zeros(model.d_model, np.float32))
    return SAE(weights, TopK(16), place, backend=wing)


def calibrated(wing: str) -> dict[str, Any]:
    """Seconds of processor time (median of 3) and what came out."""
    demo = mlxterp.load_demo(wing)
    times: list[float] = []
    found: Any = None
    known = signature(steering.calibrate).parameters  # a version before has no receipts
    options: dict[str, Any] = {"receipt": False} if "receipt" in known else {}
    for _ in range(4):
        start = time.process_time()
        found = steering.calibrate(
            demo.model, demo.sae, 5, [0.1, 0.2, 0.4], "norm", concept="ball", verbose=False, **options
        )
        times.append(time.process_time() - start)
    texts = [row.written.texts for row in found.strengths] + [found.unsteered.texts, found.prompting.texts]
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:12]
    return {"seconds": round(statistics.median(times[1:]), 2), "texts": digest, "best": found.best}


if __name__ == "__main__":
    main()
