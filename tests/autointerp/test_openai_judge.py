"""A server as judge: a real mlx_lm.server, and one that fails in every way HTTP can."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxterp import InputError, MlxterpWarning
from mlxterp.autointerp import LLMExplainer, OpenAIJudge, Plan, Question, openai_judge, server_replies
from mlxterp.errors import JudgeError
from mlxterp.index.examples import FeatureExample
from tests.servers import running_server

httpx = pytest.importorskip("httpx", reason='pip install "mlxterp[judge]"')


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
        self.models: list[str] = []
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                names = outer.models
                listed = (200, {}, {"data": [{"id": name} for name in names]})
                self.say(*(listed if names else (404, {}, "nothing here")))

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


@pytest.mark.parametrize(
    ("listed", "knows", "taken"),
    [
        (["one"], "one", "one"), (["one", "two"], "one", "one"), (["one", "two"], "default_model", "default_model"),
        (["/a/b"], "default_model", "default_model"), ([], "default_model", "default_model"),
    ],
)  # fmt: skip
def test_without_a_name_the_servers_own_model_is_taken(serve, listed, knows, taken):
    server = serve(lambda n, body: ONE if body["model"] == knows else (404, {}, {"error": "no such model"}))
    server.models = listed
    assert OpenAIJudge(server.url, verbose=False).capabilities["model"] == taken


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
from tests.autointerp.test_openai_judge import PROMPTS, QUESTIONS
from mlxterp.autointerp import OpenAIJudge
judge = OpenAIJudge({url!r}, cache={cache!r}, concurrency=2, verbose=False)
judge.probabilities(QUESTIONS)
judge.write(PROMPTS, 8, temperature=0.5)
"""
PROMPTS = [f"write number {i // 2}" for i in range(12)]


def test_a_killed_run_goes_on_where_it_was(serve, tmp_path):
    def decide(number, body):
        time.sleep(0.05)
        return ONE

    server = serve(decide)
    root = str(Path(__file__).parents[2])
    code = KILLED.format(root=root, url=server.url, cache=str(tmp_path))
    for kill in (5, 12):
        started = len(server.asked)
        run = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root})
        while len(server.asked) < started + kill and run.poll() is None:
            time.sleep(0.01)
        run.kill()
        run.wait()
    time.sleep(0.3)
    before = len(server.asked)
    judge = OpenAIJudge(server.url, cache=tmp_path, verbose=False)
    assert judge.probabilities(QUESTIONS).tolist() == [1] * 12
    assert judge.write(PROMPTS, 8, temperature=0.5) == ["1"] * 12
    every = [body["messages"][0]["content"] for body in server.asked]
    questions = [text for text in every if "<text>" in text]
    written = [text for text in every if text.startswith("write")]
    assert len(set(questions)) == 12 and len(set(written)) == 6 and len(every) > before
    assert 24 <= len(questions) + len(written) <= 24 + 2 * 2  # what two open questions of each kill had asked


# -- writing ---------------------------------------------------------------------------------------


def echo(number, body):
    """Says which request it was, after thinking aloud; to the first question always the same."""
    number = 0 if "digit 1" in body["messages"][-1]["content"] else number
    return 200, {}, reply(f"<think>hm</think> {body['messages'][-1]['content']} {number}")


def test_a_server_writes_what_is_asked_and_nothing_twice(serve, tmp_path):
    server = serve(echo)
    judge = OpenAIJudge(server.url, cache=tmp_path, verbose=False)
    found = judge.write(["a", "b", "a"], 30)
    assert found[0] == found[2] and [one.split()[0] for one in found if one] == ["a", "b", "a"]
    assert judge.usage["asked"] == 2 and judge.usage["tokens_out"] == 2 and judge.capabilities["thinks"]
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    [other] = judge.write([messages], 30)
    assert other and other.startswith("u") and server.asked[-1]["messages"] == messages
    again = OpenAIJudge(server.url, cache=tmp_path, verbose=False)
    assert again.write(["b", "a"], 30) == [found[1], found[0]] and again.usage["asked"] == 0
    assert again.usage["known"] == 2 and again.usage["known_tokens_in"] == 10
    assert again.write(["a"], 31) != found[:1] and again.usage["asked"] == 1
    assert all(not {"seed", "n"} & set(body) for body in server.asked)


