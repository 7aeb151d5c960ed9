"""The feature index: where its time goes, memory and disk, questions, and what else can answer them.

    pip install ".[cpu,torch]" polars duckdb && python benchmarks/index.py --peer sae-vis=PYTHON --peer mi-crow=PYTHON

PYTHON are the interpreters of the peers' environments (see index_peers.py). The model is
tinystories_instruct_3m_gpt2 of ../shared (where that is absent, the embedded one), the texts its first 200,000
tokens of tinystories.txt; the SAE, TopK with 16,384 features and k 32, is trained on 600,000 tokens when this runs
first and kept in --work. One thread everywhere. Times are processor time unless "wall" is written: others may use
the machine. --part runs a part alone; its rows are put among those that are in results/ already.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import one_thread  # noqa: F401  isort: skip  (before all that computes)
import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import numpy as np
from common import RESULTS, peak_memory, report
from index_stages import STAGES, Stages

from mlxterp.weights import SAEWeights

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MODEL = SHARED / "models" / "tinystories_instruct_3m_gpt2"
TEXT = SHARED / "text" / "tinystories.txt"
D_HIDDEN, K, TOKENS, TRAINED_ON = 16_384, 32, 200_000, 600_000
QUESTIONS = 200


@dataclass(frozen=True, slots=True)
class Subject:
    """The model, its SAE and the texts."""

    model: mlxterp.InterpretableModel
    sae: mlxterp.SAE
    texts: list[str]

    @classmethod
    def on(
        cls,
        wing: str,
        work: Path,
        tokens: int = TOKENS,
        trained_on: int = TRAINED_ON,
        features: int = D_HIDDEN,
    ) -> Subject:
        if MODEL.exists():
            model = mlxterp.InterpretableModel(str(MODEL), backend=wing)
            stories = TEXT.read_text(encoding="utf-8").split("<|endoftext|>")
            texts = [story.strip() for story in stories if story.strip()]
        else:
            model, _, texts = mlxterp.load_demo(wing)
        folder = work / "sae"
        if not folder.exists():
            config = mlxterp.SAETrainConfig(d_hidden=features, k=K, tokens=trained_on)
            model.train_sae(len(model.layers) // 2, texts, "residual", config, save_path=folder)
        return cls(model, mlxterp.SAE.load(folder, backend=wing), first_tokens(model, texts, tokens))

    @property
    def layer(self) -> int:
        return int(str(self.sae.component).split(".")[1])

    def build(self, **options: Any) -> mlxterp.FeatureIndex:
        return self.model.build_index(self.sae, self.texts, verbose=False, **options)

    def scan(self, feature_id: int) -> Any:
        return self.model.get_top_texts_for_feature(feature_id, self.sae, self.texts, self.layer, "residual")


def first_tokens(model: mlxterp.InterpretableModel, texts: list[str], tokens: int) -> list[str]:
    """As many texts as hold so many tokens."""
    total, chosen = 0, []
    for text in texts:
        if total >= tokens:
            break
        total += len(model.language_model.tokenize(text))
        chosen.append(text)
    return chosen


def seconds_of(job: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> float:
    start = clock()
    job()
    return clock() - start


def stages(args: argparse.Namespace) -> dict[str, Any]:
    """Where a build's time goes."""
    rows: dict[str, Any] = {}
    for wing in args.wings:
        subject = Subject.on(wing, args.work, args.tokens, args.trained_on, args.features)
        Subject(subject.model, subject.sae, subject.texts[:20]).build()  # everything is imported and in place
        found = [measured_build(subject) for _ in range(args.rounds)]
        tokens = found[0][1]
        whole = [sum(seconds.values()) for seconds, _ in found]
        rows[f"{wing}: tokens"] = tokens
        rows[f"{wing}: tokens/s of processor time, whole pass"] = round(tokens / float(np.median(whole)))
        for stage in STAGES:
            rows[f"{wing}: share of {stage}"] = float(
                np.median([seconds[stage] / sum(seconds.values()) for seconds, _ in found])
            )
        rows[f"{wing}: share of the index"] = sum(rows[f"{wing}: share of {stage}"] for stage in STAGES[3:])
    return rows


