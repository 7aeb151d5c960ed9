"""How near select and decode come to reading memory at full speed, and what their peers' forms take.

    python benchmarks/kernels.py    # on a GPU, with MLX, PyTorch or both; says so where there is none

Shares are of a device copy of the same number of bytes, measured between the jobs. The bytes of
select are one reading of its scores; those of decode are the table's rows it asks for.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

from common import interleaved, ratio, report

Jobs = dict[str, Callable[[], Any]]


def mlx_jobs(n: int, d: int, k: int, width: int) -> tuple[Jobs, Jobs] | None:
    """Jobs of select and of decode on MLX's GPU; None where it has none that the kernels agree with."""
    if importlib.util.find_spec("mlx") is None:
        return None
    from mlxterp.backends.mlx import kernels  # before mlx, which it gives a fast BLAS

    import mlx.core as mx  # isort: skip

    if not kernels.available():
        return None
    scores, table = mx.random.normal((n, d)), mx.random.normal((d, width))
    ids, values = kernels.select(scores, k)
    features = mx.put_along_axis(mx.zeros((n, d)), ids, values, axis=-1)
    gathered = mx.random.normal((n * k, width))
    mx.eval(scores, table, ids, values, features, gathered)

    def copy(x: Any) -> Callable[[], Any]:
        return lambda: mx.eval(x + 1)

    return {
        "device copy": copy(scores),
        "mlxterp": lambda: mx.eval(kernels.select(scores, k)),
        "argpartition": lambda: mx.eval(mx.argpartition(scores, d - k, axis=-1)[:, d - k :]),
    }, {
        "device copy": copy(gathered),
        "mlxterp": lambda: mx.eval(kernels.decode(ids, values, table)),
        "dense product": lambda: mx.eval(features @ table),
    }


def torch_jobs(n: int, d: int, k: int, width: int) -> tuple[Jobs, Jobs] | None:
    """The same on PyTorch's CUDA device."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch
    import torch.nn.functional as F

    from mlxterp.backends.torch import kernels

    if not kernels.available():
        return None
    scores, table = (torch.randn(shape, device="cuda") for shape in ((n, d), (d, width)))
    ids, values = kernels.select(scores, k)
    features = torch.zeros_like(scores).scatter_(1, ids, values)
    gathered = torch.randn((n * k, width), device="cuda")

    def timed(job: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> None:
            job()
            torch.cuda.synchronize()

        return run

    return {
        "device copy": timed(lambda: scores.clone()),
        "mlxterp": timed(lambda: kernels.select(scores, k)),
        "torch.topk": timed(lambda: torch.topk(scores, k)),
    }, {
        "device copy": timed(lambda: gathered.clone()),
        "mlxterp": timed(lambda: kernels.decode(ids, values, table)),
        "embedding_bag": timed(lambda: F.embedding_bag(ids, table, mode="sum", per_sample_weights=values)),
        "dense product": timed(lambda: features @ table),
    }


def rows_of(library: str, operation: str, jobs: Jobs, rounds: int) -> dict[str, Any]:
    """Bandwidth as a share of the copy's (which reads and writes), and the peers' times."""
    times = interleaved(jobs, rounds)
    title = f"{library} {operation}"
    rows: dict[str, Any] = {
        f"{title}: bandwidth, share of a device copy's": 0.5 / ratio(times, "mlxterp", "device copy")
    }
    peers = [name for name in jobs if name not in ("device copy", "mlxterp")]
    return rows | {f"{title}, {name}: × mlxterp": ratio(times, name, "mlxterp") for name in peers}


def main() -> None:
    """Measures every library that has a GPU here."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--d-hidden", type=int, default=32768)
    parser.add_argument("--d-model", type=int, default=2048)
    parser.add_argument("--k", type=int, default=64)
    options = parser.parse_args()
    sizes = (options.tokens, options.d_hidden, options.k, options.d_model)
    rows: dict[str, Any] = {}
    for library, jobs_of in (("MLX", mlx_jobs), ("torch", torch_jobs)):
        jobs = jobs_of(*sizes)
        if jobs is not None:
            for operation, chosen in zip(("select", "decode"), jobs, strict=True):
                rows |= rows_of(library, operation, chosen, options.rounds)
    if not rows:
        sys.stdout.write("No GPU here on which the kernels run: nothing to measure.\n")
        return
    shape = f"{options.tokens} tokens, d_hidden {options.d_hidden}, k {options.k}, d_model {options.d_model}"
    report("kernels", rows, [shape])


if __name__ == "__main__":
    main()
