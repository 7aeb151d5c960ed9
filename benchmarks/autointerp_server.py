"""How much faster a judge on mlx_lm.server answers where eight questions are open at a time.

    pip install ".[cpu,judge]" && python benchmarks/autointerp_server.py [--model FOLDER] [--rounds 5]
        [--questions 32] [--parts judge bare write]

Starts mlx_lm.server with a model (by default the embedded one) and asks the same detection questions one by one, eight
at a time, and eight at a time with eight windows in a prompt, with no cache, then has as many texts of 32 tokens
written, after short prompts. What the server itself gains by eight at a time is measured beside it: the same prompts
sent without the judge, each answered by a single token, so that reading is all there is. Rounds take turns. On Linux
the server multiplies with the BLAS that mlxterp brings, as it does with Accelerate on a Mac, and the clock is its
processor time, which other work on the machine does not disturb; elsewhere the wall's.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import httpx
import numpy as np
from common import interleaved, ratio_with_noise, report

from mlxterp import autointerp, demo
from mlxterp.autointerp import OpenAIJudge, Question

_WRITTEN = 32
_WINDOWS = 8
_SERVER = "import mlxterp, mlx_lm.server; mlx_lm.server.main()"
_PARTS = ("judge", "bare", "write")


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, int]]:
    """The address of mlx_lm.server with a model, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as home:
        run = subprocess.Popen(
            [sys.executable, "-c", _SERVER, "--model", str(folder), "--port", str(port)],
            env={**os.environ, "HF_HOME": home}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while run.poll() is None:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                    break
                except OSError:
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1", run.pid
        finally:
            run.kill()
            run.wait()


def clock_of(process: int) -> Callable[[], float]:
    """Processor seconds of a process; the wall's clock where Linux does not tell."""
    stat = Path(f"/proc/{process}/stat")
    if not stat.exists():
        return time.perf_counter

    def seconds() -> float:
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    return seconds


def questions(n: int) -> list[Question]:
    """Detection questions about features of the embedded SAE."""
    model, sae, texts = mlxterp.load_demo()
    index = model.build_index(sae, [text[:700] for text in texts[:60]], verbose=False)
    drawn = autointerp.collect(index, [int(f) for f in index.live[3:300:17]], verbose=False)
    explainer = autointerp.TokenListExplainer()
    found = []
    for feature, one in drawn.items():
        told = None if one.reason else explainer.explain(feature, one.explaining)
        if told is not None:
            found += [Question("detection", told.text, sample.example) for sample in one.draws[0]]
    return found[:n]


def sent(url: str, prompts: Sequence[str], at_once: int) -> None:
    """Prompts as bare requests, a token each; the server shares no beginning between two calls."""
    with httpx.Client(timeout=600) as client, ThreadPoolExecutor(at_once) as pool:

        def one(prompt: str) -> int:
            messages = [{"role": "user", "content": f"{mark}\n{prompt}"}]
            body = {"messages": messages, "max_tokens": 1, "temperature": 0}
            return client.post(f"{url}/chat/completions", json=body).raise_for_status().status_code

        mark = time.monotonic_ns()
        list(pool.map(one, prompts))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=demo.FOLDER / "model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS)
    asked = parser.parse_args()
    several = questions(asked.questions)
    prompts = [f"Once upon a time, number {i}, there was" for i in range(asked.questions)]
    warnings.simplefilter("ignore", mlxterp.MlxterpWarning)  # the embedded model names no digit
    with served(asked.model) as (url, process):

        def judge(at_once: int, windows: int = 1) -> OpenAIJudge:
            return OpenAIJudge(
                url, concurrency=at_once, timeout=600, verbose=False, windows_per_prompt=windows
            )

        read = judge(1).prompts(several)
        lost = {n: int(np.isnan(judge(8, n).probabilities(several)).sum()) for n in (1, _WINDOWS)}
        jobs: dict[str, Callable[[], Any]] = {
            "judge, 1": lambda: judge(1).probabilities(several),
            "judge, 8": lambda: judge(8).probabilities(several),
            "judge, together": lambda: judge(8, _WINDOWS).probabilities(several),
            "bare, 1": lambda: sent(url, read, 1),
            "bare, 8": lambda: sent(url, read, 8),
            "write, 1": lambda: judge(1).write(prompts, _WRITTEN),
            "write, 8": lambda: judge(8).write(prompts, _WRITTEN),
        }
        wanted = {name: job for name, job in jobs.items() if name.split(",")[0] in asked.parts}
        times = interleaved(wanted, asked.rounds, warm_up=1, clock=clock_of(process))
    n = asked.questions
    said = {
        "judge": f"{n} questions",
        "bare": f"{n} prompts sent without the judge, a token each",
        "write": f"{n} texts of {_WRITTEN} tokens",
    }
    rows: dict[str, Any] = {
        f"{said[part]}: 8 at once, × as fast as one by one": ratio_with_noise(
            times, f"{part}, 1", f"{part}, 8"
        )
        for part in asked.parts
    }
    if "judge" in asked.parts:
        rows[f"{n} questions: 8 at once, {_WINDOWS} windows a prompt, × as fast as one by one"] = (
            ratio_with_noise(times, "judge, 1", "judge, together")
        )
        rows |= {f"{n} questions, windows a prompt {each}: without an answer": lost[each] for each in lost}
    report(
        f"autointerp_server{'' if asked.model == demo.FOLDER / 'model' else '-' + asked.model.name}",
        rows,
        ["the server's processor time where Linux tells it, else wall time; median of the rounds' ratios"],
    )


if __name__ == "__main__":
    main()