def test_draws_are_requests_of_their_own_and_each_is_kept(serve, tmp_path):
    server = serve(echo)
    judge = OpenAIJudge(server.url, cache=tmp_path, concurrency=3, verbose=False)
    first = judge.write(["a"] * 4, 30, temperature=0.7)
    assert len(set(first)) == 4
    again = OpenAIJudge(server.url, cache=tmp_path, verbose=False)
    assert again.write(["a"] * 4, 30, temperature=0.7) == first and again.usage["asked"] == 0
    assert set(again.write(["a"] * 4, 30, temperature=0.7, seed=1)).isdisjoint(first)
    assert again.usage["asked"] == 4


@pytest.mark.parametrize(
    "fault",
    [
        (401, {}, {"error": "key"}), (404, {}, {"error": "no such model"}), (400, {}, {}), (200, {}, b"{half"),
        (200, {}, {"choices": [{}]}), (200, {}, reply("")), (200, {}, reply("<think>never ends")), (500, {}, {}),
        (429, {"Retry-After": "0.01"}, {}), (200, {"Claims": "5000"}, reply("x")),
    ],
)  # fmt: skip
def test_what_is_not_written_is_none_and_counted(serve, fault):
    def decide(number, body):
        status, headers, given = fault
        return (status, dict(headers), given) if body["messages"][0]["content"] == "bad" else ONE

    judge = OpenAIJudge(serve(decide).url, retries=1, timeout=2, verbose=False)
    with pytest.warns(MlxterpWarning, match="1 of 3"):
        assert judge.write(["a", "bad", "b"], 8) == ["1", None, "1"]
    assert judge.usage["failed"] == 1


def test_thoughts_that_a_server_tells_apart_are_no_text(serve):
    given = {
        "choices": [{"message": {"content": None, "reasoning": "long thoughts"}, "finish_reason": "length"}]
    }
    server = serve(lambda number, body: (200, {}, given) if body["max_tokens"] < 1000 else ONE)
    judge = OpenAIJudge(server.url, verbose=False)
    assert judge.capabilities["thinks"] and judge.write(["a"], 8) == ["1"]


def test_another_model_of_no_name_is_asked_anew(serve, tmp_path):
    name = ["first"]
    server = serve(lambda number, body: (200, {}, reply(name[0])))
    assert OpenAIJudge(server.url, cache=tmp_path, verbose=False).write(["a"], 8) == ["first"]
    name[0] = "second"
    assert OpenAIJudge(server.url, cache=tmp_path, verbose=False).write(["a"], 8) == ["second"]


def test_half_characters_in_texts_are_sent_as_question_marks(serve):
    server = serve(lambda n, body: ONE)
    judge = OpenAIJudge(server.url, verbose=False)
    assert judge.probabilities([question(" half \ud800")]).tolist() == [1]
    assert judge.write(["half \udfff"], 8) == ["1"] and server.asked[-1]["messages"][0]["content"] == "half ?"


