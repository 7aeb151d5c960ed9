"""One training step of a TopK SAE: time as ratios, in one process.

    pip install ".[cpu,torch]" && python benchmarks/train_step.py

d_model 512, 8192 features, k 32, batch 4096; every job takes gradients of all weights and an Adam step.
Torch with a dense mask is what most trainers do: four products of full size. Top-k with embedding_bag
leaves the decoder's forward pass sparse and lets autograd do the rest. Ours has one product of full size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import numpy as np
import torch
import torch.nn.functional as F
from common import interleaved, peak_memory, ratio, report, rounds_asked_for

from mlxterp.training.config import TrainRecipe
from mlxterp.training.state import TrainState
from mlxterp.weights import SAEWeights

D_MODEL, D_HIDDEN, K, BATCH = 512, 8192, 32, 4096
LR = 1e-3


def initial() -> SAEWeights:
    rng = np.random.default_rng(0)
    W_dec = rng.standard_normal((D_HIDDEN, D_MODEL), dtype=np.float32)
    W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    return SAEWeights(W_dec.T, np.zeros(D_HIDDEN, np.float32), W_dec, np.zeros(D_MODEL, np.float32))


def plain_torch(x: np.ndarray, decode: Callable[..., torch.Tensor]) -> Callable[[], Any]:
    """A step by autograd, with the given way back from ids and values."""
    w = initial()
    params = [
        torch.nn.Parameter(torch.tensor(np.ascontiguousarray(a)))
        for a in (w.W_enc.T, w.b_enc, w.W_dec, w.b_dec)
    ]
    adam = torch.optim.Adam(params, lr=LR)
    encoder, b_enc, W_dec, b_dec = params
    batch = torch.tensor(x)

    def step() -> float:
        pre = F.linear(batch - b_dec, encoder, b_enc).relu()
        values, ids = pre.topk(K, dim=-1)
        loss = ((batch - decode(ids, values, W_dec) - b_dec) ** 2).sum(-1).mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        return loss.item()

    return step


def dense_mask(ids: torch.Tensor, values: torch.Tensor, W_dec: torch.Tensor) -> torch.Tensor:
    return values.new_zeros((len(ids), D_HIDDEN)).scatter(1, ids, values) @ W_dec


def embedding_bag(ids: torch.Tensor, values: torch.Tensor, W_dec: torch.Tensor) -> torch.Tensor:
    return F.embedding_bag(ids, W_dec, mode="sum", per_sample_weights=values)


def main() -> None:
    rounds = rounds_asked_for(__doc__, 5)
    x = np.random.default_rng(1).standard_normal((BATCH, D_MODEL), dtype=np.float32)
    recipe = TrainRecipe("topk", K, float(D_MODEL), 10**9, D_MODEL // 2, 1 / 4)
    states = {
        name: TrainState(mlxterp.get_backend(name), initial(), recipe, "cpu" if name == "torch" else None)
        for name in ("mlx", "torch")
    }
    jobs: dict[str, Callable[[], Any]] = {
        "torch, dense mask": plain_torch(x, dense_mask),
        "torch, top-k and embedding_bag": plain_torch(x, embedding_bag),
        "mlxterp (MLX)": lambda: states["mlx"].step(x, LR),
        "mlxterp (torch)": lambda: states["torch"].step(x, LR),
    }
    times = interleaved(jobs, rounds, warm_up=1)
    memory = {name: peak_memory(job) for name, job in jobs.items()}
    rows: dict[str, Any] = {}
    for name in ("mlxterp (MLX)", "mlxterp (torch)"):
        for peer in ("torch, dense mask", "torch, top-k and embedding_bag"):
            rows[f"{name}: × the speed of {peer}"] = ratio(times, peer, name)
        used, base = memory[name], memory["torch, dense mask"]
        if used is not None and base:
            rows[f"{name}: peak memory × torch, dense mask"] = used / base
    report("train_step", rows, ["speeds: larger is faster"])


if __name__ == "__main__":
    main()
