"""Time and memory of an attribution graph: for each row, by features and positions, and beside circuit-tracer.

    python benchmarks/graph.py ../shared/data/models/tinystories_instruct_3m_gpt2    (growth)
    python benchmarks/graph.py ../shared/data/models/tinystories_instruct_3m_gpt2 --peer PYTHON [--rounds 3]
    python benchmarks/graph.py FOLDER --one PROMPT [--html FILE]    (one graph on any model: time, memory, law)

PYTHON is the interpreter of an environment with circuit-tracer (see graph_peers.py), which takes a GPT-2 here. The
transcoders are random (JumpReLU, 256 for each layer, each active on about 7 % of the tokens): they cost what trained
ones cost. Processor time on one thread, of whole graphs, in interleaved rounds; memory at the peak beyond what the
process held before. `--one` puts transcoders of 64 features on the upper half of the layers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import one_thread  # noqa: F401  isort: skip  (before all that computes)
import numpy as np
from common import peak_memory, report, results_path

import mlxterp
from mlxterp import SAE, AttributionGraph, InterpretableModel
from mlxterp.variants import JumpReLU
from mlxterp.weights import SAEWeights

FEATURES, ACTIVE = 256, 0.07
TOKENS = (8, 16, 32)
SIZES = (64, 256, 1024)
BATCHES = (64, 512)
"""Of the peer: its own is 512."""
LENGTHS = (11, 24)
"""Of prompts beside the peer."""
Weights = dict[str, np.ndarray]


def main() -> None:
    """Prints a line for each figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a folder or a hub repository")
    parser.add_argument("--peer", help="an interpreter")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, nargs="+", help="lengths of prompts")
    parser.add_argument("--backend", choices=("mlx", "torch"), help="one wing's growth")
    parser.add_argument("--one", metavar="PROMPT", help="one graph, of this prompt")
    parser.add_argument("--html", type=Path, help="with --one: write its page")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "mlxterp-graph")
    args = parser.parse_args()
    warnings.simplefilter("ignore", mlxterp.MlxterpWarning)
    if args.one:
        one_graph(args)
        return
    args.work.mkdir(parents=True, exist_ok=True)
    path = results_path("graph")
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows: dict[str, Any] = before.get("rows", {})
    notes = ["transcoders are random; processor time, one thread; MiB beyond the process"]
    if args.peer:
        found, version = beside_peer(args)
        rows |= found
        notes.append(f"beside circuit-tracer {version}, the same weights, prompt and features")
    else:
        rows |= growth(args)
        notes = before.get("notes", notes)
    report("graph", rows, notes)


# -- transcoders ----------------------------------------------------------------------------------


def prompt_of(model: InterpretableModel, length: int) -> list[int]:
    """The first tokens of a story, behind a special token."""
    text = " ".join(mlxterp.load_demo()[2][:4])
    first = getattr(model.tokenizer, "eos_token_id", 0)
    return [int(first), *model.tokenize(text)][:length]


def random_transcoders(model: InterpretableModel, ids: list[int], n: int = FEATURES) -> Weights:
    """JumpReLU, each feature active on a few of these tokens; their sum is as large as the MLP's output."""
    with model.trace(ids) as trace:
        kept = [(layer.mlp.input.save(), layer.mlp_out.save()) for layer in model.layers]
    assert trace is not None
    draw, found, get = np.random.default_rng(0), {}, model.language_model.backend.get
    for layer, (inputs, outputs) in enumerate(kept):
        x, y = (np.asarray(get(one))[0].astype(np.float32) for one in (inputs, outputs))
        encoder = (draw.normal(size=(x.shape[1], n)) / np.sqrt(x.shape[1])).astype(np.float32)
        z = x @ encoder
        bias = -np.quantile(z, 1 - ACTIVE, axis=0).astype(np.float32)
        decoder = draw.normal(size=(n, y.shape[1])).astype(np.float32)
        decoder *= np.linalg.norm(y) / max(np.linalg.norm(np.maximum(z + bias, 0) @ decoder), 1e-6)
        threshold = (0.05 * z.std() * np.abs(draw.normal(size=n))).astype(np.float32)
        values = (encoder, bias, decoder, np.zeros(y.shape[1], np.float32), threshold)
        names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
        found |= {f"{name}_{layer}": value for name, value in zip(names, values, strict=True)}
    return found


def transcoders(weights: Weights) -> dict[int, SAE]:
    """Layer → transcoder."""
    found, layer = {}, 0
    while f"W_enc_{layer}" in weights:
        parts = [weights[f"{name}_{layer}"] for name in ("W_enc", "b_enc", "W_dec", "b_dec")]
        extra = {"threshold": weights[f"threshold_{layer}"]}
        found[layer] = SAE(SAEWeights(*parts, subtract_b_dec=False, extra=extra), JumpReLU())
        layer += 1
    return found


# -- what is measured -----------------------------------------------------------------------------


def graph_of(
    model: InterpretableModel, ids: list[int], given: dict[int, SAE], features: int | None
) -> AttributionGraph:
    return model.attribution_graph(
        ids, given, max_features=features, conventions="circuit-tracer", verbose=False
    )


