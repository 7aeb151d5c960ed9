"""The index step alone: from (token, feature, activation) triples to every feature's strongest tokens and figures.

    pip install ".[cpu,torch]" polars duckdb && python benchmarks/index_step.py --millions 8

Synthetic triples: 32,768 features whose densities are spread over five orders of magnitude, 32 of them active on
a token. Asked of each feature: its 20 strongest tokens with their activations, how often it fires, the sum and
the largest of its activations. Ours is what an index does: shards of 65,536 tokens, each transposed (the index
writes the transpose down), then `TopN` and the sums. polars and DuckDB each answer in two ways, of which the
faster one counts; dense is a scatter into (features, 1024 tokens) and `torch.topk`, timed on some chunks and
scaled to all. One thread, processor time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import one_thread  # noqa: F401  isort: skip  (before all that computes)
import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import numpy as np
import torch
from common import interleaved, ratio, report

from mlxterp.core.ranking import TopN

D_HIDDEN, K, N = 32_768, 32, 20
SHARD = 1 << 16
DENSE_TOKENS, DENSE_CHUNKS = 1024, 4
MANY, FASTER = 16, ("polars, top_k_by", "DuckDB, max_by")
"""Above so many millions only these ways are timed: they are the faster ones at 8."""
Answer = tuple[np.ndarray, np.ndarray]
"""Of features that fire, ascending: counts, and the sum of the 20 strongest activations."""


def triples(tokens: int, seed: int = 0) -> mlxterp.SparseFeatures:
    """Features of so many tokens."""
    rng = np.random.default_rng(seed)
    share = np.cumsum(rng.lognormal(0, 2, D_HIDDEN))
    parts = []
    for first in range(0, tokens, SHARD):
        n = min(SHARD, tokens - first)
        ids = np.searchsorted(share, rng.random((n, K + 8)) * share[-1]).clip(0, D_HIDDEN - 1)
        ids.sort(axis=1)
        new = np.diff(ids, axis=1, prepend=-1) != 0
        new &= np.cumsum(new, axis=1) <= K
        values = rng.lognormal(0, 1, int(new.sum())).astype(np.float32)
        indptr = np.concatenate([[0], np.cumsum(new.sum(axis=1))])
        parts.append(mlxterp.SparseFeatures(indptr, ids[new].astype(np.int32), values, D_HIDDEN))
    return mlxterp.SparseFeatures.concat(parts)


def ours(features: mlxterp.SparseFeatures) -> Answer:
    strongest = TopN(D_HIDDEN, N)
    count, total = np.zeros(D_HIDDEN, np.int64), np.zeros(D_HIDDEN)
    largest = np.zeros(D_HIDDEN, np.float32)
    for number, block in enumerate(features.blocks(SHARD)):
        by_feature = block.transpose()
        strongest.add(by_feature, number * SHARD)
        found = np.diff(by_feature.indptr)
        active = np.flatnonzero(found)
        starts = by_feature.indptr[active]
        count += found
        total[active] += np.add.reduceat(by_feature.values, starts, dtype=np.float64)
        largest[active] = np.maximum(largest[active], np.maximum.reduceat(by_feature.values, starts))
    fires = np.flatnonzero(count)
    return count[fires], strongest.values[fires].sum(axis=1, dtype=np.float64)


def polars_jobs(columns: dict[str, np.ndarray]) -> dict[str, Callable[[], Answer]]:
    import polars as pl  # type: ignore[import-not-found]

    frame = pl.DataFrame(columns)
    value, token = pl.col("value"), pl.col("token")
    figures = (pl.len(), value.sum().alias("total"), value.max().alias("largest"))

    def answer(found: Any) -> Answer:
        found = found.sort("feature")
        return found["len"].to_numpy(), found["values"].list.sum().to_numpy()

    def top_k_by() -> Answer:
        tables = (token.top_k_by("value", N), value.top_k(N).alias("values"))
        return answer(frame.lazy().group_by("feature").agg(*figures, *tables).collect())

    def sort_head() -> Answer:
        ordered = frame.lazy().sort("value", descending=True).group_by("feature", maintain_order=True)
        return answer(ordered.agg(*figures, token.head(N), value.head(N).alias("values")).collect())

    return {"polars, top_k_by": top_k_by, "polars, sort and head": sort_head}


def duckdb_jobs(columns: dict[str, np.ndarray]) -> dict[str, Callable[[], Answer]]:
    import duckdb  # type: ignore[import-not-found]

    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    connection.register("given", columns)
    connection.execute("CREATE TABLE triples AS SELECT * FROM given")
    connection.unregister("given")

    def run(query: str) -> Answer:
        connection.execute(f"CREATE OR REPLACE TEMP TABLE found AS {query}")
        rows = connection.execute("SELECT n, top FROM found ORDER BY feature").fetchnumpy()
        return rows["n"], rows["top"]

    aggregate = f"""SELECT feature, n, total, largest, tokens, strongest, list_sum(strongest) AS top FROM (
        SELECT feature, count(*) AS n, sum(value) AS total, max(value) AS largest,
        max_by(token, value, {N}) AS tokens, max(value, {N}) AS strongest FROM triples GROUP BY feature)"""
    window = f"""SELECT feature, any_value(n) AS n, any_value(total) AS total, any_value(largest) AS largest,
        list(token) AS tokens, list(value) AS strongest, sum(value) AS top FROM (
        SELECT *, count(*) OVER all_of AS n, sum(value) OVER all_of AS total, max(value) OVER all_of AS largest,
        FROM triples WINDOW all_of AS (PARTITION BY feature)
        QUALIFY row_number() OVER (PARTITION BY feature ORDER BY value DESC) <= {N}) GROUP BY feature"""
    return {"DuckDB, max_by": lambda: run(aggregate), "DuckDB, window": lambda: run(window)}


def dense_job(features: mlxterp.SparseFeatures) -> Callable[[], None]:
    """The first chunks only."""
    blocks = [b for _, b in zip(range(DENSE_CHUNKS), features.blocks(DENSE_TOKENS), strict=False)]

    def run() -> None:
        best = torch.zeros((D_HIDDEN, N))
        tokens = torch.full((D_HIDDEN, N), -1)
        for number, block in enumerate(blocks):
            dense = torch.zeros((D_HIDDEN, DENSE_TOKENS))
            dense[torch.from_numpy(block.indices), torch.from_numpy(block.row_ids)] = torch.from_numpy(
                block.values
            )
            values, at = dense.topk(N, dim=1)
            best, order = torch.cat([best, values], dim=1).topk(N, dim=1)
            tokens = torch.cat([tokens, at + number * DENSE_TOKENS], dim=1).gather(1, order)

    return run


def rows_of(millions: int, rounds: int) -> dict[str, Any]:
    """Seconds of each, and how many times faster ours is; of many triples the slower ways are left out."""
    features = triples(millions * 1_000_000 // K)
    columns = {
        "token": features.row_ids.astype(np.int32),
        "feature": features.indices,
        "value": features.values,
    }
    jobs: dict[str, Callable[[], Any]] = {"mlxterp": lambda: ours(features)}
    peers = polars_jobs(columns) | duckdb_jobs(columns)
    if millions > MANY:
        peers = {name: job for name, job in peers.items() if name in FASTER}
    expected = ours(features)
    for name, job in peers.items():
        counts, top = job()
        assert np.array_equal(counts, expected[0]) and np.allclose(top, expected[1], rtol=1e-4), name
    jobs |= peers | {"dense top-k": dense_job(features)}
    times = interleaved(jobs, rounds, 0, time.process_time)
    scale = -(-features.n // DENSE_TOKENS) / DENSE_CHUNKS
    times["dense top-k"] = [seconds * scale for seconds in times["dense top-k"]]
    label = f"index step, {len(features.values) / 1e6:.1f} M triples: "
    rows: dict[str, Any] = {f"{label}{name}, s": round(min(seconds), 3) for name, seconds in times.items()}
    for peer in ("polars", "DuckDB", "dense"):
        variants = [name for name in times if name.startswith(peer)]
        rows[f"{label}× the speed of {peer}"] = min(ratio(times, name, "mlxterp") for name in variants)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--millions", type=int, nargs="+", default=[8])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    found: dict[str, Any] = {}
    for millions in args.millions:
        found |= rows_of(millions, args.rounds)
        sys.stdout.flush()
    report("index_step", found, ["one thread, processor time; dense timed on some chunks and scaled"])
