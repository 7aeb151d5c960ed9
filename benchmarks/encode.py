"""Encoding with the k largest features: time and peak memory as ratios, in one process.

    pip install ".[cpu,torch,bench-sae]" && python benchmarks/encode.py [--device cuda] [--shape N D_MODEL D_HIDDEN K …]

Naive torch is linear, ReLU, `torch.topk`; naive MLX is a product, maximum, `argpartition` and a gather. The
BLAS limit is NumPy's product alone, without any selection. What is not installed, MLX or a peer, is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from typing import Any

import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import numpy as np
import torch
import torch.nn.functional as F
from common import interleaved, peak_memory, ratio, report
from sparse_shapes import SHAPES, Task, saelens, sparsify, without_gradients

Jobs = dict[str, Callable[[], Any]]


def mlx_jobs(task: Task) -> Jobs:
    """MLX's; none where it is not installed."""
    if importlib.util.find_spec("mlx") is None:
        return {}
    import mlx.core as mx

    sae, k = task.sae, task.sae.k or 1
    x, W = mx.array(task.x), mx.array(np.ascontiguousarray(sae.W_enc.T))
    wing = mlxterp.get_backend("mlx")
    weights = wing.put_weights(sae.weights)

    def naive() -> None:
        pre = mx.maximum(x @ W.T, 0)
        ids = mx.argpartition(pre, -k, axis=-1)[:, -k:]
        mx.eval(ids, mx.take_along_axis(pre, ids, axis=-1))

    return {"mlxterp (MLX)": lambda: mx.eval(*wing.encode(x, weights, sae.activation)), "naive MLX": naive}


def jobs_for(task: Task, device: str) -> Jobs:
    """What is compared, each from a native array to native ids and values; torch on a device."""
    sae, k = task.sae, task.sae.k or 1
    x = torch.tensor(task.x, device=device)
    W = torch.tensor(np.ascontiguousarray(sae.W_enc.T), device=device)
    wing = mlxterp.get_backend("torch")
    weights = wing.put_weights(sae.weights, device)
    jobs: Jobs = {
        "mlxterp (torch)": finished(lambda: wing.encode(x, weights, sae.activation), device),
        "naive torch": finished(without_gradients(lambda: torch.topk(F.linear(x, W).relu(), k)), device),
        "NumPy's product alone": lambda: task.x @ sae.W_enc,
        **mlx_jobs(task),
    }
    theirs, coder = saelens(sae), sparsify(sae)
    if theirs is not None:
        theirs.to(device)
        jobs["SAELens"] = finished(without_gradients(lambda: theirs.encode(x)), device)
    if coder is not None:
        coder.to(device)
        jobs["sparsify"] = finished(without_gradients(lambda: coder.encode(x)), device)
    return jobs


def finished(job: Callable[[], Any], device: str) -> Callable[[], Any]:
    """The job, until the device has done it."""
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device)
    if wait is None:
        return job

    def run() -> None:
        job()
        wait()

    return run


def selection(task: Task) -> dict[str, float]:
    """The top-k alone, on the CPU, from pre-activations that are there."""
    from mlxterp.backends.host.topk import RunningTopK

    n, k = len(task.x), task.sae.k or 1
    scores = np.random.default_rng(1).standard_normal((n, task.sae.d_hidden), dtype=np.float32)
    chunks = [np.ascontiguousarray(scores[:, i : i + 4096]) for i in range(0, scores.shape[1], 4096)]
    s_torch = torch.tensor(scores)

    def ours() -> None:
        best = RunningTopK(n, k)
        for i, chunk in enumerate(chunks):
            best.add(4096 * i, chunk)
        best.best()

    jobs: Jobs = {"ours": ours, "torch.topk": lambda: torch.topk(s_torch, k)}
    if importlib.util.find_spec("mlx"):
        import mlx.core as mx

        s_mlx = mx.array(scores)

        def naive() -> None:
            ids = mx.argpartition(s_mlx, -k, axis=-1)[:, -k:]
            mx.eval(ids, mx.take_along_axis(s_mlx, ids, axis=-1))

        jobs["naive MLX"] = naive
    times = interleaved(jobs, 5, 1)
    return {f"top-k alone: × {name}'s speed": ratio(times, name, "ours") for name in jobs if name != "ours"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", help="of torch: cpu, cuda or mps")
    parser.add_argument(
        "--shape", type=int, nargs=4, action="append", metavar=("N", "D_MODEL", "D_HIDDEN", "K")
    )
    args = parser.parse_args()
    shapes: list[tuple[str, Any]] = [("shape", tuple(sizes)) for sizes in args.shape or ()]
    rows: dict[str, Any] = {}
    for shape, sizes in shapes or SHAPES.items():
        task = Task.random(*sizes)
        jobs = jobs_for(task, args.device)
        times = interleaved(jobs, args.rounds, warm_up=1)
        memory = {name: peak_memory(job) for name, job in jobs.items()}
        base = memory["naive torch"]
        for name in jobs:
            rows[f"{shape} {sizes}, {name}: × naive torch's speed"] = ratio(times, "naive torch", name)
            used = memory[name]
            if used is not None and base:
                rows[f"{shape} {sizes}, {name}: × naive torch's peak memory"] = used / base
        for name in (name for name in jobs if name.startswith("mlxterp")):
            rows[f"{shape} {sizes}, {name}: time × NumPy's product alone"] = ratio(
                times, name, "NumPy's product alone"
            )
        if args.device == "cpu":
            rows |= {f"{shape} {sizes}, {name}": value for name, value in selection(task).items()}
    report("encode", rows, ["speeds: larger is faster; memory and time: smaller is better"])


if __name__ == "__main__":
    main()
