"""A server as judge: a real mlx_lm.server, and one that fails in every way HTTP can."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxterp import InputError, MlxterpWarning
from mlxterp.autointerp import OpenAIJudge, Question
from mlxterp.errors import JudgeError
from mlxterp.index.examples import FeatureExample

pytest.importorskip("httpx", reason='pip install "mlxterp[judge]"')


def question(text: str = " a ball") -> Question:
    tokens = tuple(" " + word for word in text.split())
    return Question(
        "detection", "toys", FeatureExample(7, text, 0, 0, 0.0, tokens, np.zeros(len(tokens), np.float32), 0)
    )


QUESTIONS = [question(f" text number {i}") for i in range(12)]


# -- what goes wrong -------------------------------------------------------------------------------


def reply(text: Any, top: Any = None) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": text}}
    if top is not None:
        choice["logprobs"] = {"content": [{"token": "wrong", "top_logprobs": top}]}
    return {"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}


class Server:
    """A server whose replies a function decides: (number of the request, its body) → (status, headers, body)."""

    def __init__(self, decide: Callable[[int, dict[str, Any]], tuple[int, dict[str, str], Any]]):
        self.asked: list[dict[str, Any]] = []
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.say(404, {}, "nothing here")

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(outer.asked)
                    outer.asked.append(body)
                self.say(*decide(number, body))

            def say(self, status, headers, given):
                data = given if isinstance(given, bytes) else json.dumps(given).encode()
                length = int(headers.pop("Claims", len(data)))
                self.send_response(status)
                for name, value in {"Content-Length": str(length), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr("mlxterp.autointerp.openai_judge._WAIT", 0.01)
    servers = []

    def start(decide) -> Server:
        servers.append(Server(decide))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


ONE = (200, {}, reply("1"))


def test_a_server_without_likelihoods_is_read_by_its_words(serve):
    server = serve(
        lambda n, body: (200, {}, reply("Answer: 0" if "number 3" in body["messages"][0]["content"] else "1"))
    )
    judge = OpenAIJudge(server.url, verbose=False)
    assert judge.probabilities(QUESTIONS).tolist() == [float(i != 3) for i in range(12)]
    assert not judge.capabilities["logprobs"] and judge.usage["tokens_in"] == 5 * 12
    assert all("seed" not in body for body in server.asked)


def test_likelihoods_come_first_and_are_sorted_here(serve):
    top = [{"token": "0", "logprob": -2.0}, {"token": "1", "logprob": -0.5}]
    judge = OpenAIJudge(serve(lambda n, body: (200, {}, reply("0", top))).url, verbose=False)
    expected = np.exp(-0.5) / (np.exp(-0.5) + np.exp(-2.0))
    assert judge.probabilities(QUESTIONS[:2]) == pytest.approx([expected] * 2)


def test_empty_likelihoods_are_none(serve):
    judge = OpenAIJudge(serve(lambda n, body: (200, {}, reply("1", []))).url, verbose=False)
    assert judge.probabilities(QUESTIONS[:2]).tolist() == [1, 1]


def test_a_model_that_thinks_is_given_room(serve):
    def decide(number, body):
        return 200, {}, reply("<think>hm" + (" well</think> 1" if body["max_tokens"] > 100 else ""))

    judge = OpenAIJudge(serve(decide).url, verbose=False)
    assert judge.probabilities(QUESTIONS[:3]).tolist() == [1, 1, 1] and judge.capabilities["thinks"]


def test_a_server_that_takes_no_settings_is_asked_without(serve):
    def decide(number, body):
        return (400, {}, {"error": "unknown"}) if set(body) & {"chat_template_kwargs", "logprobs"} else ONE

    judge = OpenAIJudge(serve(decide).url, verbose=False)
    assert judge.probabilities(QUESTIONS[:3]).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "fault",
    [
        (429, {"Retry-After": "0"}, {"error": "slow down"}), (500, {}, {}), (503, {"Retry-After": "soon"}, b""),
        (200, {}, b"{half"), (200, {}, b""), (200, {}, {"choices": []}), (200, {}, reply(None)), (200, {}, [1]),
        (200, {"Claims": "5000"}, reply("1")),
    ],
)  # fmt: skip
def test_what_passes_is_asked_again(serve, fault):
    seen: dict[str, int] = {}

    def decide(number, body):
        text = body["messages"][0]["content"]
        seen[text] = seen.get(text, 0) + 1
        status, headers, given = fault
        return (status, dict(headers), given) if number > 0 and seen[text] < 3 else ONE

    judge = OpenAIJudge(serve(decide).url, verbose=False, timeout=2)
    assert judge.probabilities(QUESTIONS[:4]).tolist() == [1, 1, 1, 1]
    assert judge.usage["repeated"] == 8


@pytest.mark.parametrize(
    "fault", [(500, {}, {}), (422, {}, {}), (200, {}, reply("I cannot say")), (200, {}, reply("1 or 0"))]
)
def test_what_stays_without_an_answer_is_none_and_counted(serve, fault):
    def decide(number, body):
        status, headers, given = fault
        return (status, dict(headers), given) if "number 1" in body["messages"][0]["content"] else ONE

    judge = OpenAIJudge(serve(decide).url, retries=1, verbose=False)
    with pytest.warns(MlxterpWarning, match="3 of 12 questions"):
        found = judge.probabilities(QUESTIONS)
    assert np.flatnonzero(np.isnan(found)).tolist() == [1, 10, 11] and judge.usage["failed"] == 3


@pytest.mark.parametrize(
    ("status", "said"), [(401, "api_key"), (403, "api_key"), (404, "model="), (500, "running")]
)
def test_a_server_that_cannot_be_used_says_why(serve, status, said):
    judge = OpenAIJudge(serve(lambda n, body: (status, {}, {"error": "no"})).url, verbose=False)
    with pytest.raises(JudgeError, match=said):
        judge.probabilities(QUESTIONS)


def test_a_server_that_is_not_there_is_named():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(JudgeError, match="Is it running"):
        OpenAIJudge(url, verbose=False).probabilities(QUESTIONS)


def test_a_slow_server_is_waited_for_no_longer_than_asked(serve):
    def decide(number, body):
        if number:
            time.sleep(0.6)
        return ONE

    judge = OpenAIJudge(serve(decide).url, timeout=0.2, retries=0, verbose=False)
    with pytest.warns(MlxterpWarning, match="2 of 2"):
        assert np.isnan(judge.probabilities(QUESTIONS[:2])).all()


def test_what_was_answered_is_not_asked_again(serve, tmp_path):
    server = serve(lambda n, body: ONE)
    OpenAIJudge(server.url, cache=tmp_path, verbose=False).probabilities(QUESTIONS[:6])
    file = tmp_path / "answers.jsonl"
    with open(file, "ab") as out:
        out.write(b'{"key": "abc", "rep')  # a run was killed here
    before = len(server.asked)
    again = OpenAIJudge(server.url, cache=tmp_path, verbose=False)
    assert again.probabilities(QUESTIONS).tolist() == [1] * 12
    assert len(server.asked) == before + 1 + 6 and again.usage["asked"] == 6
    third = OpenAIJudge(server.url, cache=tmp_path, verbose=False)
    assert third.probabilities(QUESTIONS[::-1]).tolist() == [1] * 12 and third.usage["asked"] == 0


KILLED = """
import os, sys, threading
sys.path.insert(0, {root!r})
from tests.autointerp.test_openai_judge import QUESTIONS
from mlxterp.autointerp import OpenAIJudge
judge = OpenAIJudge({url!r}, cache={cache!r}, concurrency=2, verbose=False)
judge.probabilities(QUESTIONS)
"""


def test_a_killed_run_goes_on_where_it_was(serve, tmp_path):
    def decide(number, body):
        time.sleep(0.05)
        return ONE

    server = serve(decide)
    root = str(Path(__file__).parents[2])
    code = KILLED.format(root=root, url=server.url, cache=str(tmp_path))
    for _ in range(2):
        started = len(server.asked)
        run = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root})
        while len(server.asked) < started + 5 and run.poll() is None:
            time.sleep(0.01)
        run.kill()
        run.wait()
    time.sleep(0.3)
    asked = [body["messages"][0]["content"] for body in server.asked]
    OpenAIJudge(server.url, cache=tmp_path, verbose=False).probabilities(QUESTIONS)
    every = [body["messages"][0]["content"] for body in server.asked]
    texts = [text for text in every if "<text>" in text]
    assert len(set(texts)) == 12
    assert len(texts) <= 12 + 2 * 2  # what two open questions of each kill had asked
    assert len(every) > len(asked)


@pytest.mark.parametrize(
    "bad", [{"base_url": "localhost:8080"}, {"concurrency": 0}, {"timeout": 0}, {"retries": -1}]
)
def test_settings_that_are_none_are_named(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        OpenAIJudge(**{"base_url": "http://127.0.0.1:1/v1", **bad})


# -- a real one ------------------------------------------------------------------------------------


def test_a_real_server_gives_likelihoods_and_a_model_that_names_no_digit_fails_openly(chat_server):
    judge = OpenAIJudge(chat_server, verbose=False)
    assert judge.capabilities["logprobs"] and judge.capabilities["model"] == "default_model"
    with pytest.warns(MlxterpWarning, match="no answer that can be read"):
        found = judge.probabilities(
            QUESTIONS
        )  # the demo's model writes stories; ten likeliest words are no digits
    assert judge.usage["failed"] == int(np.isnan(found).sum()) > 0 and judge.usage["tokens_in"] > 100
    with pytest.warns(MlxterpWarning, match="no answer"):
        again = OpenAIJudge(chat_server, concurrency=1, verbose=False).probabilities(QUESTIONS)
    assert np.allclose(found, again, atol=1e-4, equal_nan=True)


def test_a_name_that_the_real_server_does_not_know_is_told(chat_server):
    with pytest.raises(JudgeError, match="gpt-4o-mini"):
        OpenAIJudge(chat_server, model="gpt-4o-mini", verbose=False).probabilities(QUESTIONS)