def batches(args: argparse.Namespace) -> dict[str, Any]:
    """See index_batches.py."""
    from index_batches import rows_of

    rows: dict[str, Any] = {}
    for wing in args.wings:
        subject = Subject.on(wing, args.work, args.tokens, args.trained_on, args.features)
        found = rows_of(subject.model, subject.sae, subject.texts, args.rounds)
        rows |= {f"{wing}: {name}": value for name, value in found.items()}
    return rows


def measured_build(subject: Subject) -> tuple[dict[str, float], int]:
    with Stages(subject.model.language_model) as taken:
        index = subject.build()
    return taken.seconds, index.n_tokens + sum(index.excluded.values())


def questions(args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of each question, and 1000 features with and without an index."""
    subject = Subject.on(args.wings[0], args.work, args.tokens, args.trained_on, args.features)
    built: list[mlxterp.FeatureIndex] = []
    build = seconds_of(lambda: built.append(subject.build()))
    [index] = built
    size = sum(file.stat().st_size for file in index.path.rglob("*") if file.is_file())
    counted = index.n_tokens + sum(index.excluded.values())
    rows: dict[str, Any] = {
        "live features": len(index.live),
        "disk, bytes for each token": size / counted,
    }
    opened = [
        1000 * seconds_of(lambda: mlxterp.FeatureIndex.open(index.path), time.perf_counter) for _ in range(20)
    ]
    rows["open, ms wall, p50"] = float(np.median(opened))
    chosen = random.Random(0)
    features = chosen.sample(index.live.tolist(), QUESTIONS)
    words = [w for text in subject.texts[:50] for w in text.split() if w.isalpha()]
    asked: dict[str, Callable[[int], Any]] = {
        "top_texts": lambda i: index.top_texts(features[i]),
        "examples": lambda i: index.examples(features[i]),
        "stats": lambda i: index.stats(features[i]),
        "feature (card)": lambda i: index.feature(features[i]),
        "coactivation": lambda i: index.coactivation(features[i]),
        "search": lambda i: index.search(words[i]),
        "features_for_token": lambda i: index.features_for_token(words[i]),
        "top_features (runs the model)": lambda i: index.top_features(subject.texts[i % len(subject.texts)]),
    }
    for name, ask in asked.items():
        n = QUESTIONS if name in ("top_texts", "examples", "stats") else 40
        for label, clock in (("", time.process_time), (" wall", time.perf_counter)):
            taken = [1000 * seconds_of(lambda i=i, ask=ask: ask(i), clock) for i in range(n)]
            for q in (50, 95):
                rows[f"{name}, ms{label}, p{q}"] = float(np.percentile(taken, q))
    thousand = [chosen.choice(index.live.tolist()) for _ in range(1000)]
    answers = seconds_of(lambda: [index.top_texts(f) for f in thousand])
    scans = []
    for feature in features[: args.scans]:
        subject.model.feature_cache.clear()
        scans.append(seconds_of(lambda f=feature: subject.scan(f)))
    cached = [seconds_of(lambda f=feature: subject.scan(f)) for feature in features[:10]]
    scan = float(np.median(scans))
    return rows | {
        "1000 features: s, questions to the index": answers,
        "1000 features: s, the build": build,
        f"1000 features: s, a scan for each ({args.scans} measured, scaled)": 1000 * scan,
        "1000 features: s, one scan and its cache (10 measured, scaled)": scan
        + 999 * float(np.median(cached)),
        "1000 features: scans × the questions": 1000 * scan / answers,
        "1000 features: scans × (the build and the questions)": 1000 * scan / (build + answers),
        "1000 features: the cache × the questions": (scan + 999 * float(np.median(cached))) / answers,
    }


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of a build beyond what its process held, each in a process of its own."""
    rows: dict[str, Any] = {}
    for d_hidden in (D_HIDDEN, 4 * D_HIDDEN):
        for tokens in (TOKENS // 4, TOKENS // 2, TOKENS):
            command = [sys.executable, __file__, "--memory", d_hidden, tokens, "--wings", args.wings[0]]
            command += ["--work", args.work]
            done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
            rows[f"peak extra MiB: {d_hidden} features, {tokens} tokens"] = json.loads(
                done.stdout.splitlines()[-1]
            )
            sys.stdout.write(f"{d_hidden} {tokens}: {done.stdout.splitlines()[-1]}\n")
            sys.stdout.flush()
    return rows


def memory_of_one(args: argparse.Namespace) -> None:
    d_hidden, tokens = args.memory
    subject = Subject.on(args.wings[0], args.work, tokens)
    subject = Subject(subject.model, widened(subject.sae, d_hidden), subject.texts)
    Subject(subject.model, subject.sae, subject.texts[:20]).build()  # everything is imported and in place
    peak = peak_memory(subject.build)
    sys.stdout.write(f"\n{json.dumps(peak)}\n")


def widened(sae: mlxterp.SAE, d_hidden: int) -> mlxterp.SAE:
    """The SAE with noisy copies of its features, so that densities stay as they are."""
    copies = d_hidden // sae.d_hidden
    if copies == 1:
        return sae
    noise = np.random.default_rng(0).normal(1, 0.3, (sae.d_model, d_hidden)).astype(np.float32)
    weights = SAEWeights(
        np.tile(sae.W_enc, copies) * noise,
        np.tile(sae.b_enc, copies),
        np.tile(sae.W_dec, (copies, 1)),
        sae.b_dec,
    )
    return sae.replace(weights)


def step(args: argparse.Namespace) -> dict[str, Any]:
    """See index_step.py."""
    from index_step import rows_of

    return {
        name: value for millions in args.millions for name, value in rows_of(millions, args.rounds).items()
    }


def peers(args: argparse.Namespace) -> dict[str, Any]:
    """Each peer, and ours beside it: seconds for every feature of the SAE on the texts."""
    rows: dict[str, Any] = {}
    for name, python in (peer.split("=", 1) for peer in args.peer):
        folder = args.work / "saelens"
        subject = Subject.on("torch", args.work)
        if not folder.exists():
            subject.sae.save(folder, format="saelens")
        given = args.work / "texts.json"
        given.write_text(json.dumps(subject.texts), encoding="utf-8")
        command = [python, str(Path(__file__).parent / "index_peers.py"), name, "--model", str(MODEL)]
        command += ["--sae", str(folder), "--texts", str(given), "--component", str(subject.sae.component)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            rows[f"{name}: did not run"] = done.stderr.strip().splitlines()[-1]
            continue
        theirs = json.loads(done.stdout.splitlines()[-1])
        rows[f"{name}: what it does"] = theirs["does"]
        rows[f"{name}: s for all features"] = theirs["seconds"]
        for wing in args.wings:
            build, examples = build_and_examples(Subject.on(wing, args.work))
            rows[f"{name}: s of ours beside it ({wing}), the build and 20 examples of each feature"] = (
                build + examples
            )
            rows[f"{name}: ours ({wing}) × its speed"] = theirs["seconds"] / (build + examples)
            rows[f"{name}: ours ({wing}) × its speed, the build alone"] = theirs["seconds"] / build
    return rows


def build_and_examples(subject: Subject) -> tuple[float, float]:
    """Seconds of the build, and of 20 examples with their tokens of every feature."""
    built: list[mlxterp.FeatureIndex] = []
    build = seconds_of(lambda: built.append(subject.build()))
    [index] = built
    return build, seconds_of(lambda: sum(1 for _ in index.all_examples(20)))


PARTS = {
    "stages": stages, "batches": batches, "memory": memory, "questions": questions, "step": step, "peers": peers
}  # fmt: skip
NOTES = [
    "processor time of one thread, but for what says wall",
    "the index's share is everything that is not tokenizing, model or encoder",
    "memory includes pages of the index's own files that the process has mapped",
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--wings", nargs="+", default=mlxterp.available_backends()[::-1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scans", type=int, default=3, help="searches without an index that are measured")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of the texts that are indexed")
    parser.add_argument(
        "--trained-on", type=int, default=TRAINED_ON, help="tokens that the SAE is trained on"
    )
    parser.add_argument("--features", type=int, default=D_HIDDEN)
    parser.add_argument("--millions", type=int, nargs="+", default=[8])
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "mlxterp-index")
    parser.add_argument("--memory", type=int, nargs=2, help="used by the benchmark itself")
    args = parser.parse_args()
    if args.memory:
        memory_of_one(args)
        return
    found: dict[str, Any] = {}
    for part in args.part:
        found |= PARTS[part](args)
    before = next(iter(RESULTS.glob(f"index-{sys.platform}-*.json")), None)
    kept = {} if before is None or set(args.part) == set(PARTS) else json.loads(before.read_text())["rows"]
    report("index", kept | found, NOTES)


if __name__ == "__main__":
    main()