@pytest.mark.parametrize(
    "bad", [{"base_url": "localhost:8080"}, {"concurrency": 0}, {"timeout": 0}, {"retries": -1}]
)
def test_settings_that_are_none_are_named(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        OpenAIJudge(**{"base_url": "http://127.0.0.1:1/v1", **bad})


# -- a real one ------------------------------------------------------------------------------------


def post(url: str, **body: Any) -> tuple[int, Any]:
    """What a server says to a chat request as it is."""
    given = {
        "messages": [{"role": "user", "content": "Once upon a time there was a"}],
        "max_tokens": 4,
    } | body
    answer = httpx.post(f"{url}/chat/completions", json={"model": "default_model", **given}, timeout=300)
    return answer.status_code, answer.json()


def test_a_real_server_gives_likelihoods_and_a_model_that_names_no_digit_fails_openly(chat_server):
    judge = OpenAIJudge(chat_server, timeout=300, verbose=False)
    assert judge.capabilities["logprobs"] and judge.capabilities["model"] == "default_model"
    with pytest.warns(MlxterpWarning, match="no answer that can be read"):
        found = judge.probabilities(
            QUESTIONS
        )  # the demo's model writes stories; ten likeliest words are no digits
    assert judge.usage["failed"] == int(np.isnan(found).sum()) > 0 and judge.usage["tokens_in"] > 100
    with pytest.warns(MlxterpWarning, match="no answer"):
        again = OpenAIJudge(chat_server, timeout=300, concurrency=1, verbose=False).probabilities(QUESTIONS)
    assert np.allclose(found, again, atol=1e-4, equal_nan=True)
    several = OpenAIJudge(chat_server, timeout=300, windows_per_prompt=6, verbose=False)
    with pytest.warns(MlxterpWarning, match=r"12 of 12 .*windows_per_prompt="):
        assert np.isnan(several.probabilities(QUESTIONS)).all()  # stories are no lists
    assert several.usage["asked"] == 2 and several.usage["tokens_in"] < judge.usage["tokens_in"] / 2


def test_a_name_that_the_real_server_does_not_know_is_told(chat_server):
    with pytest.raises(JudgeError, match="gpt-4o-mini"):
        OpenAIJudge(chat_server, timeout=300, model="gpt-4o-mini", verbose=False).probabilities(QUESTIONS)


def test_the_real_server_names_a_token_that_it_did_not_choose_so_only_the_sorted_ones_count(chat_server):
    _, given = post(chat_server, temperature=0, logprobs=True, top_logprobs=10)
    choice = given["choices"][0]
    content, said = choice["logprobs"]["content"], choice["message"]["content"]
    tops = [[one["logprob"] for one in place["top_logprobs"]] for place in content]
    assert any(values != sorted(values, reverse=True) for values in tops)  # in no order
    best = [max(place["top_logprobs"], key=lambda one: one["logprob"])["token"] for place in content]
    told = [place["token"] for place in content]
    assert "".join(best).replace("Ġ", " ").strip() == said.strip() != "".join(told).replace("Ġ", " ").strip()
    reply = server_replies.reply_of(given)
    assert reply is not None and server_replies.sorted_tokens(reply["top"])[0]["token"] == best[0]


def test_the_real_server_ignores_n_and_formats_and_refuses_twelve_likelihoods(chat_server):
    schema = {"type": "json_object"}
    status, given = post(chat_server, n=3, response_format=schema)
    assert (
        status == 200
        and len(given["choices"]) == 1
        and not given["choices"][0]["message"]["content"].startswith("{")
    )
    assert post(chat_server, logprobs=True, top_logprobs=12)[0] == 400 and openai_judge._TOP <= 11
    assert post(chat_server, logprobs=3)[0] == 400  # what older servers took


def test_the_real_server_lists_nothing_or_others_first_and_is_asked_for_its_own(chat_server, hub):
    shutil.rmtree(hub / "hub", ignore_errors=True)
    assert httpx.get(f"{chat_server}/models", timeout=120).text == ""  # it dies on the way
    assert OpenAIJudge(chat_server, timeout=300, verbose=False).capabilities["model"] == "default_model"
    other = hub / "hub" / "models--some--other"
    (other / "refs").mkdir(parents=True)
    (other / "refs" / "main").write_text("0" * 40)
    (other / "snapshots" / ("0" * 40)).mkdir(parents=True)
    for name in ("config.json", "model.safetensors.index.json", "tokenizer_config.json"):
        (other / "snapshots" / ("0" * 40) / name).write_text("{}")
    listed = [one["id"] for one in httpx.get(f"{chat_server}/models", timeout=120).json()["data"]]
    named = OpenAIJudge(chat_server, timeout=300, verbose=False).capabilities["model"]
    shutil.rmtree(hub / "hub")
    assert listed[0] == "some/other" and len(listed) == 2 and named == "default_model"


def test_the_real_server_writes_the_same_together_as_one_by_one(chat_server, tmp_path):
    prompts = [
        f"Once upon a time there was a {animal}" for animal in ("dog", "cat", "bird", "fish", "cow", "pig")
    ]
    judge = OpenAIJudge(chat_server, timeout=300, cache=tmp_path, verbose=False)
    together = judge.write(prompts, 12)
    assert (
        all(together)
        and OpenAIJudge(chat_server, timeout=300, concurrency=1, verbose=False).write(prompts, 12) == together
    )
    assert judge.usage["tokens_out"] <= 12 * 6 and judge.usage["tokens_in"] > 6 * 6
    assert (
        OpenAIJudge(chat_server, timeout=300, cache=tmp_path, verbose=False).write(prompts[::-1], 12)
        == together[::-1]
    )
    draws = judge.write(prompts[:1] * 4, 12, temperature=1.0)
    assert len(set(draws)) > 1


def test_d21_a_real_server_explains_and_what_it_cannot_is_counted(chat_server, index):
    features = [int(feature) for feature in index.summary.count.argsort()[::-1][60:62]]
    explainer = LLMExplainer(
        OpenAIJudge(chat_server, timeout=300, verbose=False), "delphi", examples=(), max_tokens=12
    )
    plan = Plan(explaining={"top": 3}, least=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MlxterpWarning)
        told = index.explain(features, explainer, plan=plan, verbose=False)
    assert {one.feature_id for one in told}.isdisjoint(explainer.left_out) and told
    assert all(one.text.strip() and "default_model" in one.source for one in told)
    assert told[0].provenance["run"]["tokens_out"] > 0 and "<texts>" in told[0].provenance["example_prompt"]


# -- one that answers ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def instructed(tmp_path_factory):
    """mlx_lm.server with SmolLM2-135M-Instruct, where its folder lies in the cache of the tests."""
    cache = Path(os.environ.get("MLXTERP_TEST_CACHE", "~/.cache/mlxterp-tests")).expanduser()
    folder = cache / "smollm2"
    if not (folder / "model.safetensors").is_file():
        pytest.skip("SmolLM2-135M-Instruct is not in MLXTERP_TEST_CACHE/smollm2")
    with running_server(tmp_path_factory.mktemp("hub"), folder) as url:
        yield url


@pytest.mark.slow
def test_an_instruct_model_judges_by_likelihoods_and_writes(instructed):
    judge = OpenAIJudge(instructed, verbose=False, timeout=300)
    assert judge.capabilities["logprobs"] and not judge.capabilities["thinks"]
    found = judge.probabilities(QUESTIONS[:3])
    assert np.isfinite(found).all() and ((found >= 0) & (found <= 1)).all()
    several = OpenAIJudge(instructed, windows_per_prompt=3, verbose=False, timeout=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MlxterpWarning)
        together = several.probabilities(QUESTIONS[:3])
    assert several.usage["asked"] == 1 and several.usage["failed"] == int(np.isnan(together).sum())
    [text] = judge.write(["Write the names of two animals."], 24)
    assert text
    [said] = judge.write([[{"role": "user", "content": "Say hi."}]], 8)
    assert said and judge.usage["failed"] == 0


def test_a_cache_lies_where_its_path_says_or_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    OpenAIJudge("http://127.0.0.1:9", cache="~/kept")
    assert (tmp_path / "kept").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"Nothing can be written to .*file"):
        OpenAIJudge("http://127.0.0.1:9", cache=tmp_path / "file")
    with pytest.raises(InputError, match="Expected the path"):
        OpenAIJudge("http://127.0.0.1:9", cache=2.5)  # type: ignore[arg-type]


def test_lines_of_a_cache_that_no_call_wrote_are_asked_again(tmp_path):
    bad = [
        "[1]",
        '{"key": [], "reply": {"text": "a"}}',
        '{"key": "a", "reply": {"text": "x", "tokens_in": 1e999}}',
    ]
    (tmp_path / "answers.jsonl").write_text("\n".join(bad) + "\n")
    with pytest.warns(MlxterpWarning, match="3 lines of .* cannot be read"):
        OpenAIJudge("http://127.0.0.1:9", cache=tmp_path)
