"""One training step of a TopK SAE: time as ratios, in one process.

    pip install ".[cpu,torch]" && python benchmarks/train_step.py [--device cuda]

d_model 512, 8192 features, k 32, batch 4096; every job takes gradients of all weights and an Adam step.
Torch with a dense mask is what most trainers do: four products of full size. Top-k with embedding_bag
leaves the decoder's forward pass sparse and lets autograd do the rest. Ours has one product of full size: the limit is
NumPy's product alone and a copy of what Adam reads: weights, gradients and both moments. The feed is a store of
float16 activations on disk, mixed into batches of float32. Processor time of all threads on a CPU, seconds on a GPU;
jobs in turns, and of each ratio the rounds that reach its aim.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import numpy as np
import torch
import torch.nn.functional as F
from common import interleaved, peak_memory, ratio, report

from mlxterp.activations.store import ActivationStore, write_batch, write_meta
from mlxterp.training.config import TrainRecipe
from mlxterp.training.rows import MixingBuffer, StoreRows
from mlxterp.training.state import TrainState
from mlxterp.weights import SAEWeights

LR = 1e-3
AIMS = {"torch, dense mask": 3.5, "torch, top-k and embedding_bag": 2.0}
LIMIT = "product and traffic"
FEED, FED = "feed", 4


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cpu", help="of torch: cpu, cuda or mps")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--d-hidden", type=int, default=8192)
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--k", type=int, default=32)
    return parser.parse_args()


def initial(d_hidden: int, d_model: int) -> SAEWeights:
    """Decoder rows of length 1, the encoder as the decoder."""
    rng = np.random.default_rng(0)
    W_dec = rng.standard_normal((d_hidden, d_model), dtype=np.float32)
    W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    return SAEWeights(W_dec.T, np.zeros(d_hidden, np.float32), W_dec, np.zeros(d_model, np.float32))


def plain_torch(
    x: np.ndarray, decode: Callable[..., torch.Tensor], args: argparse.Namespace
) -> Callable[[], Any]:
    """A step by autograd, with the given way back from ids and values."""
    w = initial(args.d_hidden, args.d_model)
    params = [
        torch.nn.Parameter(torch.tensor(np.ascontiguousarray(a), device=args.device))
        for a in (w.W_enc.T, w.b_enc, w.W_dec, w.b_dec)
    ]
    adam = torch.optim.Adam(params, lr=LR)
    encoder, b_enc, W_dec, b_dec = params
    batch = torch.tensor(x, device=args.device)

    def step() -> float:
        pre = F.linear(batch - b_dec, encoder, b_enc).relu()
        values, ids = pre.topk(args.k, dim=-1)
        loss = ((batch - decode(ids, values, W_dec) - b_dec) ** 2).sum(-1).mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        return loss.item()

    return step


def dense_mask(ids: torch.Tensor, values: torch.Tensor, W_dec: torch.Tensor) -> torch.Tensor:
    return values.new_zeros((len(ids), len(W_dec))).scatter(1, ids, values) @ W_dec


def embedding_bag(ids: torch.Tensor, values: torch.Tensor, W_dec: torch.Tensor) -> torch.Tensor:
    return F.embedding_bag(ids, W_dec, mode="sum", per_sample_weights=values)


def product_and_traffic(x: np.ndarray, args: argparse.Namespace) -> Callable[[], None]:
    """What no step can leave out."""
    W = np.ascontiguousarray(initial(args.d_hidden, args.d_model).W_enc)
    arrays = np.ones(
        (8, args.d_hidden, args.d_model), dtype=np.float32
    )  # two matrices: weights, gradients, moments
    there = np.empty_like(arrays)

    def run() -> None:
        np.matmul(x, W)
        np.copyto(there, arrays)

    return run


def feed(folder: Path, args: argparse.Namespace) -> Callable[[], None]:
    """The next `FED` batches of a store of float16 activations, a block of it, which comes again and again."""
    rng, batches = np.random.default_rng(2), 4
    for index in range(batches):
        values = {"resid": rng.standard_normal((FED * args.tokens, args.d_model), dtype=np.float32)}
        numbers = np.arange(FED * args.tokens, dtype=np.int64)
        rows = {"tokens": numbers.astype(np.int32), "positions": numbers, "contexts": numbers}
        write_batch(folder, index, values, rows, "float16", {})
    write_meta(folder, {"resid": args.d_model}, "float16", {}, [FED * args.tokens] * batches, True)
    rows = StoreRows(ActivationStore.open(folder), ["resid"], FED * args.tokens, 0)
    buffer = MixingBuffer(rows, 10**6, 0)

    def run() -> None:
        for _ in range(FED):
            buffer.take(args.tokens)

    return run


def main() -> None:
    """Prints a line for each figure."""
    args = options()
    x = np.random.default_rng(1).standard_normal((args.tokens, args.d_model), dtype=np.float32)
    recipe = TrainRecipe("topk", args.k, float(args.d_model), 10**9, args.d_model // 2, 1 / 4)
    states = {
        f"mlxterp ({name})": TrainState(
            mlxterp.get_backend(wing), initial(args.d_hidden, args.d_model), recipe,
            args.device if wing == "torch" else None,
        )
        for name, wing in (("MLX", "mlx"), ("torch", "torch"))
        if wing in mlxterp.available_backends()
    }  # fmt: skip
    jobs: dict[str, Callable[[], Any]] = {
        "torch, dense mask": plain_torch(x, dense_mask, args),
        "torch, top-k and embedding_bag": plain_torch(x, embedding_bag, args),
        LIMIT: product_and_traffic(x, args),
        **{name: lambda state=state: state.step(x, LR) for name, state in states.items()},
    }
    clock = time.process_time if args.device == "cpu" else time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        jobs[FEED] = feed(Path(folder), args)
        times = interleaved(jobs, args.rounds, warm_up=1, clock=clock)
        memory = {name: peak_memory(jobs[name]) for name in ("torch, dense mask", *states)}
    rows: dict[str, Any] = {}
    for name in states:
        for peer, aim in AIMS.items():
            title = f"{name}: × the speed of {peer}"
            rows[title] = ratio(times, peer, name)
            reached = sum(a >= aim * b for a, b in zip(times[peer], times[name], strict=True))
            rows[f"{title}, rounds that reach {aim}"] = f"{reached} of {args.rounds}"
        rows[f"{name}: time × NumPy's product and Adam's traffic"] = ratio(times, name, LIMIT)
        rows[f"{name}: share of a step that feeding float16 from disk takes"] = ratio(times, FEED, name) / FED
        used, base = memory[name], memory["torch, dense mask"]
        if used is not None and base:
            rows[f"{name}: peak memory × torch, dense mask"] = used / base
    sizes = f"d_model {args.d_model}, {args.d_hidden} features, k {args.k}, batch {args.tokens}, torch on {args.device}"
    report("train_step", rows, ["speeds: larger is faster", sizes])


if __name__ == "__main__":
    main()
