"""What the explorer takes: bytes of its table and of a site, answers of the server, lists in the browser, steering.

    python benchmarks/explorer.py                                     # 65,536 features, 818,000 tokens
    python benchmarks/explorer.py --tokens 100000 --folder /tmp/kept  # smaller, and kept for another run
    python benchmarks/explorer.py --peer sae-dashboard=PYTHON --peer sae-vis=PYTHON    # pages of 256 features alone

The index is that of `explorer_index.py`: made-up activations on real sentences, the embedded model, a random SAE. Times
are wall clock, medians, and printed as ratios: to an empty request of the same server, to the same generation without
it, to a request for one feature. The browser's part needs Playwright and Chromium, and is left out without them.

`--peer` compares with what other dashboards take from texts to the pages of 256 features, in environments of their own
(explorer_peers.py; PYTHON is the interpreter): processor time, with the GPT-2 and the stories of ../shared and a random
SAE, ours beside each. Its rows are put among those that are in results/ already.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import numpy as np
from common import report, results_path
from explorer_index import Asked

from mlxterp import steering
from mlxterp.explorer import Explorer
from mlxterp.variants import TopK
from mlxterp.weights import SAEWeights

ROUNDS, SITE, TOKENS = 25, 512, 60
"""Requests of a kind; features of the site that is measured; tokens of a generation."""
PAGES, SAE_FEATURES, K, MOST_TOKENS = 256, 4096, 32, 100_000
"""Pages that peers make; the SAE they are of, and the tokens they read, at most."""
NOTES = [
    "Wall clock, medians; the index is made up, its sentences and the model are real.",
    "Pages beside other dashboards: processor time; a random SAE on real stories.",
]
SORTS = ("sort=-max", "sort=density", "density=%3E0.001&sort=-mean", "q=little")


class Asking:
    """A connection to an explorer that is kept open."""

    def __init__(self, url: str):
        parts = urlsplit(url)
        self._token = parts.query.removeprefix("t=")
        self._connection = http.client.HTTPConnection(str(parts.netloc), timeout=120)

    def get(self, path: str) -> bytes:
        """An answer's body."""
        self._connection.request("GET", f"/api/{path}", headers={"X-Mlxterp-Token": self._token})
        answer = self._connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        return body

    def steered(self, said: dict[str, Any], until: int | None = None) -> tuple[float, float]:
        """Seconds to the first piece, and to the last (or until so many have come, when the connection breaks)."""
        begin, first, pieces = time.perf_counter(), 0.0, 0
        headers = {"X-Mlxterp-Token": self._token, "Content-Type": "application/json"}
        self._connection.request("POST", "/api/0/steer", json.dumps(said), headers)
        answer = self._connection.getresponse()
        for line in answer:
            if b'"piece"' in line:
                first = first or time.perf_counter() - begin
                pieces += 1
                if pieces == until:
                    break
        if until is not None:
            self._connection.close()
        return first, time.perf_counter() - begin


def of_processor(job: Callable[[], object]) -> float:
    """Seconds of processor time."""
    begin = time.process_time()
    job()
    return time.process_time() - begin


def median(job: Callable[[Any], object], items: list[Any]) -> float:
    """Median seconds over items."""
    found = []
    for item in items:
        begin = time.perf_counter()
        job(item)
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def of_server(explorer: Explorer, asked: Asked) -> dict[str, Any]:
    """Bytes of the table, and answers as multiples of an empty request."""
    client, draw = Asking(explorer.url), random.Random(0)
    table = client.get("0/table")
    ids = draw.sample(range(asked.index.d_hidden), ROUNDS)
    for path in ("feature", "logits"):  # what is read once
        client.get(f"0/{path}/{ids[0]}")
    empty = median(lambda _: client.get("status"), [0] * ROUNDS)
    words = draw.sample(asked.facts()["words"], min(8, ROUNDS))
    paths = {
        "a feature's page": [f"0/feature/{f}" for f in ids], "its logits": [f"0/logits/{f}" for f in ids],
        "20 windows of a list": [f"0/peek?ids={','.join(map(str, ids[:20]))}"] * 5,
        "a word": [f"0/search?q={word}" for word in words],
    }  # fmt: skip
    rows: dict[str, Any] = {
        "table, MB": round(len(table) / 1e6, 2), "table, MB compressed": round(len(gzip.compress(table, 5)) / 1e6, 2),
        "empty request, ms": round(1e3 * empty, 2),
    }  # fmt: skip
    for name, several in paths.items():
        rows[f"{name} / empty request"] = round(median(client.get, several) / empty, 1)
    return rows


