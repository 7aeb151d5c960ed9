"""Sparse decoding, and the backward pass of encoding and decoding: time as ratios, in one process.

pip install ".[cpu,torch,bench-sae]" && python benchmarks/decode.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import mlx.core as mx
import numpy as np
import torch
import torch.nn.functional as F
from common import interleaved, ratio, report, rounds_asked_for
from sparse_shapes import SHAPES, Task, saelens, sparsify, without_gradients


def jobs_for(task: Task, k: int) -> dict[str, Callable[[], Any]]:
    """What is compared, each from native ids and values (or dense features) to native rows."""
    sae, n = task.sae, len(task.x)
    rng = np.random.default_rng(2)
    ids = np.stack([rng.choice(sae.d_hidden, k, replace=False) for _ in range(n)])
    values = rng.random((n, k), dtype=np.float32)
    mlx, torch_wing = mlxterp.get_backend("mlx"), mlxterp.get_backend("torch")
    w_mlx, w_torch = mlx.put_weights(sae.weights), torch_wing.put_weights(sae.weights, "cpu")
    i_mlx, v_mlx, i_torch, v_torch = (
        mx.array(ids.astype(np.uint32)),
        mx.array(values),
        torch.tensor(ids),
        torch.tensor(values),
    )
    dense = torch.zeros(n, sae.d_hidden).scatter_(1, i_torch, v_torch)
    W = w_torch.W_dec
    jobs: dict[str, Callable[[], Any]] = {
        "dense product (torch)": without_gradients(lambda: dense @ W),
        "embedding_bag": without_gradients(
            lambda: F.embedding_bag(i_torch, W, mode="sum", per_sample_weights=v_torch)
        ),
        "mlxterp (MLX)": lambda: mx.eval(mlx.decode(i_mlx, v_mlx, w_mlx)),
        "mlxterp (torch)": lambda: torch_wing.decode(i_torch, v_torch, w_torch),
        "naive MLX (take and sum)": lambda: mx.eval((w_mlx.W_dec[i_mlx] * v_mlx[..., None]).sum(axis=1)),
    }
    theirs, coder = saelens(sae), sparsify(sae)
    if theirs is not None:
        jobs["SAELens"] = without_gradients(lambda: theirs.decode(dense))
    if coder is not None:
        jobs["sparsify"] = without_gradients(lambda: coder.decode(v_torch, i_torch))
    return jobs


def backward_jobs(task: Task, _k: int) -> dict[str, Callable[[], Any]]:
    """Gradients of all weights from those of the reconstruction."""
    sae, x = task.sae, task.x
    mlx, torch_wing = mlxterp.get_backend("mlx"), mlxterp.get_backend("torch")
    w_mlx, w_torch = mlx.put_weights(sae.weights), torch_wing.put_weights(sae.weights, "cpu")
    x_mlx, x_torch = mx.array(x), torch.tensor(x)
    i_mlx, v_mlx = mlx.encode(x_mlx, w_mlx, sae.activation)
    i_torch, v_torch = torch_wing.encode(x_torch, w_torch, sae.activation)
    dense = torch.zeros(len(x), sae.d_hidden).scatter_(1, i_torch, v_torch)
    mask = (dense > 0).float()

    def with_dense_products() -> Any:
        slope = (x_torch @ w_torch.W_dec.T) * mask
        return dense.T @ x_torch, slope.T @ x_torch, slope.sum(0)

    return {
        "dense products (torch)": without_gradients(with_dense_products),
        "mlxterp (MLX)": lambda: mx.eval(*mlx.backward(x_mlx, i_mlx, v_mlx, w_mlx, x_mlx).arrays().values()),
        "mlxterp (torch)": lambda: torch_wing.backward(x_torch, i_torch, v_torch, w_torch, x_torch),
    }


def main() -> None:
    rounds = rounds_asked_for(__doc__, 7)
    rows: dict[str, Any] = {}
    for shape, sizes in SHAPES.items():
        jobs = jobs_for(Task.random(*sizes), sizes[-1])
        times = interleaved(jobs, rounds, warm_up=1)
        for name in jobs:
            rows[f"{shape} {sizes}, {name}: × a dense product's speed"] = ratio(
                times, "dense product (torch)", name
            )
        for name in ("mlxterp (MLX)", "mlxterp (torch)"):
            rows[f"{shape} {sizes}, {name}: time × embedding_bag"] = ratio(times, name, "embedding_bag")
        jobs = backward_jobs(Task.random(*sizes), sizes[-1])
        times = interleaved(jobs, rounds, warm_up=1)
        for name in ("mlxterp (MLX)", "mlxterp (torch)"):
            speed = ratio(times, "dense products (torch)", name)
            rows[f"{shape} {sizes}, backward, {name}: × dense products' speed"] = speed
    report("decode", rows, ["speeds: larger is faster; time: smaller is better"])


if __name__ == "__main__":
    main()