def timed(job: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds and what came of it."""
    start = time.process_time()
    found = job()
    return time.process_time() - start, found


def growth(args: argparse.Namespace) -> dict[str, Any]:
    """How time and memory grow with positions and features, in both wings."""
    rows: dict[str, Any] = {}
    for backend in [args.backend] if args.backend else mlxterp.available_backends():
        model = InterpretableModel(args.model, backend=backend)
        for length in args.tokens or TOKENS:
            ids = prompt_of(model, length)
            given = transcoders(random_transcoders(model, ids))
            graph_of(model, ids, given, 16)
            for size in SIZES:
                times = [timed(partial(graph_of, model, ids, given, size)) for _ in range(2)]
                seconds, graph = min(times, key=lambda pair: pair[0])
                name = f"{backend}, {length} tokens, {len(graph.targets)} rows × {len(graph.sources)} columns"
                rows[f"{name}: rows/s"] = len(graph.targets) / seconds
                rows[f"{name}: s"] = seconds
                rows[f"{name}: MiB"] = peak_memory(partial(graph_of, model, ids, given, size))
                tell(name, rows[f"{name}: rows/s"], rows[f"{name}: MiB"])
    return rows


class Peer:
    """circuit-tracer in a process of its own, which answers line by line."""

    def __init__(self, python: str, model: str, given: Path):
        script = str(Path(__file__).parent / "graph_peers.py")
        self._process = subprocess.Popen(
            [python, "-W", "ignore", script, "cost", model, str(given)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.version = self._answer()["version"]

    def ask(self, **what: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the peer has ended")
        return json.loads(line)


def beside_peer(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Rows for each second and memory, of all features, at two lengths; the peer at its best batch."""
    rows: dict[str, Any] = {}
    version = ""
    for length in args.tokens or LENGTHS:
        models = {name: InterpretableModel(args.model, backend=name) for name in mlxterp.available_backends()}
        first = next(iter(models.values()))
        ids = prompt_of(first, length)
        weights, path = random_transcoders(first, ids), args.work / f"given-{length}.npz"
        np.savez(path, allow_pickle=False, **weights, ids=np.array(ids))
        peer, given = Peer(args.peer, args.model, path), transcoders(weights)
        version = peer.version
        for model in models.values():
            graph_of(model, ids, given, 64)
        seconds, counted = rounds_of(args.rounds, peer, models, ids, given)
        best = min((statistics.median(seconds[f"circuit-tracer, batch {b}"]), b) for b in BATCHES)[1]
        for name, found in seconds.items():
            rows[f"{length} tokens, {name}: rows/s"] = counted / statistics.median(found)
            rows[f"{length} tokens, {name}: s"] = statistics.median(found)
            tell(f"{length} tokens, {name}", counted / statistics.median(found))
        for name, model in models.items():
            pairs = zip(seconds[f"circuit-tracer, batch {best}"], seconds[name], strict=True)
            rows[f"{length} tokens: {name} × circuit-tracer's best rows/s"] = statistics.median(
                theirs / ours for theirs, ours in pairs
            )
            rows[f"{length} tokens, {name}: MiB"] = peak_memory(partial(graph_of, model, ids, given, None))
        for batch in BATCHES:
            found = peer.ask(batch=batch, features=None, memory=True)["mib"]
            rows[f"{length} tokens, circuit-tracer, batch {batch}: MiB"] = found
        rows[f"{length} tokens: rows"] = counted
        peer.end()
    return rows, version


def rounds_of(
    rounds: int, peer: Peer, models: dict[str, InterpretableModel], ids: list[int], given: dict[int, SAE]
) -> tuple[dict[str, list[float]], int]:
    """Seconds of each in each round, and the rows of the graph, which are the same of all."""
    seconds: dict[str, list[float]] = {}
    counts = set()
    for _ in range(rounds):
        for name, model in models.items():
            found, graph = timed(partial(graph_of, model, ids, given, None))
            seconds.setdefault(name, []).append(found)
            counts.add(len(graph.targets))
        for batch in BATCHES:
            answer = peer.ask(batch=batch, features=None)
            seconds.setdefault(f"circuit-tracer, batch {batch}", []).append(answer["seconds"])
            counts.add(answer["rows"])
    assert len(counts) == 1, f"they make graphs of different sizes: {counts}"
    return seconds, counts.pop()


def one_graph(args: argparse.Namespace) -> None:
    """One graph on any model, with few random features in each layer of its upper half."""
    model = InterpretableModel(args.model)
    ids = model.tokenize(args.one)
    chosen = range(model.n_layers // 2, model.n_layers)
    drawn = transcoders(random_transcoders(model, ids, 64))
    given = {layer: one for layer, one in drawn.items() if layer in chosen}
    made: list[tuple[float, AttributionGraph]] = []
    memory = peak_memory(
        lambda: made.append(timed(partial(model.attribution_graph, ids, given, verbose=False)))
    )
    seconds, graph = made[0]
    small = graph.prune()
    rows: dict[str, Any] = {
        "tokens": len(ids), "layers": model.n_layers, "layers with transcoders": len(given),
        "active features": len(graph.features), "rows": len(graph.targets), "columns": len(graph.sources),
        "s": seconds, "rows/s": len(graph.targets) / seconds, "MiB": memory, "law": f"{graph.law:.1e}",
        "replacement score": graph.replacement_score, "completeness score": graph.completeness_score,
        "nodes after pruning": len(small.nodes), "edges after pruning": int(np.count_nonzero(small.matrix)),
    }  # fmt: skip
    if args.html:
        clock, _ = timed(partial(graph.to_html, args.html))
        rows |= {"page: s, effects measured": clock, "page: bytes": args.html.stat().st_size}
    report(
        f"graph_{Path(args.model).name}", rows,
        [f"prompt {args.one!r}, random transcoders of 64 features; processor time, one thread"],
    )  # fmt: skip


def tell(name: str, rate: float, memory: float | None = None) -> None:
    told = f"{name:60} {rate:8.1f} rows/s" + ("" if memory is None else f"  {memory:7.1f} MiB")
    sys.stdout.write(told + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
