"""What a page asks of a large index, against an older version of this package in the same run.

    git worktree add /tmp/before 4309cf2
    python benchmarks/explorer_index.py --against /tmp/before

Both build an index of made-up activations on real sentences (65,536 features, 16 shards, 20 million pairs by
default) with the embedded model and a random SAE, and are asked the same questions in turn. Ratios are of processor
time, medians over rounds, with their range; answers are compared. Without `--against` only the ratios within this
version are printed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import one_thread  # noqa: F401  isort: skip  (before all that computes, here and in the processes that are started)
import numpy as np

HERE = Path(__file__).resolve()
JOBS = {
    "similar": 8, "product": 8, "coactivation": 100, "features_for_token": 20, "search": 20, "examples": 20, "card": 8
}  # fmt: skip
"""How many questions of each kind are asked in a round: words differ by ten times in what they cost either version, and
a hundred features' co-activation takes a few milliseconds, so that fewer would measure which ones were drawn."""


# -- the side that is asked: runs in a process of its own, with either version ------------------


def sentences(stories: list[str], tokens_of: Callable[[str], int], wanted: int) -> list[str]:
    """Texts of at most 240 tokens, made of the stories' sentences in random order, so many tokens in all."""
    known = [part + "." for story in stories for part in re.split(r"(?<=[.!?])\s+", story) if part]
    lengths = [tokens_of(part) for part in known]
    draw, found, held = random.Random(0), [], 0
    while held < wanted:
        parts, size = [], 0
        while True:
            one = draw.randrange(len(known))
            if size + lengths[one] > 240:
                break
            parts.append(known[one])
            size += lengths[one]
        found.append(" ".join(parts))
        held += size
    return found


def made_up(d_hidden: int, vocabulary: int) -> Callable[..., Any]:
    """In place of encoding: 20 of 80 features that belong to a token's id, 5 that belong to the text so far."""
    draw = np.random.default_rng(0)
    own = np.stack([draw.choice(d_hidden, 80, replace=False) for _ in range(vocabulary)])

    def encode(_model: Any, plan: Any, _sae: Any, _component: Any, _rule: Any, *_more: Any) -> Any:
        from mlxterp.index.building import EncodedShard

        kind = sparse_features()
        tokens = np.concatenate([piece.tokens for piece in plan.pieces])
        hashes = mixed(np.concatenate([piece.prefixes for piece in plan.pieces]))
        window = (hashes % np.uint64(61)).astype(np.int64)
        usual = own[tokens][np.arange(len(tokens))[:, None], window[:, None] + np.arange(20)]
        each = mixed(hashes[:, None] + np.arange(1, 6, dtype=np.uint64))
        free = (each % np.uint64(d_hidden)).astype(np.int64)
        pairs = np.arange(len(tokens))[:, None] * d_hidden + np.concatenate([usual, free], axis=1)
        pairs = np.unique(pairs)
        rows, ids = pairs // d_hidden, pairs % d_hidden
        values = (
            0.5 + (mixed(hashes[rows] ^ ids.astype(np.uint64)) >> np.uint64(40)).astype(np.float32) / 2**22
        )
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(tokens)))]).astype(np.int64)
        features = kind(starts, ids.astype(np.int32), values.astype(np.float32), d_hidden)
        return EncodedShard(features.transpose(), {})

    return encode


def replace_encoding(building: Any, encode: Callable[..., Any]) -> None:
    """Puts it in place of the one of this version, which may encode for several SAEs at once."""
    if hasattr(building, "encode_shards"):
        building.encode_shards = lambda _model, plan, readings, *_more: [
            encode(None, plan, None, None, None) for _ in readings
        ]
    else:
        building.encode_shard = encode


def sparse_features() -> Any:
    """The class, where this version has it."""
    try:
        return importlib.import_module("mlxterp.core.sparse").SparseFeatures
    except ImportError:
        return importlib.import_module("mlxterp.sparse").SparseFeatures


def compare_digests(index: Any) -> None:
    """Compares the files of an index of this version, which it does once when they are first read.

    An older version has no digests.
    """
    if not hasattr(index, "_derived"):
        return
    derived = index._derived
    files = derived.table, derived.tokens._arrays, derived.places._arrays
    for file in (*index._reader.shards(), *files):
        file.check()
    derived.sampled(0)


