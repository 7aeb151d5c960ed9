"""Encoding with the k largest features: time and peak memory as ratios, in one process.

    pip install ".[cpu,torch,bench-sae]" && python benchmarks/encode.py

Naive torch is linear, ReLU, `torch.topk`; naive MLX is a product, maximum, `argpartition` and a gather. The
BLAS limit is NumPy's product alone, without any selection. Peers that are not installed are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import mlx.core as mx
import numpy as np
import torch
import torch.nn.functional as F
from common import interleaved, peak_memory, ratio, report, rounds_asked_for
from sparse_shapes import SHAPES, Task, saelens, sparsify, without_gradients

Jobs = dict[str, Callable[[], Any]]


def jobs_for(task: Task) -> Jobs:
    """What is compared, each from a native array to native ids and values."""
    sae, x = task.sae, task.x
    k = sae.k or 1
    x_mlx, x_torch = mx.array(x), torch.tensor(x)
    W_mlx, W_torch = (
        mx.array(np.ascontiguousarray(sae.W_enc.T)),
        torch.tensor(np.ascontiguousarray(sae.W_enc.T)),
    )
    mlx, torch_wing = mlxterp.get_backend("mlx"), mlxterp.get_backend("torch")
    w_mlx, w_torch = mlx.put_weights(sae.weights), torch_wing.put_weights(sae.weights, "cpu")

    def naive_mlx() -> None:
        pre = mx.maximum(x_mlx @ W_mlx.T, 0)
        ids = mx.argpartition(pre, -k, axis=-1)[:, -k:]
        mx.eval(ids, mx.take_along_axis(pre, ids, axis=-1))

    jobs: Jobs = {
        "mlxterp (MLX)": lambda: mx.eval(*mlx.encode(x_mlx, w_mlx, sae.activation)),
        "mlxterp (torch)": lambda: torch_wing.encode(x_torch, w_torch, sae.activation),
        "naive torch": without_gradients(lambda: torch.topk(F.linear(x_torch, W_torch).relu(), k)),
        "naive MLX": naive_mlx,
        "NumPy's product alone": lambda: x @ sae.W_enc,
    }
    theirs, coder = saelens(sae), sparsify(sae)
    if theirs is not None:
        jobs["SAELens"] = without_gradients(lambda: theirs.encode(x_torch))
    if coder is not None:
        jobs["sparsify"] = without_gradients(lambda: coder.encode(x_torch))
    return jobs


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
    rounds = rounds_asked_for(__doc__, 7)
    rows: dict[str, Any] = {}
    for shape, sizes in SHAPES.items():
        task = Task.random(*sizes)
        jobs = jobs_for(task)
        times = interleaved(jobs, rounds, warm_up=1)
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
