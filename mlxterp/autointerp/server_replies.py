"""What a server of OpenAI's protocol sends, and what of it counts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .answers import expected_digit, from_logprobs, list_likelihoods, parsed, parsed_list


def json_of(answer: Any) -> Any:
    """What a server sent as JSON; its text where it is none."""
    try:
        return answer.json()
    except ValueError:
        return answer.text[:200]


def reply_of(given: Any) -> dict[str, Any] | None:
    """Text, likeliest first tokens, likelihoods of all that may be answers, and counts; None where it has no text.

    Where all tokens went into thinking, some servers say it apart and send no text: that is an empty text.
    """
    try:
        choice = given["choices"][0]
        message = choice["message"]
        text = message.get("content")
        thought = message.get("reasoning") or message.get("reasoning_content")
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    tops = _tops(choice)
    if not isinstance(text, str) and not tops and not isinstance(thought, str):
        return None
    text = text if isinstance(text, str) else ""
    return {
        "text": text, "top": tops[0] if tops else [], "answers": list_likelihoods(tops), **_counts(given.get("usage"))
    }  # fmt: skip


def _tops(choice: Any) -> list[list[Any]]:
    """The likeliest tokens of each place, as far as they are told without a gap."""
    found: list[list[Any]] = []
    try:
        for place in choice["logprobs"]["content"]:
            if not isinstance(place["top_logprobs"], list) or not place["top_logprobs"]:
                break
            found.append(place["top_logprobs"])
    except (KeyError, IndexError, TypeError):
        pass
    return found


def _counts(used: Any) -> dict[str, int]:
    """The tokens that a server counted."""
    if not isinstance(used, dict):
        return {}
    pairs = (("tokens_in", "prompt_tokens"), ("tokens_out", "completion_tokens"))
    return {mine: used[its] for mine, its in pairs if isinstance(used.get(its), int)}


def sorted_tokens(top: Iterable[Any]) -> list[dict[str, Any]]:
    """The likeliest tokens, the likeliest first, whatever their order was."""
    good = [one for one in top if isinstance(one, dict) and isinstance(one.get("logprob"), (int, float))]
    return sorted(good, key=lambda one: -one["logprob"])


def read_one(reply: dict[str, Any], n: int = 1) -> np.ndarray:
    """By likelihoods of the first token, else by the words; its own choice is not looked at (some tell a wrong one)."""
    likely = from_logprobs(reply["top"])
    return np.full(n, parsed(reply["text"]) if np.isnan(likely) else likely)


def read_digit(reply: dict[str, Any], n: int = 1) -> np.ndarray:
    """The digit expected by likelihoods of the first token."""
    return np.full(n, expected_digit(reply["top"]))


def read_several(reply: dict[str, Any], n: int) -> np.ndarray:
    """The answers to n questions of one prompt: by likelihoods where these are the same answers, else by the words."""
    if n == 1:
        return read_one(reply)
    said, likely = parsed_list(reply["text"], n), np.array(reply.get("answers", []), dtype=np.float64)
    same = likely.shape == said.shape and bool(((likely > 0.5) == (said == 1)).all())
    return likely if same and np.isfinite(said).all() else said


def seconds_of(given: str) -> float | None:
    """What `Retry-After` says; None where it is no number."""
    try:
        return max(0.0, float(given))
    except ValueError:
        return None