def of_steering(explorer: Explorer, asked: Asked) -> dict[str, Any]:
    """Generations through the server against the model's own, in turn, and how soon the model is free again."""
    client, model, prompt = Asking(explorer.url), asked.model, "Once upon a time"
    feature = int(asked.index.table().sort("count").feature_id[0])
    said = {
        "prompt": prompt, "max_tokens": TOKENS, "edits": [{"feature": feature, "strength": 0.5, "kind": "add"}]
    }  # fmt: skip
    edit = steering.add_feature(asked.sae, feature, 0.5, "max", index=asked.index)

    def direct() -> tuple[float, float]:
        begin = time.perf_counter()
        sides = [
            model.stream_generate(prompt, TOKENS, seed=0),
            model.stream_generate(prompt, TOKENS, steer=edit, seed=0),
        ]
        first = 0.0
        while sides:
            for side in list(sides):
                if next(side, None) is None:
                    sides.remove(side)
                first = first or time.perf_counter() - begin
        return first, time.perf_counter() - begin

    rounds = [(client.steered(said), direct()) for _ in range(6)][1:]
    spent = [(of_processor(lambda: client.steered(said)), of_processor(direct)) for _ in range(5)]
    free = []
    for _ in range(5):
        own = Asking(explorer.url)
        own.steered(said, until=10)
        begin = time.perf_counter()
        while json.loads(client.get("status"))["busy"]:
            pass
        free.append(
            (time.perf_counter() - begin) / (statistics.median(r[1][1] for r in rounds) / (2 * TOKENS))
        )
    return {
        "first piece / the model's own": round(statistics.median(a[0] / b[0] for a, b in rounds), 2),
        "tokens a second / the model's own, both sides": round(statistics.median(b[1] / a[1] for a, b in rounds), 2),
        "the same by processor time, two losses and the client included": round(
            statistics.median(own / through for through, own in spent), 2
        ),
        "model free after the browser went, in tokens": round(statistics.median(free), 2),
    }  # fmt: skip


def of_site(asked: Asked, folder: Path) -> dict[str, Any]:
    """Bytes and time of a site's features."""
    draw = random.Random(1)
    first = draw.randrange(asked.index.d_hidden - SITE) // 256 * 256
    begin = time.process_time()
    asked.index.to_site(folder, range(first, first + SITE), verbose=False)
    seconds = time.process_time() - begin
    size = sum(path.stat().st_size for path in (folder / "data" / "0").glob("[0-9]*.js"))
    pages = sum(
        path.stat().st_size for path in folder.iterdir() if path.is_file() and path.suffix in (".js", ".css")
    )
    return {
        "site, kB for each feature": round(size / SITE / 1e3, 2),
        "site, ms for each feature": round(1e3 * seconds / SITE, 1),
        "site's pages, kB": round(pages / 1e3, 1),
    }  # fmt: skip


