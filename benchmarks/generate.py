"""Sixteen prompts continued together against one after the other, plain and steered, and against the libraries' own.

    pip install ".[cpu,torch]" && python benchmarks/generate.py [--smollm2 FOLDER]

The models are the embedded one, with ../shared beside the project tinystories_instruct_3m_gpt2, and SmolLM2-135M
(FOLDER is made by ../shared/tools/fetch_smollm2.py; 16 tokens each, and nothing one by one). Prompts are beginnings of
stories, of 2 to 9 tokens, and a second set of 2 to 60; 48 tokens each, greedy. Steered: one `add_feature` for all rows;
one for each row, of 16 features; a `clamp`, which encodes. A third set begins with the same 128 tokens (or what the
model's positions allow), 16 tokens each: read once, against the same call that reads them for every prompt. Beside
them, on the same token ids: `mlx_lm.batch_generate`, and transformers' `generate` with left padding. One thread,
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
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

import one_thread  # noqa: F401  isort: skip  (before all that computes)
import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import numpy as np
from common import interleaved, peak_memory, ratio, report, results_path

from mlxterp import SAE, InterpretableModel, steering
from mlxterp.variants import TopK
from mlxterp.weights import SAEWeights

TINY = Path(__file__).resolve().parents[2] / "shared" / "data" / "models" / "tinystories_instruct_3m_gpt2"
TOKENS, PROMPTS, FEATURES = 48, 16, 4096
FEW_TOKENS = 16
"""Of a large model."""
SETS = ("short", "mixed", "beginning")
MODELS = ("demo", "3M", "SmolLM2-135M")
BEGINNING = 128
"""Tokens that prompts of the third set share."""
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
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--wing", nargs="*", help="only these array libraries; other rows stay")
    parser.add_argument("--models", nargs="*", choices=MODELS, help="only these models")
    parser.add_argument("--sets", nargs="*", choices=SETS, default=SETS, help="only these sets of prompts")
    parser.add_argument("--together-only", action="store_true", help="nothing one by one; those rows stay")
    parser.add_argument("--calibrate-only", action="store_true")
    args = parser.parse_args()
    if args.calibrate_only:
        for wing in mlxterp.available_backends():
            sys.stdout.write(json.dumps({wing: calibrated(wing)}) + "\n")
        return
    wings = args.wing or mlxterp.available_backends()
    path = results_path("generate")
    some = path.exists() and (args.wing or args.models or args.together_only or args.sets != SETS)
    rows: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["rows"] if some else {}
    for wing in wings:
        rows |= of_wing(wing, args)
    notes = [
        "processor time of one thread",
        "aims: together >= 4 x, the libraries and plain >= 0.95 x, without sharing >= 2 x",
    ]
    report("generate", rows, notes)


def of_wing(wing: str, args: argparse.Namespace) -> dict[str, Any]:
    """All rows of one array library."""
    folders = dict(zip(MODELS, (None, TINY if TINY.is_dir() else None, args.smollm2), strict=True))
    models: dict[str, InterpretableModel] = {}
    for name in args.models or MODELS:
        if name == "demo":
            models[name] = mlxterp.load_demo(wing).model
        elif folders[name]:
            models[name] = InterpretableModel(str(folders[name]), backend=wing)
    rows: dict[str, Any] = {}
    for name, model in models.items():
        large = name == MODELS[-1]
        tokens = FEW_TOKENS if large else TOKENS
        rounds = min(3, args.rounds) if large else args.rounds
        for kind, prompts in (("short", BEGINNINGS), ("mixed", mixed())):
            if kind not in args.sets:
                continue
            work = Work(model, wing, [model.tokenize(prompt) for prompt in prompts], tokens, rounds)
            found = together(work, steered=kind == "short", one_by_one=not (large or args.together_only))
            rows |= {f"{wing}, {name}, {kind} prompts: {row}": value for row, value in found.items()}
        if "beginning" in args.sets:
            found = shared(Work(model, wing, beginning_alike(model, FEW_TOKENS), FEW_TOKENS, rounds))
            rows |= {f"{wing}, {name}, one beginning: {row}": value for row, value in found.items()}
    return rows


def mixed() -> list[str]:
    """Prompts of 2 to about 60 tokens."""
    return [LONGER[: 6 * i] + text for i, text in enumerate(BEGINNINGS)]


def beginning_alike(model: InterpretableModel, tokens: int) -> list[list[int]]:
    """Token ids of prompts with one long beginning."""
    limit = getattr(model.language_model, "max_positions", None) or BEGINNING * 2
    room = min(BEGINNING, limit - tokens - 16)
    story = (model.tokenize(LONGER * 20))[:room]
    return [story + model.tokenize(text)[:12] for text in BEGINNINGS]


@dataclass(frozen=True, eq=False, slots=True)
class Work:
    """What a model has to continue."""

    model: InterpretableModel
    wing: str
    ids: list[list[int]]
    tokens: int
    rounds: int

    def written(self, edit: Any = None) -> Any:
        """The texts."""
        options: dict[str, Any] = {} if edit is None else {"steer": edit}
        return self.model.generate(self.ids, self.tokens, **options)

    def one_by_one(self, edit: Any = None) -> Any:
        """Each by itself, as before there were batches."""
        for i, row in enumerate(self.ids):
            own: dict[str, Any] = {"steer": edit[i : i + 1] if isinstance(edit, list) else edit}
            self.model.generate(row, self.tokens, **({} if edit is None else own))

    def peer(self) -> tuple[str, Callable[[], Any] | None]:
        """The library's own call, by its name; None where it is not installed."""
        make = mlx_peer if self.wing == "mlx" else torch_peer
        return ("mlx_lm" if self.wing == "mlx" else "transformers"), make(self.model, self.ids, self.tokens)


