"""A server explains, judges and writes; the call is killed ten times, goes on, and asks nothing twice."""

from __future__ import annotations

import json
import os
import signal
import threading
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxterp import FeatureIndex
from mlxterp.autointerp import LLMExplainer, OpenAIJudge, Plan, explain, score

from .test_openai_judge import Server, reply, serve  # noqa: F401

pytest.importorskip("httpx", reason='pip install "mlxterp[judge]"')

KILLS, AT_ONCE = 10, 2
PLAN = Plan(negatives={"random": 4}, positives={"quantile": 4}, explaining={"quantile": 4}, least=2)
TASKS = ["detection", "fuzzing", "generation", "sensitivity"]
SENTENCES = [f"The {word} was in the garden with Tim." for word in ("cat", "ball", "tree", "sun", "car")]


class Killing(Server):
    """Answers by what is asked; at a request it interrupts the tests' process, which from then on hears nothing.

    What a killed process has on disk is then there: what was answered before. Nothing that was under way is kept.
    """

    def __init__(self):
        self.left, self.dead, self.parts = -1, False, [list[str]()]
        self.lock = threading.Lock()
        super().__init__(self.answer)

    def answer(self, number: int, body: dict[str, Any]) -> Any:
        text = body["messages"][-1]["content"]
        if "digit 1." in text:
            return 200, {}, reply("1")  # the first question of each process
        with self.lock:
            if not self.dead:
                self.parts[-1].append(text)
                self.left -= 1
                if self.left == 0:
                    self.dead = True
                    os.kill(os.getpid(), signal.SIGINT)
            return (500, {}, {}) if self.dead else (200, {}, reply(_said(text)))

    def begin(self, left: int) -> None:
        """Another process asks, to be killed at a request, or not where that is -1."""
        self.parts.append([])
        self.left, self.dead = left, False


def _said(text: str) -> str:
    n = zlib.crc32(text.encode())
    if text.endswith("Answer (1 or 0):"):
        return "10?"[n % 9 // 4]  # a ninth of the answers fails
    if "Write the texts and nothing else." in text:
        return "\n".join(f"{i}. {SENTENCES[(n + i) % len(SENTENCES)]}" for i in range(1, 4))
    return "unclear" if n % 7 == 0 else f"a thing of {n % 1000} parts"


def _run(index: FeatureIndex, url: str, folder: Path) -> None:
    """All of it, from its beginning or from where it was killed."""
    judge = OpenAIJudge(url, cache=folder / "cache", concurrency=AT_ONCE, retries=0, verbose=False)
    explainer = LLMExplainer(judge, "delphi", examples=(), contrast=True)
    features = [int(feature) for feature in index.summary.count.argsort()[::-1][60:180:24]]
    told = explain(index, features, explainer, plan=PLAN, path=folder / "told", verbose=False)
    found = score(
        index,
        told,
        judge,
        TASKS,
        writer=judge,
        path=folder / "scored",
        batch_size=10,
        controls=False,
        verbose=False,
    )
    found.save(folder / "scores.json")


def _kept(folder: Path) -> tuple[Any, list[Any]]:
    """Scores without their cost, and explanations as they were kept, without seconds."""
    scores = json.loads((folder / "scores.json").read_text())
    told = [json.loads(line) for line in (folder / "told").read_text().splitlines()]
    for said in (*scores["features"], *told):
        about = said.get("explanation", said.get("value", said))
        if isinstance(about, dict):
            about.get("provenance", {}).get("run", {}).pop("seconds", None)
    questions, tokens = (scores["cost"][name] for name in ("questions", "tokens_in"))
    del scores["cost"], scores["digest"]
    return (scores, questions, tokens), told


@pytest.mark.skipif(os.name == "nt", reason="signals of this kind are not there")
@pytest.mark.filterwarnings("ignore::mlxterp.errors.MlxterpWarning")
def test_a_server_that_explains_judges_and_writes_is_asked_nothing_twice_in_ten_kills(
    index, tmp_path, monkeypatch
):
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread alone")
    monkeypatch.setattr("mlxterp.autointerp.explaining.BATCH", 2)
    heard = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # what runs in the background does not hear it
    monkeypatch.setattr("mlxterp.autointerp.kept_writer._BATCH", 4)
    server = Killing()
    try:
        _run(index, server.url, tmp_path / "whole")
        [once] = server.parts
        assert len(set(once)) == len(once) > 60
        points = np.sort(np.random.default_rng(16).choice(np.arange(1, len(once)), KILLS, replace=False))
        for n in np.diff(points, prepend=0):
            server.begin(int(n))
            with pytest.raises(KeyboardInterrupt):
                _run(index, server.url, tmp_path / "killed")
        server.begin(-1)
        _run(index, server.url, tmp_path / "killed")
    finally:
        server.close()
        signal.signal(signal.SIGINT, heard)
    assert _kept(tmp_path / "whole") == _kept(tmp_path / "killed")
    _, *parts = server.parts
    assert len(parts) == KILLS + 1
    in_flight = Counter(part[-1] for part in parts[:-1])
    assert Counter(asked for part in parts for asked in part) - in_flight == Counter(once)
