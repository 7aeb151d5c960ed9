"""What exact neighbours and maps of decoder rows cost, in processor time and beside the usual libraries.

    pip install ".[cpu,umap]" && OMP_NUM_THREADS=1 python benchmarks/geometry_cost.py

Neighbours: 15 of each of 65,536 rows of width 768, beside the bare product of all rows with all in blocks (without any
selection), pynndescent and scikit-learn (which answers for 2,048 of the rows; its time is scaled), with their recall.
Maps: 24,000 rows by `geometry.decoder_map` and by umap-learn alone, with the share of neighbours that each keeps.
Clusters: 2,048 rows of the embedded SAE with 20 draws of the control. The other rows are seeded: bundles of 16 on
average, each row as far from its centre as that is long.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import numpy as np
from common import peak_memory, report

from mlxterp import SAE, geometry
from mlxterp.geometry import Neighbours, cosine_neighbours
from mlxterp.geometry.layouts import kept_neighbours
from mlxterp.variants import ReLU
from mlxterp.weights import SAEWeights

WIDTH, K, ASKED, BLOCK = 768, 15, 2048, 4096
NOTES = [
    "processor seconds of one run each, one thread, on a machine of two cores that other work shared",
    "memory is that of a quarter of the rows",
]


def unit_rows(n: int, seed: int = 0) -> np.ndarray:
    """float32, (n, 768), of norm 1."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(max(1, n // 16), WIDTH)).astype(np.float32)
    rows = centres[draw.integers(0, len(centres), n)] + draw.normal(size=(n, WIDTH)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def timed(job: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of all threads, and what came of it."""
    start = time.process_time()
    found = job()
    return time.process_time() - start, found


def product(rows: np.ndarray) -> None:
    for a in range(0, len(rows), BLOCK):
        for b in range(0, len(rows), BLOCK):
            np.matmul(rows[a : a + BLOCK], rows[b : b + BLOCK].T)


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Share of the exact neighbours that are among those found."""
    hits = [len(np.intersect1d(a, b)) for a, b in zip(found, exact, strict=True)]
    return sum(hits) / exact.size


def neighbours(n: int, figures: dict[str, Any]) -> None:
    rows = unit_rows(n)
    bare, _ = timed(lambda: product(rows))
    own, exact = timed(lambda: cosine_neighbours(rows, k=K))
    said = f"{K} neighbours of {n} × {WIDTH}: "
    figures[f"{said}bare product, s"] = bare
    figures[f"{said}mlxterp (exact), s"] = own
    figures[f"{said}mlxterp, × the bare product's time"] = own / bare
    figures[f"{said}mlxterp, peak memory beyond the rows, MiB"] = peak_memory(
        lambda: cosine_neighbours(rows[: n // 4], k=K)
    )
    from pynndescent import NNDescent
    from sklearn.neighbors import NearestNeighbors

    NNDescent(rows[:2000], metric="cosine", n_neighbors=K + 1, random_state=0, n_jobs=1)  # compiles
    theirs, index = timed(
        lambda: NNDescent(rows, metric="cosine", n_neighbors=K + 1, random_state=0, n_jobs=1)
    )
    figures[f"{said}pynndescent, s"] = theirs
    figures[f"{said}pynndescent, recall"] = recall(index.neighbor_graph[0][:, 1:], exact.ids)
    asked = np.random.default_rng(0).choice(n, min(n, ASKED), replace=False)
    fitted = NearestNeighbors(n_neighbors=K + 1, algorithm="brute", metric="cosine").fit(rows)
    theirs, ids = timed(lambda: fitted.kneighbors(rows[asked], return_distance=False))
    figures[f"{said}scikit-learn (brute), s, from {len(asked)} rows"] = theirs * n / len(asked)
    figures[f"{said}scikit-learn, recall"] = recall(ids[:, 1:], exact.ids[asked])


def maps(n: int, figures: dict[str, Any], seeds: Sequence[int] = (0, 1, 2)) -> None:
    small = unit_rows(5000, 1)
    geometry.decoder_map(reading(small))  # compiles
    umap_alone(small, 0)
    times, kept = [], []
    for seed in seeds:
        rows = unit_rows(n, seed + 1)
        theirs, points = timed(partial(umap_alone, rows, seed))
        own, drawn = timed(partial(geometry.decoder_map, reading(rows), seed=seed))
        assert drawn.distinct is not None
        near: Neighbours = drawn.distinct.neighbours
        times.append((theirs, own))
        kept.append((kept_neighbours(near, points, 0).value, drawn.kept.value))
    said = f"map of {n} rows, seeds {', '.join(map(str, seeds))}: "
    for i, name in enumerate(("umap-learn", "mlxterp")):
        figures[f"{said}{name}, s"] = [pair[i] for pair in times]
        figures[f"{said}share of neighbours kept, {name}"] = [pair[i] for pair in kept]
    figures[f"{said}× umap-learn's time"] = sum(own for _, own in times) / sum(theirs for theirs, _ in times)


def reading(rows: np.ndarray) -> SAE:
    """An SAE with these decoder rows."""
    zeros = np.zeros(len(rows), np.float32)
    return SAE(SAEWeights(rows.T.copy(), zeros, rows, np.zeros(WIDTH, np.float32)), ReLU(), {})


def umap_alone(rows: np.ndarray, seed: int) -> np.ndarray:
    """float32, (n, 2): by umap-learn, neighbours and all."""
    import umap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return umap.UMAP(
            n_neighbors=K, min_dist=0.05, metric="cosine", random_state=seed, n_jobs=1
        ).fit_transform(rows)


def clusters(figures: dict[str, Any]) -> None:
    _, sae, _ = mlxterp.load_demo()
    drawn = geometry.decoder_map(sae)
    seconds, found = timed(drawn.clusters)
    said = f"clusters of {len(drawn)} rows with {len(found.count.control)} draws"
    figures[f"{said}, s"] = seconds
    figures[f"{said}: clusters"] = str(found.count)
    figures[f"{said}: mean cosine within"] = str(found.tightness)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=65_536)
    parser.add_argument("--mapped", type=int, default=24_000)
    asked = parser.parse_args()
    figures: dict[str, Any] = {}
    for job in (
        lambda: neighbours(asked.rows, figures),
        lambda: maps(asked.mapped, figures),
        lambda: clusters(figures),
    ):
        job()
        report("geometry_cost", figures, NOTES)  # again after each part, so that none is lost


if __name__ == "__main__":
    main()