def together(work: Work, steered: bool, one_by_one: bool) -> dict[str, Any]:
    """How many times as fast, and what memory it takes."""
    sae = random_sae(work.model, work.wing)
    edits: dict[str, Any] = {"plain": None}
    if steered:
        edits |= {
            "one edit": steering.add_feature(sae, 5, 1.0),
            "an edit for each": [steering.add_feature(sae, f, 1.0) for f in range(PROMPTS)],
            "clamp": steering.clamp(sae, 5, 1.0, at=str(sae.component)),
        }
    jobs: dict[str, Callable[[], Any]] = {}
    for name, edit in edits.items():
        jobs[f"{name}, together"] = lambda edit=edit: work.written(edit)
        if one_by_one:
            jobs[f"{name}, one by one"] = lambda edit=edit: work.one_by_one(edit)
    its, peer = work.peer()
    if peer is not None:
        jobs[its] = peer
    times = interleaved(jobs, work.rounds, warm_up=1, clock=time.process_time)
    rows: dict[str, Any] = {}
    for name in edits:
        if one_by_one:
            rows[f"{name}: x one by one"] = ratio(times, f"{name}, one by one", f"{name}, together")
        if name != "plain":
            rows[f"{name}: x plain"] = ratio(times, "plain, together", f"{name}, together")
    if peer is not None:
        rows[f"plain: x {its}"] = ratio(times, its, "plain, together")
    rows["plain: tokens/s together"] = PROMPTS * work.tokens / statistics.median(times["plain, together"])
    rows["plain: MiB at the peak, together"] = peak_memory(jobs["plain, together"])
    if one_by_one:
        rows["plain: MiB at the peak, one by one"] = peak_memory(jobs["plain, one by one"])
    return rows


def shared(work: Work) -> dict[str, Any]:
    """What it gains that the beginning is read once, with the same texts."""
    capacities: Any = getattr(work.model.language_model, "_capacities")  # noqa: B009  there is no switch for it
    edit = steering.add_feature(random_sae(work.model, work.wing), 5, 1.0)

    def unshared(edit: Any) -> Any:
        known = capacities._known
        capacities._known = replace(known, shares=False)
        try:
            return work.written(edit)
        finally:
            capacities._known = known

    jobs: dict[str, Callable[[], Any]] = {}
    for name, given in (("plain", None), ("one edit", edit)):
        jobs[name] = lambda given=given: work.written(given)
        jobs[f"{name}, unshared"] = lambda given=given: unshared(given)
    rows: dict[str, Any] = {
        f"{name}: texts as without sharing": sum(
            a == b for a, b in zip(jobs[name](), jobs[f"{name}, unshared"](), strict=True)
        )
        for name in ("plain", "one edit")
    }
    its, peer = work.peer()
    if peer is not None:
        jobs[its] = peer
    times = interleaved(jobs, work.rounds, warm_up=0, clock=time.process_time)
    rows |= {
        f"{name}: x without sharing": ratio(times, f"{name}, unshared", name)
        for name in ("plain", "one edit")
    }
    if peer is not None:
        rows[f"plain: x {its}"] = ratio(times, its, "plain")
    return rows


def mlx_peer(model: InterpretableModel, ids: list[list[int]], tokens: int) -> Callable[[], Any]:
    """`mlx_lm.batch_generate` on the same ids."""
    from mlx_lm import batch_generate

    language_model: Any = model.language_model
    native, tokenizer = language_model.model, model.tokenizer
    return lambda: batch_generate(native, tokenizer, ids, max_tokens=tokens)


def torch_peer(model: InterpretableModel, ids: list[list[int]], tokens: int) -> Callable[[], Any] | None:
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
                padded, attention_mask=mask, max_new_tokens=tokens, do_sample=False, pad_token_id=0
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
