"""Reading what a language model answers: a probability where the reply can be read, NaN where it cannot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_LABELLED = re.compile(r"answer\W{0,4}(?:is\W{1,3})?\b(1|0|yes|no)\b", re.IGNORECASE)
_ALONE = re.compile(r"(?<![\w.,-])(1|0|yes|no|true|false)(?![\w-]|[.,]\d)", re.IGNORECASE)
_YES, _NO, _OPEN = {"1", "yes", "true"}, {"0", "no", "false"}, {"null", "none", "?", ""}
_FENCE = re.compile(r"^\s*```.*$", re.MULTILINE)
_LIST = re.compile(r"\[([^\[\]]*)(?:\]|\Z)")
_NUMBERED = re.compile(
    r"\W*(?:text\s*)?(\d{1,4})\W{0,2}(?:[:)=\]>|→]\W{0,3}|[.-]\s+)(1|0|yes|no|true|false)\W*", re.IGNORECASE
)
_TOLD = re.compile(r"^\W*answers?\b[^:\n]{0,40}:", re.IGNORECASE)
_WORDS = 12
"""A longer reply without "Answer: …" is prose, and counts as failed."""


def without_thinking(reply: str) -> str:
    """The reply without what a model thinks aloud, finished or not."""
    return _THOUGHT.sub("", reply).strip()


def parsed(reply: Any) -> float:
    """1.0 for yes, 0.0 for no; NaN where the reply says neither, or both."""
    if not isinstance(reply, str):
        return float("nan")
    said = without_thinking(reply).replace("(1 or 0)", "")  # the question's own end, said again
    labelled = _LABELLED.findall(said)
    if not labelled and len(said.split()) > _WORDS:
        return float("nan")
    found = {word.lower() in _YES for word in labelled or _ALONE.findall(said)}
    return float(found.pop()) if len(found) == 1 else float("nan")


def parsed_list(reply: Any, n: int) -> np.ndarray:
    """1.0 for yes, 0.0 for no, of n answers in their order; NaN where the reply says neither, or both.

    What counts is a list of n in brackets, else answers with their numbers, else n answers and nothing beside them. A
    list with more or fewer, or several that differ, says nothing of any, and so does one that holds other numbers.
    """
    nothing = np.full(n, np.nan)
    said = _FENCE.sub("", without_thinking(reply)) if isinstance(reply, str) else ""
    lists = {tuple(one) for inner in _LIST.findall(said) if len(one := _answers(inner)) == n}
    if lists:
        return np.array([np.nan if x is None else x for x in lists.pop()]) if len(lists) == 1 else nothing
    numbered = [(hit[1], hit[2]) for part in re.split(r"[\n,;]", said) if (hit := _NUMBERED.fullmatch(part))]
    if numbered:
        return _by_number(numbered, n)
    bare = _TOLD.sub("", said).strip(" \t\r\n.()*`")
    found = _answers(", ".join(bare) if re.fullmatch("[01]{2,}", bare) else bare)
    return np.array(found, dtype=np.float64) if len(found) == n and None not in found else nothing


def _by_number(pairs: Iterable[tuple[str, str]], n: int) -> np.ndarray:
    """Answers by their number; NaN where there is none, or two that differ, and all where a number is beyond n."""
    found: dict[int, set[float]] = {}
    for number, word in pairs:
        found.setdefault(int(number), set()).add(float(word.lower() in _YES))
    beyond = not found.keys() <= set(range(1, n + 1))
    several = [set() if beyond else found.get(number, set()) for number in range(1, n + 1)]
    return np.array([one.pop() if len(one) == 1 else np.nan for one in several])


def _answers(text: str) -> list[float | None]:
    """Answers that commas part, else white space, None for those left open; nothing where something else is there."""
    parts = text.strip(" \t\r\n,;").split(",") if "," in text else text.split()
    words = [part.strip(" \t\r\n\"'*`").lower() for part in parts]
    if not {*words} <= _YES | _NO | _OPEN or {*words} <= _OPEN:
        return []
    return [None if word in _OPEN else float(word in _YES) for word in words]


def list_likelihoods(tops: Iterable[Any]) -> list[float]:
    """P("1") / (P("1") + P("0")) at each place whose likeliest token is one of the two, in their order.

    Args:
        tops: The likeliest tokens of each place of a reply.
    """
    found = []
    for tokens in tops:
        likely = _likelihoods(tokens)
        best = max(likely, key=lambda pair: pair[1])[0] if likely else ""
        if best in ("1", "yes", "0", "no") and not np.isnan(p := from_logprobs(tokens)):
            found.append(p)
    return found


def from_logprobs(tokens: Iterable[Any]) -> float:
    """P("1") / (P("1") + P("0")) from the likeliest tokens of one place; NaN where neither is among them.

    Args:
        tokens: Dicts with "token" and "logprob", in any order, as `top_logprobs` has them.
    """
    likely = _likelihoods(tokens)
    yes = sum(p for word, p in likely if word in ("1", "yes"))
    no = sum(p for word, p in likely if word in ("0", "no"))
    return yes / (yes + no) if yes + no > 0 else float("nan")


def expected_digit(tokens: Iterable[Any]) -> float:
    """The digit expected by the likeliest tokens of one place, in [0, 9]; NaN where none of them is one."""
    likely = [(int(word), p) for word, p in _likelihoods(tokens) if re.fullmatch("[0-9]", word)]
    total = sum(p for _, p in likely)
    return sum(digit * p for digit, p in likely) / total if total > 0 else float("nan")


def _likelihoods(tokens: Iterable[Any]) -> list[tuple[str, float]]:
    """Words, in lower case and without marks of a tokenizer, and their probabilities; what is no such pair left out."""
    found = []
    for one in tokens if isinstance(tokens, Iterable) else ():
        if not isinstance(one, Mapping) or not isinstance(one.get("logprob"), (int, float)):
            continue
        if np.isnan(one["logprob"]):
            continue
        word = re.sub(r"[^\w]", "", str(one.get("token", "")).replace("Ġ", "").replace("▁", "")).lower()
        found.append((word, float(np.exp(min(0.0, float(one["logprob"]))))))
    return found