def mixed(numbers: np.ndarray) -> np.ndarray:
    """uint64: numbers scattered over all there are."""
    numbers = (numbers ^ (numbers >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
    return numbers ^ (numbers >> np.uint64(29))


class Asked:
    """An index, and what can be asked of it."""

    def __init__(self, folder: Path, d_hidden: int, tokens: int):
        import mlxterp
        from mlxterp import SAE, FeatureIndex
        from mlxterp.index import building
        from mlxterp.variants import TopK
        from mlxterp.weights import SAEWeights

        self.model, _, stories = mlxterp.load_demo()
        rows = np.random.default_rng(1).standard_normal((d_hidden, self.model.d_model)).astype(np.float32)
        zeros = np.zeros(d_hidden, np.float32), np.zeros(self.model.d_model, np.float32)
        weights = SAEWeights(rows.T.copy(), zeros[0], rows, zeros[1])
        self.sae = SAE(weights, TopK(25), {"component": "layers.1.resid_post"})
        self.seconds = 0.0
        if not (folder / "done").exists():
            texts = sentences(list(stories), lambda text: len(self.model.tokenize(text)), tokens)
            encode = made_up(d_hidden, self.model.language_model.vocab_size)
            replace_encoding(building, encode)
            begin = time.process_time()
            self.model.build_index(
                self.sae, texts, folder, exclude=(), shard_tokens=-(-tokens // 16) + 240, verbose=False
            )
            (folder / "done").write_text(str(time.process_time() - begin))
        self.index = FeatureIndex.open(folder, self.model, self.sae)
        compare_digests(self.index)

    def facts(self) -> dict[str, Any]:
        shards = self.index._meta.shards
        words = sorted(
            {piece.strip() for piece in self.index._pieces.values() if re.fullmatch(r" [a-z]{3,8}", piece)}
        )
        files = {path.name: path.stat().st_size for path in self.index.path.glob("*.safetensors")}
        files["shards"] = sum(path.stat().st_size for path in self.index.path.glob("shards/*"))
        built = float((self.index.path / "done").read_text())
        return {
            "shards": len(shards), "pairs": sum(shard.pairs for shard in shards), "tokens": self.index.n_tokens,
            "features": self.index.d_hidden, "words": words, "bytes": files, "built": built,
        }  # fmt: skip

    def similar(self, feature: int) -> Any:
        return self.index.similar(feature)

    def product(self, feature: int) -> Any:
        return float((self.sae.W_dec @ self.sae.W_dec[feature])[0])

    def coactivation(self, feature: int) -> Any:
        return self.index.coactivation(feature)

    def features_for_token(self, word: str) -> Any:
        return self.index.features_for_token(word)

    def search(self, word: str) -> Any:
        return [hit[:2] for hit in self.index.search(word)]

    def examples(self, feature: int) -> Any:
        return [
            (e.text_id, e.position, e.tokens, e.activations.tolist()) for e in self.index.examples(feature)
        ]

    def card(self, feature: int) -> Any:
        card = self.index.feature(feature)
        return [(e.text_id, e.position) for e in card.examples[0][1]], card.stats.count

    def stats(self, feature: int) -> Any:
        return self.index.stats(feature).count

    def all_examples(self, n: int) -> Any:
        return sum(len(block) for block in self.index.all_examples(n).blocks())

    def table(self, _: int) -> Any:
        from mlxterp import FeatureIndex

        return len(FeatureIndex.open(self.index.path).table())

    def memory(self, n: int) -> Any:
        sys.path.insert(0, str(HERE.parent))
        from common import peak_memory

        return peak_memory(lambda: self.all_examples(n))


def serve(folder: Path, d_hidden: int, tokens: int) -> None:
    """Answers lines of JSON until there are no more."""
    asked = Asked(folder, d_hidden, tokens)
    print(json.dumps(asked.facts()), flush=True)
    for line in sys.stdin:
        job, items = json.loads(line)
        call = getattr(asked, job)
        begin = time.process_time()
        answers = [call(item) for item in items]
        print(json.dumps([time.process_time() - begin, answers]), flush=True)


# -- the side that asks -------------------------------------------------------------------------


class Version:
    """A process with one version of the package."""

    def __init__(self, root: Path, folder: Path, d_hidden: int, tokens: int):
        command = [sys.executable, "-W", "ignore", str(HERE), "--serve", str(folder)]
        command += ["--features", str(d_hidden), "--tokens", str(tokens)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
        )  # fmt: skip
        self.facts = self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("The process of one version ended; its message stands above.")
        return json.loads(line)

    def ask(self, job: str, items: list[Any]) -> tuple[float, list[Any]]:
        """Seconds of processor time, and the answers."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([job, items]) + "\n")
        self._process.stdin.flush()
        seconds, answers = self._read()
        return seconds, answers

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def same(one: Any, other: Any) -> bool:
    """Whether answers are equal, numbers but for rounding."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) or isinstance(other, float):
        return bool(np.isclose(one, other, rtol=1e-6, atol=1e-9))
    return one == other


def questions(draw: random.Random, facts: dict[str, Any]) -> dict[str, list[Any]]:
    """What is asked in a round."""
    kinds = {"features_for_token", "search"}
    return {
        job: draw.sample(facts["words"], n) if job in kinds else draw.sample(range(facts["features"]), n)
        for job, n in JOBS.items()
    }


def ratios(
    versions: dict[str, Version], rounds: int
) -> tuple[dict[str, list[dict[str, float]]], dict[str, int]]:
    """Seconds of each job, round and version; and how many answers differed."""
    draw, times = random.Random(0), {job: [] for job in JOBS}
    differing = dict.fromkeys(JOBS, 0)
    for number in range(-1, rounds):  # the first warms up
        asked = questions(draw, versions["now"].facts)
        for job, items in asked.items():
            found = {}
            for name in draw.sample(list(versions), len(versions)):
                found[name] = versions[name].ask(job, items)
            if number < 0:
                continue
            times[job].append({name: seconds for name, (seconds, _) in found.items()})
            if "before" in found:
                pairs = zip(found["now"][1], found["before"][1], strict=True)
                differing[job] += sum(not same(*pair) for pair in pairs)
    return times, differing


def told(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f}× ({min(values):.2f} to {max(values):.2f})"


def sweeps(version: Version, n: int, rounds: int) -> dict[str, Any]:
    """One sweep over all features against asking feature by feature, from a sample."""
    draw, d_hidden, rows = random.Random(1), version.facts["features"], {}
    each = {"all_examples": ("examples", 200), "table": ("stats", 400)}
    for job, (single, sample) in each.items():
        found = []
        for _ in range(rounds):
            seconds, _ = version.ask(job, [n])
            one, _ = version.ask(single, draw.sample(range(d_hidden), sample))
            found.append(one / sample * d_hidden / seconds)
        rows[f"{job} of all features, against `{single}` of each"] = told(found)
    rows["memory at the peak of all_examples, MiB"] = round(version.ask("memory", [n])[1][0] or 0, 1)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="a folder with an older version")
    parser.add_argument("--features", type=int, default=65_536)
    parser.add_argument("--tokens", type=int, default=818_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where indexes are kept for another run")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve, options.features, options.tokens)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        roots = {"now": HERE.parent.parent} | ({} if options.against is None else {"before": options.against})
        versions = {
            name: Version(root.resolve(), (folder / name).resolve(), options.features, options.tokens)
            for name, root in roots.items()
        }
        measured(versions, options.rounds)


def measured(versions: dict[str, Version], rounds: int) -> None:
    """Prints and keeps what was found."""
    sys.path.insert(0, str(HERE.parent))
    from common import report

    now = versions["now"].facts
    times, differing = ratios(versions, rounds)
    rows: dict[str, Any] = {}
    for job in JOBS:
        if "before" in versions and job != "product":
            rows[f"{job}: before / now"] = told([one["before"] / one["now"] for one in times[job]])
            rows[f"{job}: answers that differ"] = f"{differing[job]} of {rounds * JOBS[job]}"
        rows[f"{job}: ms"] = round(1e3 * statistics.median(one["now"] for one in times[job]) / JOBS[job], 3)
    products = zip(times["similar"], times["product"], strict=True)
    rows["similar / its float32 product"] = told([a["now"] / b["now"] for a, b in products])
    rows |= sweeps(versions["now"], 20, max(2, rounds // 2))
    for name, version in versions.items():
        size = sum(version.facts["bytes"].values())
        rows[f"MB on disk, {name}"] = round(size / 1e6, 1)
        rows[f"seconds to build without the model, {name}"] = round(version.facts["built"], 1)
        version.close()
    report(
        "explorer_index", rows,
        [f"{now['features']} features, {now['tokens']} tokens, {now['pairs']} pairs, {now['shards']} shards",
         "processor time, one thread; median over rounds, with the range; digests of all files compared before"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
