"""Time and memory of an attribution graph's rows, by prompt length and number of features, on one model.

    python benchmarks/graph.py FOLDER [--backend torch] [--tokens 8 16] [--features 64 256]

The transcoders are random (TopK, 8 active on a token), which costs what trained ones cost. For each: rows, seconds of
the processor and of the clock, rows for each second of the clock, the law, and the largest memory so far.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
import warnings

import numpy as np

import mlxterp
from mlxterp import SAE, InterpretableModel
from mlxterp.variants import TopK
from mlxterp.weights import SAEWeights


def main() -> None:
    """Prints a line for each length and number of features."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a folder or a hub repository")
    parser.add_argument("--backend", choices=("mlx", "torch"))
    parser.add_argument("--tokens", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--features", type=int, nargs="+", default=[64, 256])
    options = parser.parse_args()
    model = InterpretableModel(options.model, backend=options.backend)
    transcoders = [_random(layer, model.d_model) for layer in range(model.n_layers)]
    warnings.simplefilter("ignore", mlxterp.MlxterpWarning)
    for tokens in options.tokens:
        ids = np.random.default_rng(0).integers(0, model.vocab_size, tokens).tolist()
        for features in options.features:
            _measure(model, transcoders, ids, features)


def _random(layer: int, width: int, n: int = 256) -> SAE:
    draw = np.random.default_rng(layer)
    weights = SAEWeights(
        draw.normal(size=(width, n)) / np.sqrt(width), np.zeros(n), draw.normal(size=(n, width)) / np.sqrt(width),
        np.zeros(width), subtract_b_dec=False,
    )  # fmt: skip
    named = {"component": f"layers.{layer}.mlp.input", "component_out": f"layers.{layer}.mlp_out"}
    return SAE(weights.map(lambda x: x.astype(np.float32)), TopK(8), named)


def _measure(model: InterpretableModel, transcoders: list[SAE], ids: list[int], features: int) -> None:
    clock, processor = time.perf_counter(), time.process_time()
    graph = model.attribution_graph(ids, transcoders, max_logits=3, max_features=features, verbose=False)
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    rows, most = len(graph.targets), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(
        f"{len(ids):4} tokens  {rows:5} rows x {len(graph.sources):6}  {processor:6.1f} s processor  {clock:6.1f} s"
        f"  {rows / clock:7.1f} rows/s  law {graph.law:.0e}  {most:6.0f} MiB\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
