"""Default batch size, epochs and learning rate beside a sweep of all three, for runs on little and much text.

    python benchmarks/train_defaults.py sweep --seeds 0 1 2 3   # goes on where it was stopped
    python benchmarks/train_defaults.py rule --seeds 0 1 2 3    # what `SAETrainConfig()` chooses
    python benchmarks/train_defaults.py table                   # may be asked for at any time

Tasks: the toy task of ../shared (a new one for each seed) and a layer each of two small models on
tinystories.txt, whose activations are collected once. 16 x d_model features and k 32, as `SAETrainConfig()`
has them. A seed takes its own part of the text. The figure is explained variance on 20,000 tokens of other
texts. Every finished cell is at once a line of `results/train_defaults-cells.jsonl`; `table` joins them with the
rows of the results file, some of which were measured before that file was kept.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import numpy as np
from common import RESULTS, report, results_path
from toy import TASK, task_at

from mlxterp.sae import explained_variance

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MODELS = {"stories260K": "layers.2.resid_post", "tinystories_instruct_3m_gpt2": "layers.4.resid_post"}
TASKS = ("toy", *MODELS)
SIZES = (20_000, 60_000, 200_000, 1_000_000)
BATCHES, RATES, EPOCHS = (256, 1024, 4096), (1e-3, 3e-3, 9e-3), (1, 4)
CHOSEN_ON, REPORTED_ON = (0,), (2, 3)
PART, HELD_OUT, HELD_OUT_STORIES = 20_000, 20_000, 200
CELLS = RESULTS / "train_defaults-cells.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("sweep", "rule", "table"))
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--seeds", nargs="+", type=int, default=(*CHOSEN_ON, *REPORTED_ON))
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--rates", nargs="+", type=float, default=RATES)
    parser.add_argument("--epochs", nargs="+", type=int, default=EPOCHS)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "mlxterp-train-defaults")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.what == "table":
        report("train_defaults", table(), NOTES)
        return
    for size, seed, task in itertools.product(args.sizes, args.seeds, args.tasks):
        settings: Iterator[tuple[Any, ...]] = itertools.product(args.batches, args.epochs, args.rates)
        for setting in [(None, None, None)] if args.what == "rule" else settings:
            train(args.work, task, size, seed, *setting)


def train(
    work: Path, task: str, size: int, seed: int, batch: int | None, epochs: int | None, rate: float | None
) -> None:
    """One cell, unless it is known."""
    cell = {"task": task, "size": size, "seed": seed, "batch": batch, "epochs": epochs, "rate": rate}
    if any(cell.items() <= known.items() for known in cells()):
        return
    x, held_out = data(work, task, size, seed)
    config = mlxterp.SAETrainConfig(batch_size=batch, epochs=epochs, lr=rate, seed=seed)
    start = time.process_time()
    sae = mlxterp.train_sae(x, config, "mlx", progress=False)
    took = time.process_time() - start
    run = sae.metadata["training"]
    cell |= {
        "ev": round(explained_variance(sae, held_out), 4),
        "ev_seen": round(run["explained_variance"], 4),
    }
    cell |= {"steps": run["steps"], "dead": run["dead_features"], "cpu_seconds": round(took, 1)}
    if batch is None:
        cell["chosen"] = [run["batch_size"], run["epochs"], run["lr"]]
    print(cell, flush=True)
    with CELLS.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(cell) + "\n")


def cells() -> list[dict[str, Any]]:
    """All cells that were measured since they are kept."""
    return [json.loads(line) for line in CELLS.read_text("utf-8").splitlines()] if CELLS.exists() else []


def data(work: Path, task: str, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and held-out ones, float32."""
    if task == "toy":
        path, held_out = work / f"toy-{seed}-{size}.npy", work / f"toy-{seed}-held-out.npy"
        if not path.exists():
            toy = task_at(TASK).ToyTask(seed=seed)
            save(held_out, toy.batch(1 << 41, HELD_OUT))
            save(path, toy.tokens(size))
        return np.load(path, mmap_mode="r"), np.load(held_out)
    path, held_out = work / f"{task}.npy", work / f"{task}-held-out.npy"
    if not path.exists():
        stories = (SHARED / "text" / "tinystories.txt").read_text(encoding="utf-8").split("<|endoftext|>")
        texts = [story.strip() for story in stories if story.strip()]
        save(held_out, collected(work, task, texts[-HELD_OUT_STORIES:], "held-out", HELD_OUT))
        save(path, collected(work, task, texts[:-HELD_OUT_STORIES], "train", max(SIZES)))
    x = np.load(path, mmap_mode="r")
    start = seed * size if (seed + 1) * size <= len(x) else 0
    return x[start : start + size], np.load(held_out)


def save(path: Path, x: np.ndarray) -> None:
    np.save(draft := path.with_suffix(".draft.npy"), x)
    draft.rename(path)


def collected(work: Path, task: str, texts: list[str], part: str, tokens: int) -> np.ndarray:
    """Activations in parts of 20,000 tokens of contexts that lie together."""
    model = mlxterp.InterpretableModel(str(SHARED / "models" / task), backend="mlx")
    folder = work / f"{task}-{part}"
    store = mlxterp.collect_activations(
        model, texts, MODELS[task], folder, dtype="float32", tokens=tokens, batch_tokens=PART
    )
    return np.concatenate([store.read(i, MODELS[task]) for i in range(len(store.counts))])


NOTES = [
    "explained variance on 20,000 held-out tokens; best: of the sweep, over batch sizes, rates and epochs",
    f"the rule was chosen on seed {CHOSEN_ON[0]}; the other seeds had no part in that",
    "cells: at least so many of a sweep's settings were run (18 are all of them; of seed 0 some lie outside it)",
]


def table() -> dict[str, Any]:
    """Of each task, size and seed: the rule's figure, the sweep's best, and what each chose."""
    path = results_path("train_defaults")
    rows = json.loads(path.read_text("utf-8"))["rows"] if path.exists() else {}
    known = cells()
    for task, size, seed in dict.fromkeys((c["task"], c["size"], c["seed"]) for c in known):
        here = [c for c in known if (c["task"], c["size"], c["seed"]) == (task, size, seed)]
        name = f"{task}: {size} tokens, seed {seed}"
        rows[name] = joined(rows.get(name, {}), here)
    return dict(sorted(rows.items()))


def joined(before: dict[str, Any], here: list[dict[str, Any]]) -> dict[str, Any]:
    """A row with cells that were perhaps measured after it.

    Args:
        before: The row as it is in the results file.
        here: All known cells of the row's task, size and seed.
    """
    swept, ruled = [c for c in here if c["batch"]], [c for c in here if not c["batch"]]
    row = before | {"cells": max(before.get("cells", 0), len(swept))}
    best = max(swept, key=lambda c: c["ev"], default=None)
    if best is not None and best["ev"] > before.get("best", -np.inf):
        row |= {"best": best["ev"], "best_at": [best["batch"], best["epochs"], best["rate"]]}
    if ruled:
        row |= {"rule": ruled[-1]["ev"], "rule_at": ruled[-1]["chosen"]}
    if "best" in row and "rule" in row:
        row["short_of_best"] = round(row["best"] - row["rule"], 4)
    return row


if __name__ == "__main__":
    main()
