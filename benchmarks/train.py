"""Training on the synthetic task: ours in both wings beside SAELens, sparsify and dictionary_learning.

    pip install ".[cpu,torch]" scipy && python benchmarks/train.py --peers PYTHON --dl PYTHON

PYTHON are the interpreters of the peers' environments (see train_peers.py). 1 million tokens, 1024 features,
k 12, batches of 1024, one pass, one thread; every run is a process of its own, ours between the peers'. Each
run's figures are kept in --work, and a run that is there is not repeated. Speed is tokens for each second of
processor time of the training itself, reading its data included; memory what it needs at its peak beyond that.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import numpy as np
from common import report
from toy import BATCH, D_HIDDEN, TASK, TOKENS, K, mapped, measured, task_at

ARCHITECTURES = ("topk", "batchtopk", "matryoshka_batchtopk", "jumprelu", "relu", "gated")
PEERS = (
    "sparsify:topk", "saelens:topk", "dl:topk", "sparsify:topk:lr=5e-3", "sparsify:topk:opt=adam:lr=2e-3:warmup=97",
    "saelens:topk:lr=1e-3:dead=50", "dl:topk:lr=2e-3",
    "saelens:batchtopk", "dl:batchtopk", "saelens:batchtopk:lr=1e-3:dead=50", "dl:batchtopk:lr=2e-3",
    "saelens:matryoshka", "dl:matryoshka", "saelens:matryoshka:lr=1e-3:dead=50",
)  # fmt: skip
SHOWN = (
    "ev",
    "l0",
    "dead",
    "mmcs_true",
    "mmcs_sae",
    "rec90",
    "mcc",
    "f1",
    "tokens_per_cpu_second",
    "peak_mib",
)


def train_ours(run: str, data: Path, seed: int, task_path: Path, d_hidden: int, k: int) -> dict[str, Any]:
    """One SAE with our defaults; run is mlxterp-mlx:architecture or mlxterp-torch:architecture."""
    wing, _, architecture = run.removeprefix("mlxterp-").partition(":")
    x = mapped(data)
    config = mlxterp.SAETrainConfig(
        d_hidden=d_hidden, k=k, batch_size=BATCH, architecture=architecture, seed=seed
    )
    found: list[mlxterp.SAE] = []
    device = "cpu" if wing == "torch" else None
    mlxterp.train_sae(x[: 2 * BATCH], config, wing, device=device, progress=False)  # everything is imported
    took = measured(
        lambda: found.append(mlxterp.train_sae(x, config, wing, device=device, progress=False)), len(x)
    )
    [sae] = found
    task = task_at(task_path)
    figures = task.evaluate(task.ToyTask(seed=seed), sae.encode, sae.decode, sae.W_dec)
    return {"run": run, "seed": seed, "tokens": len(x), **took, **figures}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", help="python with sae-lens and eai-sparsify")
    parser.add_argument("--dl", help="python with dictionary-learning")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "mlxterp-train")
    parser.add_argument("--task", type=Path, default=TASK)
    parser.add_argument("--collect", action="store_true", help="only put together what is in --work")
    parser.add_argument("--run", help="only this run of ours, on --data (used by the benchmark itself)")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--d-hidden", type=int, default=D_HIDDEN)
    parser.add_argument("--k", type=int, default=K)
    args = parser.parse_args()
    if args.run:
        found = train_ours(args.run, args.data, args.seeds[0], args.task, args.d_hidden, args.k)
        args.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        return
    args.work.mkdir(parents=True, exist_ok=True)
    runs = [*ours_between(PEERS if args.peers else ())]
    wanted = [(run, seed) for seed in args.seeds for run in runs if has_python(args, run)]
    if args.collect:
        wanted = [
            (run, seed)
            for seed in args.seeds
            for run in ours_between(PEERS)
            if file_of(args, run, seed).exists()
        ]
    found = [run_once(args, run, seed) for run, seed in wanted]
    report(
        "train", table(found), [f"means of seeds {args.seeds}; ± half the range", "speeds: larger is faster"]
    )


def ours_between(peers: tuple[str, ...]) -> list[str]:
    """All runs, ours spread among the peers', so that what disturbs the machine disturbs both."""
    ours = [f"mlxterp-{wing}:{architecture}" for architecture in ARCHITECTURES for wing in ("mlx", "torch")]
    both: list[str] = []
    for place in range(max(len(ours), len(peers))):
        both += [*ours[place : place + 1], *peers[place : place + 1]]
    return both


def has_python(args: argparse.Namespace, run: str) -> bool:
    """Whether there is an interpreter for the run's library."""
    return run.startswith("mlxterp") or bool(args.dl if run.startswith("dl:") else args.peers)


def run_once(args: argparse.Namespace, run: str, seed: int) -> dict[str, Any]:
    """Figures of a run, from its file where it was made before."""
    out = file_of(args, run, seed)
    if not out.exists():
        data = data_of(args, seed)
        here = Path(__file__).parent
        if run.startswith("mlxterp"):
            command = [sys.executable, here / "train.py", "--seeds", seed]
        else:
            command = [
                args.dl if run.startswith("dl:") else args.peers,
                here / "train_peers.py",
                "--seed",
                seed,
            ]
        command += ["--run", run, "--data", data, "--out", out, "--task", args.task]
        one = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        subprocess.run([str(part) for part in command], check=True, env=one)
    found = json.loads(out.read_text(encoding="utf-8"))
    sys.stdout.write(f"{run} seed {seed}: " + ", ".join(f"{n} {found[n]}" for n in SHOWN[:3]) + "\n")
    sys.stdout.flush()
    return found


def file_of(args: argparse.Namespace, run: str, seed: int) -> Path:
    """Where a run's figures are kept."""
    return args.work / f"{run.replace(':', '_').replace('=', '-')}-{seed}.json"


def data_of(args: argparse.Namespace, seed: int) -> Path:
    """The task's activations, made once."""
    path = args.work / f"x{seed}.npy"
    if not path.exists():
        draft = path.with_suffix(".draft.npy")
        np.save(draft, task_at(args.task).ToyTask(seed=seed).tokens(TOKENS))
        draft.replace(path)
    return path


def table(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows of figures, and ours as ratios to the fastest and the leanest peer."""
    rows: dict[str, Any] = {}
    means: dict[str, dict[str, float]] = {}
    for run in dict.fromkeys(one["run"] for one in found):
        same = [one for one in found if one["run"] == run]
        values = {name: [one[name] for one in same if one.get(name) is not None] for name in SHOWN}
        means[run] = {name: statistics.mean(numbers) for name, numbers in values.items() if numbers}
        spread = (max(values["ev"]) - min(values["ev"])) / 2
        rows[run] = {name: round(mean, 4) for name, mean in means[run].items()} | {
            "ev ±": round(spread, 4),
            "seeds": len(same),
        }
    peers = [run for run in means if not run.startswith("mlxterp")]
    for run in (f"mlxterp-{wing}:topk" for wing in ("mlx", "torch")):
        if not peers or run not in means:
            continue
        for peer in ("sparsify:topk", "saelens:topk", "dl:topk"):
            if peer in means:
                ratio = means[run]["tokens_per_cpu_second"] / means[peer]["tokens_per_cpu_second"]
                rows[f"{run}: × the speed of {peer}"] = ratio
        leanest = min(means[peer]["peak_mib"] for peer in peers)
        rows[f"{run}: × the peak memory of the leanest peer"] = means[run]["peak_mib"] / leanest
    return rows


if __name__ == "__main__":
    main()
