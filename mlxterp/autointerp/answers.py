"""Reading what a language model answers: a probability where the reply can be read, NaN where it cannot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_LABELLED = re.compile(r"answer\W{0,4}(?:is\W{1,3})?\b(1|0|yes|no)\b", re.IGNORECASE)
_ALONE = re.compile(r"(?<![\w.,-])(1|0|yes|no|true|false)(?![\w-]|[.,]\d)", re.IGNORECASE)
_YES = {"1", "yes", "true"}
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