def of_browser(explorer: Explorer) -> dict[str, Any]:
    """When the list can be used, and how long sorts and filters take in it."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        return {"in the browser": "not measured: there is no Playwright"}
    if browser is None:
        return {"in the browser": "not measured: there is no Chromium"}
    script = """async (queries) => {
        const {source} = await import('./static/shared.js');
        const {order} = await import('./static/columns.js');
        const s = await source('0'), times = [];
        for (const q of queries) {
            const start = performance.now();
            order(s, new URLSearchParams(q));
            times.push(performance.now() - start);
        }
        return times;
    }"""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        ready, page = [], opened.new_page(viewport={"width": 1280, "height": 800})
        for _ in range(3):
            page = opened.new_page(viewport={"width": 1280, "height": 800})
            begin = time.perf_counter()
            page.goto(f"{explorer.url}#/list")
            page.wait_for_selector(".row")
            ready.append(time.perf_counter() - begin)
        times = page.evaluate(script, [sort for _ in range(5) for sort in SORTS])
        rows = page.locator(".row").count()
        heap = page.evaluate("performance.memory ? performance.memory.usedJSHeapSize : 0")
        opened.close()
    by_sort = {sort: statistics.median(times[i :: len(SORTS)]) for i, sort in enumerate(SORTS)}
    return {
        "list ready, s": round(statistics.median(ready), 2), "rows in the page": rows, "heap, MB": round(heap / 1e6, 1),
        **{f"list of ?{sort}, ms": round(ms, 1) for sort, ms in by_sort.items()},
    }  # fmt: skip


# -- pages of other dashboards --------------------------------------------------------------------


def of_peers(peers: list[str], tokens: int, work: Path) -> dict[str, Any]:
    """From texts to the pages of 256 features: each peer, and ours beside it."""
    import torch
    from index import MODEL, TEXT, first_tokens

    torch.set_num_threads(1)
    model = mlxterp.InterpretableModel(str(MODEL), backend="torch")
    stories = TEXT.read_text(encoding="utf-8").split("<|endoftext|>")
    texts = first_tokens(model, [story.strip() for story in stories if story.strip()], tokens)
    component = f"layers.{len(model.layers) // 2}.resid_post"
    sae = random_sae(model.d_model, component)
    sae.save(work / "sae", format="saelens")
    (work / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    rows: dict[str, Any] = {"pages: features of the SAE, tokens": f"{sae.d_hidden:,}, {tokens:,}"}
    for name, python in (peer.split("=", 1) for peer in peers):
        command = [python, str(Path(__file__).parent / "explorer_peers.py"), name, "--model", str(MODEL)]
        command += ["--sae", str(work / "sae"), "--texts", str(work / "texts.json")]
        command += ["--component", component, "--out", str(work)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            rows[f"{name}: did not run"] = done.stderr.strip().splitlines()[-1]
            continue
        theirs = json.loads(done.stdout.splitlines()[-1])
        index, folder = [], work / f"beside-{name}"
        building = of_processor(
            lambda found=index: found.append(model.build_index(sae, texts, verbose=False))
        )
        writing = of_processor(
            lambda found=index, to=folder: found[0].to_site(to, range(PAGES), verbose=False)
        )
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        both = theirs["collecting"] + theirs["writing"]
        rows |= {
            f"{name}: what it does": theirs["does"],
            f"{name}: s, collecting and writing {PAGES} features": [theirs["collecting"], theirs["writing"]],
            f"{name}: s of ours beside it, an index of all features and the site": [building, writing],
            f"{name}: its time / ours": both / (building + writing),
            f"{name}: its time / ours, once there is an index": both / writing,
            f"{name}: its bytes / ours": theirs["bytes"] / size,
        }
    return rows


def random_sae(d_model: int, component: str) -> mlxterp.SAE:
    """TopK, with rows of length 1: the time of pages does not ask what features mean."""
    rows = np.random.default_rng(0).standard_normal((SAE_FEATURES, d_model)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    zeros = np.zeros(SAE_FEATURES, np.float32), np.zeros(d_model, np.float32)
    weights = SAEWeights(rows.T.copy(), zeros[0], rows, zeros[1])
    return mlxterp.SAE(weights, TopK(K), {"component": component})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=int, default=65_536)
    parser.add_argument("--tokens", type=int, default=818_000)
    parser.add_argument("--folder", type=Path, help="where the index is kept for another run")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    options = parser.parse_args()
    if options.peer:
        with tempfile.TemporaryDirectory() as temporary:
            rows = of_peers(options.peer, min(options.tokens, MOST_TOKENS), Path(temporary))
        path = results_path("explorer")
        kept = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else {}
        return report("explorer", kept | rows, NOTES)
    with tempfile.TemporaryDirectory() as temporary:
        asked = Asked(options.folder or Path(temporary) / "index", options.features, options.tokens)
        facts = asked.facts()
        rows: dict[str, Any] = {name: facts[name] for name in ("features", "tokens", "pairs", "shards")}
        rows |= of_site(asked, Path(temporary) / "site")
        with asked.index.serve(open=False, read_only=True) as explorer:
            rows |= of_server(explorer, asked) | of_steering(explorer, asked) | of_browser(explorer)
    report("explorer", rows, NOTES)


if __name__ == "__main__":
    main()
