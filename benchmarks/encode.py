"""Encoding with the k largest features: time and peak memory as ratios, in one process.

    pip install ".[cpu,torch,bench-sae]" && python benchmarks/encode.py [--device cuda] [--shape N D_MODEL D_HIDDEN K …]

Naive torch is linear, ReLU, `torch.topk`; naive MLX is a product, maximum, `argpartition` and a gather. The
BLAS limit is NumPy's product alone, without any selection. Peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import mlx.core as mx
import numpy as np
import torch
import torch.nn.functional as F
from common import interleaved, peak_memory, ratio, report
from sparse_shapes import SHAPES, Task, saelens, sparsify, without_gradients

Jobs = dict[str, Callable[[], Any]]


def jobs_for(task: Task, device: str) -> Jobs:
    """What is compared, each from a native array to native ids and values; torch on a device."""
    sae, x = task.sae, task.x
    k = sae.k or 1
    W = np.ascontiguousarray(sae.W_enc.T)
    x_mlx, x_torch = mx.array(x), torch.tensor(x, device=device)
    W_mlx, W_torch = mx.array(W), torch.tensor(W, device=device)
    mlx, torch_wing = mlxterp.get_backend("mlx"), mlxterp.get_backend("torch")
    w_mlx, w_torch = mlx.put_weights(sae.weights), torch_wing.put_weights(sae.weights, device)

    def naive_mlx() -> None:
        pre = mx.maximum(x_mlx @ W_mlx.T, 0)
        ids = mx.argpartition(pre, -k, axis=-1)[:, -k:]
        mx.eval(ids, mx.take_along_axis(pre, ids, axis=-1))

    jobs: Jobs = {
        "mlxterp (MLX)": lambda: mx.eval(*mlx.encode(x_mlx, w_mlx, sae.activation)),
        "mlxterp (torch)": finished(lambda: torch_wing.encode(x_torch, w_torch, sae.activation), device),
        "naive torch": finished(
            without_gradients(lambda: torch.topk(F.linear(x_torch, W_torch).relu(), k)), device
        ),
        "naive MLX": naive_mlx,
        "NumPy's product alone": lambda: x @ sae.W_enc,
    }
    theirs, coder = saelens(sae), sparsify(sae)
    if theirs is not None:
        theirs.to(device)
        jobs["SAELens"] = finished(without_gradients(lambda: theirs.encode(x_torch)), device)
    if coder is not None:
        coder.to(device)
        jobs["sparsify"] = finished(without_gradients(lambda: coder.encode(x_torch)), device)
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
    """The top-k alone, from pre-activations that are there."""
    from mlxterp.backends.host.topk import RunningTopK

    n, k = len(task.x), task.sae.k or 1
    scores = np.random.default_rng(1).standard_normal((n, task.sae.d_hidden), dtype=np.float32)
    chunks = [np.ascontiguousarray(scores[:, i : i + 4096]) for i in range(0, scores.shape[1], 4096)]
    s_mlx, s_torch = mx.array(scores), torch.tensor(scores)

    def ours() -> None:
        best = RunningTopK(n, k)
        for i, chunk in enumerate(chunks):
            best.add(4096 * i, chunk)
        best.best()

    def naive_mlx() -> None:
        ids = mx.argpartition(s_mlx, -k, axis=-1)[:, -k:]
        mx.eval(ids, mx.take_along_axis(s_mlx, ids, axis=-1))

    times = interleaved({"ours": ours, "MLX": naive_mlx, "torch": lambda: torch.topk(s_torch, k)}, 5, 1)
    return {
        "top-k alone: × naive MLX's speed": ratio(times, "MLX", "ours"),
        "top-k alone: × torch.topk's speed": ratio(times, "torch", "ours"),
    }


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
        for name in ("mlxterp (MLX)", "mlxterp (torch)"):
            rows[f"{shape} {sizes}, {name}: time × NumPy's product alone"] = ratio(
                times, name, "NumPy's product alone"
            )
        rows |= {f"{shape} {sizes}, {name}": value for name, value in selection(task).items()}
    report("encode", rows, ["speeds: larger is faster; memory and time: smaller is better"])


if __name__ == "__main__":
    main()
