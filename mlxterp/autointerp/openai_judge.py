"""`OpenAIJudge`: any server of OpenAI's protocol (mlx_lm.server, LM Studio, Ollama, OpenAI) as judge and writer.

What is asked once is kept on disk, so that a run that was killed goes on without asking again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..core import checks
from ..core.places import path_of
from ..core.progress import hidden
from ..errors import BackendError, InputError, JudgeError, warn
from .answer_cache import AnswerCache, digest
from .answers import without_thinking
from .judges import STRONGEST, Question
from .prompts import VERSION, VERSION_TOGETHER, asked, asked_together, by_token, rendered
from .question_groups import groups, key_of
from .server_replies import json_of, read_digit, read_one, read_several, reply_of, seconds_of, sorted_tokens
from .writers import Asked, messages_of, numbered

_WAIT, _LONGEST = 0.5, 30.0
"""Seconds before the first repetition, doubled each time, and at most."""
_SHORT, _EACH, _LONG = 8, 6, 1024
"""Tokens of a reply; more for each window of several; of one that thinks aloud."""
_UNNAMED = "default_model"
"""What mlx_lm.server takes for the model that it was started with, whichever that is."""
_TOP = 10
"""Likeliest tokens that are asked for; mlx_lm.server gives at most eleven."""
_USAGE = (
    "asked", "repeated", "failed", "tokens_in", "tokens_out", "known", "known_tokens_in", "known_tokens_out",
)  # fmt: skip
_REFUSED = (400, 401, 403, 404, 405, 422)
"""What repeating does not change."""


class OpenAIJudge:
    """Asks a chat model on a server. By likelihoods where the server gives them, else by what the reply says.

    The first question finds out what the server can do (`capabilities`). Errors that pass are tried again; what stays
    without an answer is NaN, with one warning that counts them.

    Args:
        base_url: Such as "http://127.0.0.1:8080/v1"; None takes OPENAI_BASE_URL, else OpenAI's own.
        model: A name that the server knows; None takes the one that it was started with, or the first that it lists.
        api_key: None takes OPENAI_API_KEY.
        concurrency: Questions that are open at a time.
        cache: A folder for the answers; None keeps them in memory.
        timeout: Seconds for one reply.
        retries: Repetitions of a question that failed.
        verbose: Whether a bar shows how many are answered.
        windows_per_prompt: 1 asks of each window by itself. More asks of at most so many together in detection and
            fuzzing, numbered, for a fraction of the tokens. An answer may then depend on the windows beside its own and
            on where it stands; their order is drawn by `seed`, whatever order they are given in. A window whose answer
            is not in the reply is NaN, and all of a prompt are where the reply has more or fewer.
        seed: Of that order, in [0, 2**64).

    Raises:
        BackendError: httpx is not installed.
        InputError: A setting is none.

    Examples:
        judge = autointerp.OpenAIJudge("http://127.0.0.1:8080/v1", cache="answers")
        index.score(explanations, judge=judge)
        cheap = autointerp.OpenAIJudge("http://127.0.0.1:8080/v1", windows_per_prompt=10)
    """

    def __init__(
        self, base_url: str | None = None, model: str | None = None, api_key: str | None = None, *,
        concurrency: int = 8, cache: str | os.PathLike | None = None, timeout: float = 60.0, retries: int = 4,
        verbose: bool = True, windows_per_prompt: int = 1, seed: int = 0,
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
        self._most, self._seed = checks.count(windows_per_prompt, "windows_per_prompt"), checks.seed(seed)
        self._known = AnswerCache(None if cache is None else path_of(cache))
        self._client: Any = _client(self._key, self._timeout)
        self._able: dict[str, Any] | None = None
        self.usage: dict[str, int] = dict.fromkeys(_USAGE, 0)
        """What was asked of the server and the tokens that it counted; "known" came from the cache."""
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
        """With the version of the prompts' words, and how many windows a prompt has where these are several."""
        several = f", {self._most} windows a prompt {VERSION_TOGETHER}, order {self._seed}" * (self._most > 1)
        return f"{self.capabilities['model']} at {self.base_url}, prompts {VERSION}{several}"

    def prompts(self, questions: Sequence[Question]) -> list[str]:
        """What the server is asked for these questions, prompt by prompt; of a simulation, for the last token."""
        return [_shown(group) for group in self._groups(questions)]

    def probabilities(self, questions: Sequence[Question]) -> np.ndarray:
        if self._most == 1:
            return self._told([asked(question) for question in questions], read_one)
        several = self._groups(questions)
        found = self._told(
            [_asked(group) for group in several], read_several, [len(group) for group in several]
        )
        answers = dict(zip((key_of(one) for group in several for one in group), found, strict=True))
        return np.array([answers[key_of(question)] for question in questions])

    def _groups(self, questions: Sequence[Question]) -> list[list[Question]]:
        if self._most == 1:
            return [[question] for question in questions]
        return groups(questions, self._most, self._seed)

    def strengths(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """The expected digit on each token, as much larger as 10 is than 9: one question for each."""
        tokens = [by_token(question) for question in questions]
        if not tokens:
            return []
        found = self._told([asked(one) for single in tokens for one in single], read_digit)
        return np.split(found * (STRONGEST / 9), np.cumsum([len(single) for single in tokens])[:-1])

    def cannot(self, task: str) -> str:
        """Why it cannot do a task; "" where it can."""
        if task == "simulation" and not self.capabilities["logprobs"]:
            return f"{self.base_url} gives no logprobs"
        return ""

    def _told(
        self,
        prompts: Sequence[str],
        read: Callable[[dict[str, Any], int], np.ndarray],
        sizes: Sequence[int] = (),
    ) -> np.ndarray:
        """What is read of the replies to questions, of those to several one after the other; NaN where there is none.

        Args:
            sizes: Questions of each prompt; none for one each.
        """
        if not prompts:
            return np.zeros(0)
        able, many = self.capabilities, sizes or [1] * len(prompts)
        bodies = [self._body(prompt, able, n) for prompt, n in zip(prompts, many, strict=True)]
        replies = self._replies(bodies, [self._digest_of(body) for body in bodies], "judge")
        found = np.concatenate(
            [
                np.full(n, np.nan) if one is None else read(one, n)
                for one, n in zip(replies, many, strict=True)
            ]
        )
        hint = "; ask of fewer at a time (windows_per_prompt=)" if max(many) > 1 else ""
        self._tell_lost(int(np.isnan(found).sum()), len(found), f"they are NaN{hint}")
        return found

    def write(
        self, prompts: Sequence[Asked], max_tokens: int = 256, *, temperature: float = 0.0, seed: int = 0
    ) -> list[str | None]:
        """A text for each prompt, without what the model thought aloud; None where none came, or an empty one.

        Args:
            prompts: Text, `Prompt` values, or messages.
            max_tokens: Of each text; a model that thinks aloud gets 1024 more.
            temperature: 0 takes the likeliest token; a prompt given twice is then asked once. Above 0 each of several
                equal prompts is a request of its own, kept by itself.
            seed: Tells draws apart in the cache. The server is told none: mlx_lm.server would then answer one after the
                other.
        """
        if not prompts:
            return []
        able = self.capabilities
        warmth, most = checks.temperature(temperature), checks.count(max_tokens, "max_tokens")
        bodies = [
            {
                "model": able["model"], "messages": messages_of(prompt), "temperature": warmth,
                "max_tokens": most + (_LONG if able["thinks"] else 0), **able["settings"],
            }
            for prompt in prompts
        ]  # fmt: skip
        draws = numbered([digest(body) for body in bodies], warmth)
        more = {"seed": checks.seed(seed)} if warmth else {}
        keys = [self._digest_of(body, **more, draw=n) for body, n in zip(bodies, draws, strict=True)]
        replies = self._replies(bodies, keys, "write")
        found = [None if reply is None else without_thinking(reply["text"]) or None for reply in replies]
        self._tell_lost(sum(one is None for one in found), len(found), "they are None")
        return found

    # -- many at once -------------------------------------------------------------------------

    def _replies(self, bodies: Sequence[dict[str, Any]], keys: Sequence[str], what: str) -> list[Any]:
        """What the server replied to each, as far as it counts; equal keys are asked once."""
        from tqdm.auto import tqdm

        first = dict(zip(keys, bodies, strict=True))
        found: dict[str, Any] = {}
        with (
            ThreadPoolExecutor(self._concurrency) as pool,
            tqdm(total=len(first), desc=what, unit="answer", disable=hidden(self._verbose), delay=2.0) as bar,
        ):
            try:
                for key, reply in zip(first, pool.map(self._answer, first, first.values()), strict=True):
                    found[key] = reply
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [found[key] for key in keys]

    def _tell_lost(self, lost: int, n: int, what: str) -> None:
        if lost:
            self.usage["failed"] += lost
            warn(f"{lost} of {n} questions to {self.base_url} have no answer that can be read; {what}.")

    # -- one question -------------------------------------------------------------------------

    def _body(self, prompt: str, able: dict[str, Any], n: int = 1) -> dict[str, Any]:
        short = _SHORT if n == 1 else 2 * _SHORT + _EACH * n
        body = {
            "model": able["model"], "messages": [{"role": "user", "content": prompt}], "temperature": 0,
            "max_tokens": _LONG + short - _SHORT if able["thinks"] else short, **able["settings"],
        }  # fmt: skip
        return {**body, "logprobs": True, "top_logprobs": _TOP} if able["logprobs"] else body

    def _digest_of(self, body: dict[str, Any], **more: Any) -> str:
        """Of a request, and of what the model said to the first question where its name tells it from no other."""
        unnamed = {"said": self.capabilities["said"]} if body["model"] == _UNNAMED else {}
        return digest({**body, **unnamed, **more})

    def _answer(self, key: str, body: dict[str, Any]) -> Any:
        reply = self._known.get(key)
        if reply is not None:
            with self._lock:
                self.usage["known"] += 1
                for name in ("tokens_in", "tokens_out"):
                    self.usage[f"known_{name}"] += reply.get(name, 0)
            return reply
        reply = self._asked(body)
        if reply is not None:
            self._known.put(key, reply)
        return reply

    def _asked(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """What the server replied, as far as it counts; None where nothing came that can be read."""
        for number in range(self._retries + 1):
            status, given, wait = self._post(body)
            with self._lock:
                self.usage["asked"] += 1
                self.usage["repeated"] += number > 0
            if status == 200 and (reply := reply_of(given)) is not None:
                with self._lock:
                    for name in ("tokens_in", "tokens_out"):
                        self.usage[name] += reply.get(name, 0)
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
            return answer.status_code, json_of(answer), None if wait is None else seconds_of(wait)
        except httpx.HTTPError as error:
            return 0, f"{type(error).__name__}: {error}", None

    # -- what it can do -----------------------------------------------------------------------

    def _probe(self) -> dict[str, Any]:
        """What the first model can do that answers; see `_names`."""
        status, said, model = 0, "", ""
        for model in [self._given] if self._given else self._names():
            found = self._probed(model)
            if isinstance(found, dict):
                return found
            status, said = found
            if status != 404:
                break
        raise JudgeError(self._refused(status, said, model))

    def _probed(self, model: str) -> dict[str, Any] | tuple[int, str]:
        """Asks one short question, with and without what not every server takes; else the status, and what was said."""
        prompt = "Answer with the digit 1.\nAnswer (1 or 0):"
        status, told = 0, ""
        for settings in ({"chat_template_kwargs": {"enable_thinking": False}}, {}):
            for logprobs in (True, False):
                able = {"model": model, "logprobs": logprobs, "thinks": False, "settings": settings}
                status, given, _ = self._post(self._body(prompt, able))
                if status == 200 and (reply := reply_of(given)) is not None:
                    has = bool(reply["top"])
                    empty = not without_thinking(reply["text"]) and not has
                    thinks = empty or "<think" in reply["text"]
                    heard = [reply["text"], *(str(one.get("token")) for one in sorted_tokens(reply["top"]))]
                    return {**able, "logprobs": has, "thinks": thinks, "said": digest({"said": heard})}
                told = f"status {status}: {str(given)[:200]}"
                if status in (0, 401, 403, 404):
                    return status, told
        return 0, told

    def _refused(self, status: int, said: str, model: str) -> str:
        told = f"The judge at {self.base_url} cannot be used ({said})."
        if status in (401, 403):
            return f"{told} It wants another key: api_key=… or OPENAI_API_KEY."
        if status == 404:
            return f"{told} Does it know the model {model!r}? Give model=… as the server calls it."
        return f"{told} Is it running? Start one with: mlx_lm.server --model <model>, and give its base_url=…/v1."

    def _names(self) -> list[str]:
        """Models to try: the one that the server lists; of none or several, its unnamed one first.

        mlx_lm.server lists all that lie in the hub's folder before the one that it was started with, by its path.
        """
        import httpx

        try:
            given = json_of(self._client.get(f"{self.base_url}/models"))
            listed = [str(one["id"]) for one in given["data"]]
        except (httpx.HTTPError, KeyError, IndexError, TypeError):
            listed = []
        only = len(listed) == 1 and not os.path.isabs(listed[0])
        return listed if only else [_UNNAMED, *listed[:1]]


def _client(key: str, timeout: float) -> Any:
    try:
        import httpx
    except ModuleNotFoundError as error:
        raise BackendError('OpenAIJudge needs httpx: pip install "mlxterp[judge]"') from error
    return httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=timeout)


def _asked(group: Sequence[Question]) -> str:
    """The prompt of one question, or of several."""
    return asked(group[0]) if len(group) == 1 else asked_together(group)


def _shown(group: Sequence[Question]) -> str:
    return rendered(group[0]) if len(group) == 1 else asked_together(group)
