"""`OpenAIJudge`: any server that speaks OpenAI's protocol as judge (mlx_lm.server, LM Studio, Ollama, OpenAI).

What is asked once is kept on disk, so that a run that was killed goes on without asking again.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..core import checks
from ..core.progress import hidden
from ..errors import BackendError, InputError, JudgeError, warn
from .answers import expected_digit, from_logprobs, parsed, without_thinking
from .judges import STRONGEST, Question
from .prompts import VERSION, asked, by_token

_WAIT, _LONGEST = 0.5, 30.0
"""Seconds before the first repetition, doubled each time, and at most."""
_SHORT, _LONG = 8, 1024
"""Tokens of a reply; of one that thinks aloud."""
_TOP = 10
"""Likeliest tokens that are asked for; mlx_lm.server gives at most eleven."""
_REFUSED = (400, 401, 403, 404, 405, 422)
"""What repeating does not change."""


class OpenAIJudge:
    """Asks a chat model on a server. By likelihoods where the server gives them, else by what the reply says.

    The first question finds out what the server can do (`capabilities`). Errors that pass are tried again; what stays
    without an answer is NaN, with one warning that counts them.

    Args:
        base_url: Such as "http://127.0.0.1:8080/v1"; None takes OPENAI_BASE_URL, else OpenAI's own.
        model: A name that the server knows; None takes the first that it lists.
        api_key: None takes OPENAI_API_KEY.
        concurrency: Questions that are open at a time.
        cache: A folder for the answers; None keeps them in memory.
        timeout: Seconds for one reply.
        retries: Repetitions of a question that failed.
        verbose: Whether a bar shows how many are answered.

    Raises:
        BackendError: httpx is not installed.
        InputError: A setting is none.

    Examples:
        judge = autointerp.OpenAIJudge("http://127.0.0.1:8080/v1", cache="answers")
        index.score(explanations, judge=judge)
    """

    def __init__(
        self, base_url: str | None = None, model: str | None = None, api_key: str | None = None, *,
        concurrency: int = 8, cache: str | os.PathLike | None = None, timeout: float = 60.0, retries: int = 4,
        verbose: bool = True,
    ):  # fmt: skip
        url = base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise InputError(f"base_url={url!r}; expected an address such as http://127.0.0.1:8080/v1.")
        self.base_url = url.rstrip("/")
        self._concurrency = checks.count(concurrency, "concurrency")
        self._retries = checks.count(retries, "retries", 0)
        self._timeout = checks.finite(timeout, "timeout", above=0.0)
        self._key = api_key or os.environ.get("OPENAI_API_KEY") or "none"
        self._given, self._verbose = model, verbose
        self._known = _Known(None if cache is None else Path(cache))
        self._client: Any = _client(self._key, self._timeout)
        self._able: dict[str, Any] | None = None
        self.usage = {"asked": 0, "repeated": 0, "failed": 0, "tokens_in": 0, "tokens_out": 0}
        """What was asked of the server (the rest came from the cache), and the tokens that it counted."""
        self._lock = threading.Lock()

    @property
    def capabilities(self) -> dict[str, Any]:
        """What the server can do: its model, "logprobs", "thinks". Asks it when first read.

        Raises:
            JudgeError: It is not there, refuses the key, or does not know the model.
        """
        if self._able is None:
            self._able = self._probe()
        return self._able

    @property
    def name(self) -> str:
        """With the version of the prompts' words."""
        return f"{self.capabilities['model']} at {self.base_url}, prompts {VERSION}"

    def probabilities(self, questions: Sequence[Question]) -> np.ndarray:
        return self._told([asked(question) for question in questions], _read)

    def strengths(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """The expected digit on each token, as much larger as 10 is than 9: one question for each."""
        tokens = [by_token(question) for question in questions]
        if not tokens:
            return []
        found = self._told([asked(one) for single in tokens for one in single], _read_digit)
        return np.split(found * (STRONGEST / 9), np.cumsum([len(single) for single in tokens])[:-1])

    def cannot(self, task: str) -> str:
        """Why it cannot do a task; "" where it can."""
        if task == "simulation" and not self.capabilities["logprobs"]:
            return f"{self.base_url} gives no logprobs"
        return ""

    def _told(self, prompts: Sequence[str], read: Callable[[dict[str, Any]], float]) -> np.ndarray:
        """What is read of the replies to questions; NaN where there is none."""
        from tqdm.auto import tqdm

        if not prompts:
            return np.zeros(0)
        able = self.capabilities
        bodies = [self._body(prompt, able) for prompt in prompts]
        found = np.full(len(bodies), np.nan)
        with (
            ThreadPoolExecutor(self._concurrency) as pool,
            tqdm(
                total=len(bodies), desc="judge", unit="answer", disable=hidden(self._verbose), delay=2.0
            ) as bar,
        ):
            try:
                for i, reply in enumerate(pool.map(self._reply_to, bodies)):
                    found[i] = float("nan") if reply is None else read(reply)
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if lost := int(np.isnan(found).sum()):
            self.usage["failed"] += lost
            warn(
                f"{lost} of {len(found)} questions to {self.base_url} have no answer that can be read; they are NaN."
            )
        return found

    # -- one question -------------------------------------------------------------------------

    def _body(self, prompt: str, able: dict[str, Any]) -> dict[str, Any]:
        body = {
            "model": able["model"], "messages": [{"role": "user", "content": prompt}], "temperature": 0,
            "max_tokens": _LONG if able["thinks"] else _SHORT, **able["settings"],
        }  # fmt: skip
        return {**body, "logprobs": True, "top_logprobs": _TOP} if able["logprobs"] else body

    def _reply_to(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """What was replied, now or before; None where nothing came that can be read."""
        key = _digest(body)
        reply = self._known.get(key)
        if reply is None and (reply := self._asked(body)) is not None:
            self._known.put(key, reply)
        return reply

    def _asked(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """What the server replied, as far as it counts; None where nothing came that can be read."""
        for number in range(self._retries + 1):
            status, given, wait = self._post(body)
            with self._lock:
                self.usage["asked"] += 1
                self.usage["repeated"] += number > 0
            if status == 200 and (reply := _reply(given)) is not None:
                self._count(given)
                return reply
            if status in _REFUSED:
                return None
            if number < self._retries:
                time.sleep(min(_LONGEST, _WAIT * 2**number if wait is None else wait))
        return None

    def _post(self, body: dict[str, Any]) -> tuple[int, Any, float | None]:
        """Status (0 where nothing came), what was sent, and how long to wait by `Retry-After`."""
        import httpx

        try:
            answer = self._client.post(f"{self.base_url}/chat/completions", json=body)
            wait = answer.headers.get("retry-after")
            return answer.status_code, _json(answer), None if wait is None else _seconds(wait)
        except httpx.HTTPError as error:
            return 0, f"{type(error).__name__}: {error}", None

    def _count(self, given: Any) -> None:
        used = given.get("usage") if isinstance(given, dict) else None
        if not isinstance(used, dict):
            return
        with self._lock:
            for mine, its in (("tokens_in", "prompt_tokens"), ("tokens_out", "completion_tokens")):
                if isinstance(used.get(its), int):
                    self.usage[mine] += used[its]

    # -- what it can do -----------------------------------------------------------------------

    def _probe(self) -> dict[str, Any]:
        """Asks one short question, with and without what not every server takes."""
        model = self._given or self._listed()
        prompt = "Answer with the digit 1.\nAnswer (1 or 0):"
        said = ""
        for settings in ({"chat_template_kwargs": {"enable_thinking": False}}, {}):
            for logprobs in (True, False):
                able = {"model": model, "logprobs": logprobs, "thinks": False, "settings": settings}
                status, given, _ = self._post(self._body(prompt, able))
                if status == 200 and (reply := _reply(given)) is not None:
                    has = bool(reply["top"])
                    empty = not without_thinking(reply["text"]) and not has
                    return {**able, "logprobs": has, "thinks": empty or "<think" in reply["text"]}
                said = f"status {status}: {str(given)[:200]}"
                if status in (0, 401, 403, 404):
                    raise JudgeError(self._refused(status, said, model))
        raise JudgeError(self._refused(0, said, model))

    def _refused(self, status: int, said: str, model: str) -> str:
        told = f"The judge at {self.base_url} cannot be used ({said})."
        if status in (401, 403):
            return f"{told} It wants another key: api_key=… or OPENAI_API_KEY."
        if status == 404:
            return f"{told} Does it know the model {model!r}? Give model=… as the server calls it."
        return f"{told} Is it running? Start one with: mlx_lm.server --model <model>, and give its base_url=…/v1."

    def _listed(self) -> str:
        """The first model that the server lists; "default_model" where it lists none, as mlx_lm.server takes it."""
        import httpx

        try:
            given = _json(self._client.get(f"{self.base_url}/models"))
            return str(given["data"][0]["id"])
        except (httpx.HTTPError, KeyError, IndexError, TypeError):
            return "default_model"


class _Known:
    """Answers by the digest of what was asked: a file with one line for each, written as they come."""

    def __init__(self, folder: Path | None):
        self._file = None if folder is None else folder / "answers.jsonl"
        self._answers: dict[str, Any] = {}
        self._lock = threading.Lock()
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._load(self._file)

    def _load(self, file: Path) -> None:
        if not file.is_file():
            return
        text = file.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):  # a killed run did not finish its last line; that is asked again
            with open(file, "r+b") as out:
                out.truncate(whole)
        lost = 0
        for line in text[:whole].splitlines():
            try:
                said = json.loads(line)
                self._answers[said["key"]] = said["reply"]
            except (ValueError, KeyError, TypeError):
                lost += 1
        if lost:
            warn(f"{lost} lines of {file} cannot be read; what they answered is asked again.")

    def get(self, key: str) -> Any:
        with self._lock:
            return self._answers.get(key)

    def put(self, key: str, reply: Any) -> None:
        with self._lock:
            self._answers[key] = reply
            if self._file is not None:
                with open(self._file, "a", encoding="utf-8") as out:
                    out.write(json.dumps({"key": key, "reply": reply}) + "\n")


def _client(key: str, timeout: float) -> Any:
    try:
        import httpx
    except ModuleNotFoundError as error:
        raise BackendError('OpenAIJudge needs httpx: pip install "mlxterp[judge]"') from error
    return httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=timeout)


def _json(answer: Any) -> Any:
    """What a server sent as JSON; its text where it is none."""
    try:
        return answer.json()
    except ValueError:
        return answer.text[:200]


def _reply(given: Any) -> dict[str, Any] | None:
    """The text and the likeliest first tokens of a reply; None where it has neither."""
    try:
        choice = given["choices"][0]
        text = choice["message"].get("content")
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    try:
        top = choice["logprobs"]["content"][0]["top_logprobs"]
    except (KeyError, IndexError, TypeError):
        top = []
    if not isinstance(text, str) and not top:
        return None
    return {"text": text if isinstance(text, str) else "", "top": top if isinstance(top, list) else []}


def _read(reply: dict[str, Any]) -> float:
    """By likelihoods of the first token, else by the words; its own choice is not looked at (some tell a wrong one)."""
    likely = from_logprobs(reply["top"])
    return parsed(reply["text"]) if np.isnan(likely) else likely


def _read_digit(reply: dict[str, Any]) -> float:
    """The digit expected by likelihoods of the first token."""
    return expected_digit(reply["top"])


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _seconds(given: str) -> float | None:
    try:
        return max(0.0, float(given))
    except ValueError:
        return None
